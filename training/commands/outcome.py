"""How a command ends: with the bundle that it made, or with a line on standard error that a person can act on, never a
traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import httpx2

from service.backends.base import BackendError
from service.bundle.folder import Bundle
from service.bundle.manifest import BundleError
from service.images.headers import ImageError
from training.errors import UserError
from training.evaluation.evaluate import markdown
from training.evaluation.report import REPORT
from training.loop.jobs import INTERRUPTED, QueueStoppedError
from training.loop.runs import InterruptedRunError

UNFIT = 3  # exit status of a training whose recipe misses too many rendered defects


def attempt(action: Callable[[], int]) -> int:
    """Exit status of what a command does: its own, 1 after an error, INTERRUPTED where it was told to stop."""
    try:
        return action()
    except (InterruptedRunError, QueueStoppedError) as error:
        print(error, file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        print("stopped: run the same command again; what was finished before is kept", file=sys.stderr)
        return INTERRUPTED
    except (UserError, BackendError, BundleError, ImageError, OSError, ValueError, httpx2.HTTPError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def tell(bundle: Bundle) -> None:
    """Print where the bundle is, its thresholds and its figures."""
    manifest, thresholds = bundle.manifest, bundle.manifest.thresholds
    print(f"report {bundle.file(REPORT)}")
    print(f"bundle {bundle.path}: review {thresholds.review:.4f}, reject {thresholds.reject:.4f}")
    if thresholds.calibration.warning:
        print(f"warning: {thresholds.calibration.warning}")
    if manifest.metrics:
        print(markdown({manifest.recipe: manifest.metrics}))
    calibration = thresholds.calibration
    low, high = calibration.escape_interval
    print(
        f"rendered defects on held-out photos: {calibration.escapes} of {calibration.defect_images} pass as OK "
        f"(95 % interval {low:.0%} to {high:.0%})"
    )
    for before in manifest.training.after or []:
        print(f"version {before.version}, trained before with --seed {before.seed}, is unfit: {before.unfit}")
    if manifest.unfit:
        print(
            f"UNFIT: {manifest.unfit}. The service does not serve this version. Train again with more photos, another "
            "--seed or --method, or say --most-escapes",
            file=sys.stderr,
        )
