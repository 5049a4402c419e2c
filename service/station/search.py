"""What is asked for of the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.station.verdicts import Verdict


@dataclass(frozen=True)
class Search:
    """What is asked for; None and empty ask for nothing. A name that ends in `*` is a beginning."""

    part_id: str | None = None
    camera: str | None = None
    recipe: str | None = None
    version: str | None = None
    verdicts: Sequence[Verdict] = ()
    lot: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    reviewed: bool | None = None
    open: bool | None = None
    after: float | None = None
    before: float | None = None
