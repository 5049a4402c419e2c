"""How a command ends: what a person can correct is a line on standard error, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

import httpx2

from service.backends.base import BackendError
from service.bundle.manifest import BundleError
from service.images.headers import ImageError
from training.errors import UserError
from training.loop.runs import InterruptedRunError

UNFIT = 3  # exit status of a training whose recipe misses too many rendered defects
INTERRUPTED = 130  # exit status of a training that was told to stop and saved its state


class QueueStoppedError(UserError):
    """A signal stopped the queue; the recipe under way has saved its state."""


def attempt(action: Callable[[], int]) -> int:
    """Exit status of what a command does: its own, 1 after an error, INTERRUPTED where it was told to stop."""
    try:
        return action()
    except (InterruptedRunError, QueueStoppedError) as error:
        print(error, file=sys.stderr)
        return INTERRUPTED
    except (UserError, BackendError, BundleError, ImageError, OSError, ValueError, httpx2.HTTPError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
