"""How fast images leave the station, whatever holds them up: a device, a decoder, or the way between their threads.

What one stage knows of its own queue is too little where the cores are the bottleneck that all of them share: each
stage would take an image that the next one has no time for, and the work on it is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.station.batching import OverloadedError
from service.station.verdicts import DeadlinePassedError

# Weight of the newest image in the running estimate of seconds between two that leave.
_NEWEST = 0.1
# No more than so many times the estimate: one stall is no pace.
_MOST = 4.0
# Waiting takes this much longer than estimated: an answer that is a little late is worth nothing.
_CAUTION = 1.2


class Pace:
    """Used from one event loop; deadlines are on `clock`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._inside = 0
        self._seconds = 0.0
        self._left = clock()

    def admit(self, deadline: float) -> None:
        """Raises OverloadedError where an image that came now would leave too late. One that is alone is tried."""
        if not self._inside:
            return
        takes = _CAUTION * (self._inside + 1) * self._seconds
        late = self._clock() + takes - deadline
        if late > 0:
            raise OverloadedError(
                f"{self._inside} images are being inspected, which takes {1000 * takes:.0f} ms with this one: "
                f"{1000 * late:.0f} ms more than are left",
                late,
            )

    @contextmanager
    def inside(self, count: int) -> Iterator[None]:
        """While the block lasts `count` images are inspected; where it ends well they left with a verdict."""
        entered = self._clock()
        self._inside += count
        among = self._inside
        try:
            yield
        except (asyncio.CancelledError, DeadlinePassedError):
            # So many did not leave in that time, however few of them did: without it nothing would be learned where
            # all are late.
            self._learn(max(self._seconds, (self._clock() - entered) / among))
            raise
        else:
            now = self._clock()
            way = (now - entered) / count
            # Where nobody was before it an image says how long its way is, not how fast others follow: no less fast.
            # An estimate that lets one in at a time would never be corrected by another.
            if self._left > entered:
                self._learn((now - self._left) / count)
            elif among == count and way < self._seconds:
                self._learn(way)
            self._left = now
        finally:
            self._inside -= count

    def _learn(self, seconds: float) -> None:
        if self._seconds:
            self._seconds += _NEWEST * (min(seconds, _MOST * self._seconds) - self._seconds)
        else:
            self._seconds = seconds
