"""The life of a station: built when the service starts, checked while it runs, closed when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service.assembly.devices import Devices
from service.assembly.parts import Parts
from service.assembly.station import build_station
from service.assembly.trust import Trust
from service.assembly.upkeep import keep_checking, keep_device, load
from service.http.context import Station
from service.http.foundation import Foundation
from service.station.tracing import redact_spans


@asynccontextmanager
async def lifespan(foundation: Foundation, trust: Trust, parts: Parts, _: FastAPI) -> AsyncIterator[dict[str, Station]]:
    """The station on its foundation, for the state of each request; its recipes load in the background."""
    redact_spans()
    devices = Devices.of(foundation.settings, parts, foundation.metrics)
    station = build_station(foundation, devices, trust, parts)
    loading = asyncio.create_task(load(station, devices.trials))
    upkeep = (keep_checking(station, devices.trials, parts), keep_device(station, parts))
    checking = [asyncio.create_task(task) for task in upkeep]
    try:
        yield {"station": station}
    finally:
        station.drain.begin()
        for task in checking:
            task.cancel()
        station.refusals.sum_up()
        devices.trials.close()
        # Requests are over; a device that hangs must not take the time that the records need.
        if station.records:
            await asyncio.to_thread(station.records.close)
        # Before the recipes have loaded: ends that too, also where the device hangs in a golden image.
        await asyncio.to_thread(devices.batcher.close, parts.leave_s)
        await loading
        devices.codec.close()
        station.recipes.close()
