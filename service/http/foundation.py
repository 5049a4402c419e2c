"""What is there before recipes load: metrics, keys, records. A fault in one of them ends the start with one line."""

from __future__ import annotations

from dataclasses import dataclass

from service.http.access import Access
from service.http.draining import Drain
from service.http.problems import PROBLEMS
from service.settings import Settings
from service.station.decisions import read_key
from service.station.monitoring import Metrics
from service.station.records import Records


@dataclass(kw_only=True)
class Foundation:
    settings: Settings
    metrics: Metrics
    access: Access
    drain: Drain
    records: Records | None


def lay_foundation(settings: Settings) -> Foundation:
    """Raises KeyFileError, RecordsError, and OSError or ValueError for a bad key to seal with."""
    metrics = Metrics(PROBLEMS)
    return Foundation(
        settings=settings,
        metrics=metrics,
        access=Access(settings.api_keys_file, local_admin=settings.local_admin, open_views=settings.open_views),
        drain=Drain(),
        records=_open_records(settings, metrics),
    )


def _open_records(settings: Settings, metrics: Metrics) -> Records | None:
    if settings.records_dir is None:
        return None
    return Records(
        settings.records_dir,
        image_budget_bytes=settings.record_images_mb * 1_000_000,
        days=settings.records_days,
        on_lost=metrics.records_lost.inc,
        on_image_lost=metrics.record_images_lost.inc,
        key=None if settings.seal_key is None else read_key(settings.seal_key),
    )
