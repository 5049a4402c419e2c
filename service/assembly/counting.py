"""The counters of parts, with the counts from before a restart."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial

from service.settings import Settings
from service.station.counters import Counters
from service.station.database import RecordsError
from service.station.monitoring import Metrics
from service.station.records import Records
from service.station.shifts import read_shifts
from service.station.tallies import counted, counted_since


def restored_counters(settings: Settings, metrics: Metrics, records: Records | None) -> Counters:
    """Counters that go on where the records end; without them where the records cannot be read now."""
    counters = Counters(
        lambda recipe, code: metrics.not_inspected.labels(recipe, code).inc(), begins=read_shifts(settings.shifts)
    )
    if records is not None:
        with suppress(RecordsError):
            of_shift = partial(counted_since, since=counters.shift.since, until=time.time())
            counters.restore(records.ask(counted), records.ask(of_shift))
    return counters
