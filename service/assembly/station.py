"""The station, put together on its foundation."""

from __future__ import annotations

from functools import partial

from service.assembly.counting import restored_counters
from service.assembly.devices import Devices
from service.assembly.parts import Parts
from service.assembly.trust import Trust
from service.http.context import Station, counted_as
from service.http.foundation import Foundation
from service.station.feed import Feed
from service.station.inspector import Inspector
from service.station.refusals import Refusals
from service.station.sampling import Sample
from service.station.triggers import Triggers


def build_station(foundation: Foundation, devices: Devices, trust: Trust, parts: Parts) -> Station:
    """A station whose recipes are still to be loaded."""
    settings, metrics, records = foundation.settings, foundation.metrics, foundation.records
    triggers = Triggers(records, hours=settings.trigger_hours)
    store = devices.recipes(settings, parts, trust, on_refused=triggers.distrust)
    counters = restored_counters(settings, metrics, records)
    feed = Feed()
    return Station(
        settings=settings,
        metrics=metrics,
        access=foundation.access,
        drain=foundation.drain,
        records=records,
        batcher=devices.batcher,
        recipes=store,
        decisions=trust.decisions,
        inspector=Inspector(devices.batcher, devices.codec, metrics, store.shadows),
        triggers=triggers,
        refusals=Refusals(records, counters, partial(counted_as, store), publish=feed.publish),
        counters=counters,
        feed=feed,
        sample=Sample(settings.sample_ok),
    )
