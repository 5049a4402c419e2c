"""What is done once the answer to an inspection goes out: it is counted, recorded, shown and logged."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from service.http.context import Station
from service.http.replies import stored
from service.images.decoding import Pixels
from service.images.heatmap import hot_from
from service.station.counting import count
from service.station.feed import View
from service.station.inspection import Inspection
from service.station.record import Record, Trigger
from service.station.verdicts import Verdict

log = logging.getLogger("draem_inspect")

_LOGGED = ("inspection_id", "request_id", "part_id", "camera_id", "recipe", "version", "verdict", "score")


@dataclass(frozen=True)
class Given:
    """An inspection and the reply to it; `image` is what is kept of its image, bare pixels with their `layout`."""

    inspection: Inspection
    reply: dict[str, Any]
    image: bytes | Pixels
    trigger: Trigger | None
    layout: Mapping[str, Any] | None
    _: KW_ONLY
    camera: str | None
    lot: str | None
    metadata: Mapping[str, str]

    def settle(self, station: Station) -> None:
        count(self.inspection, station.metrics, station.counters)
        record = stored(self.reply)
        now = time.time()
        if station.records is not None:
            doubtful = self.inspection.verdict is not Verdict.OK or station.sample.take()
            keep = {"none": False, "failed": doubtful, "all": True}[station.settings.record_images]
            station.records.add(
                Record(
                    record,
                    now,
                    self.trigger,
                    self.image if keep else None,
                    anomaly_map=self.inspection.anomaly_map if keep else None,
                    layout=self.layout,
                    lot_id=self.lot,
                    metadata=self.metadata,
                    brightness=self.inspection.quality.brightness,
                    sharpness=self.inspection.quality.sharpness,
                    open=doubtful,
                )
            )
        recipe = self.inspection.recipe
        hot = hot_from(self.inspection.anomaly_map, self.inspection.verdict, recipe.limits.thresholds.pixel)
        view = View(self.image, self.inspection.anomaly_map, hot, recipe.bundle.manifest.input.crop, self.layout)
        seen = {"camera_id": self.camera, "lot_id": self.lot, "metadata": self.metadata}
        station.feed.publish(record | seen | {"time": now}, view)
        log.info(
            "inspected",
            extra={name: record[name] for name in _LOGGED} | {"total_ms": self.reply["timings_ms"]["total"]},
        )
