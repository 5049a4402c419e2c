"""The station: built when the service starts, closed when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from service.assembly.counting import restored_counters
from service.assembly.devices import Devices
from service.assembly.parts import Parts
from service.assembly.trust import Trust
from service.assembly.upkeep import keep_checking, keep_device, load
from service.http.context import Station, counted_as
from service.http.foundation import Foundation
from service.station.feed import Feed
from service.station.inspector import Inspector
from service.station.refusals import Refusals
from service.station.sampling import Sample
from service.station.tracing import redact_spans
from service.station.triggers import Triggers


@asynccontextmanager
async def lifespan(foundation: Foundation, trust: Trust, parts: Parts, _: FastAPI) -> AsyncIterator[dict[str, Station]]:
    """The station on its foundation, for the state of each request; its recipes load in the background."""
    redact_spans()
    settings, metrics, records = foundation.settings, foundation.metrics, foundation.records
    devices = Devices.of(settings, parts, metrics)
    triggers = Triggers(records, hours=settings.trigger_hours)
    store = devices.recipes(settings, parts, trust, on_refused=triggers.distrust)
    counters = restored_counters(settings, metrics, records)
    feed = Feed()
    refusals = Refusals(records, counters, partial(counted_as, store), publish=feed.publish)
    station = Station(
        settings=settings,
        metrics=metrics,
        access=foundation.access,
        drain=foundation.drain,
        records=records,
        batcher=devices.batcher,
        recipes=store,
        inspector=Inspector(devices.batcher, devices.codec, metrics, store.shadows),
        triggers=triggers,
        refusals=refusals,
        counters=counters,
        feed=feed,
        sample=Sample(settings.sample_ok),
    )
    loading = asyncio.create_task(load(station, devices.trials))
    upkeep = (keep_checking(station, devices.trials, parts), keep_device(station, parts))
    checking = [asyncio.create_task(task) for task in upkeep]
    try:
        yield {"station": station}
    finally:
        station.drain.begin()
        for task in checking:
            task.cancel()
        refusals.sum_up()
        devices.trials.close()
        # Requests are over; a device that hangs must not take the time that the records need.
        if records:
            await asyncio.to_thread(records.close)
        # Before the recipes have loaded: ends that too, also where the device hangs in a golden image.
        await asyncio.to_thread(devices.batcher.close, parts.leave_s)
        await loading
        devices.codec.close()
        store.close()
