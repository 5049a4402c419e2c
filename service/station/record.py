"""What is put on record: one finished inspection, with what it takes to search for it, to show it and to repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.images.decoding import Pixels


@dataclass(frozen=True)
class Trigger:
    """What a line asks about: recipe, the line's own name for the part, sha256 of the image as it was sent."""

    recipe: str
    trigger_id: str
    sha256: str


@dataclass(frozen=True)
class Answer:
    """What a trigger got, at `given` (calendar.steady), for the image of `sha256`."""

    sha256: str
    given: float
    reply: dict[str, Any]


@dataclass(frozen=True)
class Record:
    """One finished inspection: the reply as it was sent (without image), and the image where it is to be kept.

    `image` is encoded bytes, bare pixels of a `layout` (width, height, pixel_format), or RGB uint8 `(H, W, 3)` that is
    encoded by the thread that writes; `anomaly_map` is float32 `(h, w)` and kept with it. `counted_as` is the recipe
    that the part counts for, `open` whether it waits for a review.
    """

    reply: dict[str, Any]
    time: float
    trigger: Trigger | None
    image: bytes | Pixels | None
    anomaly_map: NDArray[np.float32] | None = None
    layout: Mapping[str, Any] | None = None
    lot_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    brightness: float | None = None
    sharpness: float | None = None
    counted_as: str | None = None
    open: bool = False

    @property
    def inspection_id(self) -> str:
        return str(self.reply["inspection_id"])

    @property
    def size(self) -> int:
        """Bytes that its image takes in memory."""
        if self.image is None:
            return 0
        image = len(self.image) if isinstance(self.image, bytes) else self.image.nbytes
        return image + (0 if self.anomaly_map is None else self.anomaly_map.nbytes)

    @property
    def reasons(self) -> dict[str, dict[str, int]]:
        """Parts by recipe and reason that this record stands for: several where refusals were summed up."""
        if "refused" in self.reply:
            refused: dict[str, dict[str, int]] = self.reply["refused"]
            return refused
        return {self.recipe if self.counted_as is None else self.counted_as: {self.reason: 1}}

    @property
    def recipe(self) -> str:
        return str(self.reply["recipe"] or "")

    @property
    def reason(self) -> str:
        """Why the part was not inspected: the code of the problem, or the first fault; empty for others."""
        if self.reply["verdict"] != "NOT_INSPECTED":
            return ""
        faults = self.reply.get("faults") or [self.reply.get("code", "unfit")]
        return str(faults[0]).split(":")[0]
