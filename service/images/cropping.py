"""The part of a photo that a recipe inspects: cut out of the photo, and its map put back where it lay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Crop, InputSpec

# A share of pixels times their number is off by less: no row more than meant.
_ROUNDING = 1e-6
# Longest side of the map of a whole photo: what is kept and sent of a small crop of a large photo has an end.
_MOST_SIDE = 2048


@dataclass(frozen=True)
class PixelBox:
    """Pixels of an image."""

    x: int
    y: int
    width: int
    height: int

    @property
    def inside(self) -> tuple[slice, slice]:
        """The box of an array `(H, W, …)`."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


def box_of(crop: Crop | None, size: tuple[int, int]) -> PixelBox:
    """The inspected pixels of an image of `size` (H, W): each that the crop touches, at least one."""
    height, width = size
    if crop is None:
        return PixelBox(0, 0, width, height)
    x, right = _span(crop.left, crop.width, width)
    y, bottom = _span(crop.top, crop.height, height)
    return PixelBox(x, y, right - x, bottom - y)


def crop_of(box: PixelBox, size: tuple[int, int]) -> Crop:
    """A part of an image of `size` (H, W) in shares of it."""
    height, width = size
    return Crop(left=box.x / width, top=box.y / height, width=box.width / width, height=box.height / height)


def _span(start: float, length: float, pixels: int) -> tuple[int, int]:
    first = min(math.floor(start * pixels + _ROUNDING), pixels - 1)
    return first, min(max(math.ceil((start + length) * pixels - _ROUNDING), first + 1), pixels)


def cut(pixels: NDArray[Any], crop: Crop | None) -> NDArray[Any]:
    """The inspected part of an image `(H, W, …)`; nothing is copied."""
    return pixels if crop is None else pixels[box_of(crop, pixels.shape[:2]).inside]


def shape_of_whole(spec: InputSpec) -> tuple[int, int]:
    """(H, W) of what `whole_map` gives."""
    return _layout(spec)[0]


def whole_map(anomaly_map: NDArray[np.float32], spec: InputSpec) -> NDArray[np.float32]:
    """The map `(h, w)` of a crop as a part of the whole photo's, 0 where nobody looked.

    Where that would be large, pixels of the crop are taken together, and the hottest one counts.
    """
    if spec.crop is None:
        return anomaly_map
    shape, box, step = _layout(spec)
    whole = np.zeros(shape, np.float32)
    whole[box.inside] = _largest_of(anomaly_map, step)
    return whole


def inspected_part(whole: NDArray[np.float32], spec: InputSpec) -> NDArray[np.float32]:
    """The crop's part of a map that `whole_map` gave."""
    return whole if spec.crop is None else whole[_layout(spec)[1].inside]


def _layout(spec: InputSpec) -> tuple[tuple[int, int], PixelBox, int]:
    """(H, W) of the whole photo's map, the crop's box in it, and how many pixels of the crop's map are one there."""
    crop = spec.crop
    if crop is None:
        return (spec.height, spec.width), PixelBox(0, 0, spec.width, spec.height), 1
    step = math.ceil(max(spec.width / crop.width, spec.height / crop.height) / _MOST_SIDE)
    height, width = -(-spec.height // step), -(-spec.width // step)
    left, right = (round(width * share / crop.width) for share in (crop.left, 1 - crop.left - crop.width))
    top, bottom = (round(height * share / crop.height) for share in (crop.top, 1 - crop.top - crop.height))
    return (top + height + max(0, bottom), left + width + max(0, right)), PixelBox(left, top, width, height), step


def _largest_of(anomaly_map: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    if step == 1:
        return anomaly_map
    height, width = anomaly_map.shape
    # Beyond the border as at it.
    padded = np.pad(anomaly_map, ((0, -height % step), (0, -width % step)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step)
    largest: NDArray[np.float32] = blocks.max(axis=(1, 3))
    return largest
