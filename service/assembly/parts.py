"""The parts that a station is built of besides its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from service.backends.base import Backend
from service.backends.opening import open_backend
from service.backends.trial import RUN_S
from service.station.batching import HUNG_S


@dataclass(frozen=True)
class Parts:
    """What opens a bundle's backend, and the seconds that the station's own clocks have; a test chooses others."""

    open_backend: Callable[..., Backend] = open_backend
    # Between two looks at which golden checks are due.
    check_every_s: float = 5.0
    # Between two looks at runs that hang.
    look_every_s: float = 1.0
    # After which a run counts as hung.
    hung_s: float = HUNG_S
    # That a run which hangs has left when the service ends.
    leave_s: float = 5.0
    # Without an image after which a model gives back what only runs need.
    idle_s: float = 300.0
    # That one run of a new bundle may take in its trial.
    trial_run_s: float = RUN_S
