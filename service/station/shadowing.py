"""The shadow version: it sees what the one in service sees, without a say, and nothing waits for it."""

from __future__ import annotations

import asyncio
import time

from service.backends.base import BackendError
from service.station.batching import Batcher, ClosedError, OverloadedError
from service.station.monitoring import Metrics
from service.station.preparing import Picture
from service.station.verdicts import DeadlinePassedError, Evidence, UntrustedResultError, Verdict, judge

# Seconds that a shadow inspection may take; nothing waits for it.
_SHADOW_S = 5.0


class Shadowing:
    """Counts the verdicts of shadow versions beside those that were given."""

    def __init__(self, batcher: Batcher, metrics: Metrics) -> None:
        self._batcher = batcher
        self._metrics = metrics
        self._comparing: set[asyncio.Task[None]] = set()

    def compare(self, picture: Picture, verdict: Verdict) -> None:
        """Ask the shadow version, if there is one, after the fact and only while nobody waits for the device."""
        if picture.shadow is None or self._batcher.depth:
            return
        shadow, image = picture.shadow
        if image is None:
            self._metrics.shadow.labels(shadow.name, verdict, Verdict.NOT_INSPECTED).inc()
            return

        async def ask() -> None:
            deadline = time.monotonic() + _SHADOW_S
            try:
                result = await asyncio.wrap_future(self._batcher.submit(shadow.model, image, deadline))
                evidence = Evidence(
                    result.scored.anomaly_map, result.scored.score, picture.faults, deadline, time.monotonic()
                )
                other = judge(evidence, shadow.limits.thresholds, shadow.shape)
            except (OverloadedError, ClosedError, DeadlinePassedError, UntrustedResultError, BackendError):
                other = Verdict.NOT_INSPECTED
            self._metrics.shadow.labels(shadow.name, verdict, other).inc()

        task = asyncio.create_task(ask())
        # The event loop itself keeps no task alive.
        self._comparing.add(task)
        task.add_done_callback(self._comparing.discard)
