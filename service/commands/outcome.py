"""How a command ends: what a person can correct is a line on standard error, never a traceback."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable

import httpx2

from service.backends.base import BackendError
from service.bundle.manifest import BundleError
from service.flags import FlagError
from service.station.database import RecordsError
from service.station.decisions import DecisionError
from service.station.limits import LimitsError

_CORRIGIBLE = (
    *(FlagError, BackendError, BundleError, DecisionError, LimitsError, RecordsError, OSError, ValueError),
    *(httpx2.HTTPError, sqlite3.Error),
)


def attempt(action: Callable[[], int]) -> int:
    """Exit status of what a command does: its own, 2 after an error, 130 where Ctrl-C stopped it."""
    try:
        return action()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except _CORRIGIBLE as error:
        for line in str(error).splitlines() or [type(error).__name__]:
            print(f"error: {line}", file=sys.stderr)
        return 2
