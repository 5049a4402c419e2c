"""Images and regions of an anomaly map, on a scale fixed by the pixel threshold: a good part never glows.

Whatever the thresholds are, and whoever changed them: a part that is OK has no region and no heat, and one that is not
has a region.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Crop
from service.images.cropping import PixelBox, box_of, cut
from service.images.decoding import Pixels

MAX_REGIONS = 50
# What is hot on a part that is not OK although nothing reaches the pixel threshold: this share of its largest value.
_OF_LARGEST = 0.8
# Of the brightness of what is not inspected, on an overlay.
_DIMMED = 0.5
# Longest side of an overlay: a screen shows no more, and the reply stays small.
MAX_SIDE = 1024

_INFERNO = cv2.applyColorMap(np.arange(256, dtype=np.uint8).reshape(-1, 1), cv2.COLORMAP_INFERNO)[:, 0, ::-1]


@dataclass(frozen=True)
class Region:
    """A connected part of the map at or above the pixel threshold, in pixels of the image that was sent."""

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float


def hot_from(anomaly_map: NDArray[np.float32], verdict: str, pixel: float) -> float | None:
    """The value from which a part's map is hot; None where nothing is, for the part is OK.

    The pixel threshold, or less where a part that is REVIEW or NG would be left without a region: a score is a mean of
    the map in some formulas, and limits are changed by people.
    """
    if verdict == "OK":
        return None
    if verdict == "NOT_INSPECTED":
        return pixel
    return min(pixel, _OF_LARGEST * float(anomaly_map.max(initial=0.0)))


def find_regions(
    anomaly_map: NDArray[np.float32], threshold: float | None, inspected: PixelBox, *, min_area: int = 0
) -> list[Region]:
    """Regions of a map `(h, w)` (8 neighbours), largest first, at most 50; none without a threshold.

    `inspected` are the image's pixels that the map is of. Regions of fewer than `min_area` pixels of the map are left
    out, unless all are: then the largest stays.
    """
    if threshold is None:
        return []
    above = (anomaly_map >= threshold).astype(np.uint8)
    offset_x, offset_y, width, height = cv2.boundingRect(above)
    if width == 0:
        return []
    # Labelling costs more than all else that happens to a finished map: only where there is something.
    marked = np.s_[offset_y : offset_y + height, offset_x : offset_x + width]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(above[marked], connectivity=8)
    values = anomaly_map[marked]
    scale_y, scale_x = inspected.height / anomaly_map.shape[0], inspected.width / anomaly_map.shape[1]
    largest = sorted(range(1, count), key=lambda label: -int(stats[label, cv2.CC_STAT_AREA]))[:MAX_REGIONS]
    regions: list[Region] = []
    for label in largest:
        x, y, width, height, area = (int(value) for value in stats[label])
        if area < min_area and regions:
            break
        inside = np.s_[y : y + height, x : x + width]
        peak = float(values[inside][labels[inside] == label].max())
        x, y = x + offset_x, y + offset_y
        left, top = int(x * scale_x), int(y * scale_y)
        regions.append(
            Region(
                x=inspected.x + left,
                y=inspected.y + top,
                width=min(inspected.width, round((x + width) * scale_x)) - left,
                height=min(inspected.height, round((y + height) * scale_y)) - top,
                area=round(area * scale_x * scale_y),
                peak=peak,
            )
        )
    return regions


def preview(image: Pixels) -> Pixels:
    """The image `(H, W, 3)`, scaled down where its longer side has more than 1024 pixels."""
    scale = MAX_SIDE / max(image.shape[:2])
    if scale >= 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def draw_overlay(
    picture: Pixels, anomaly_map: NDArray[np.float32], threshold: float | None, inspected: Crop | None = None
) -> Pixels:
    """A preview `(H, W, 3)` with the map of the whole photo on it; what is not inspected is dimmed, and never hot.

    Half the threshold and less is clear, the threshold itself is plainly visible, 1 is strongest; what is at or above
    the threshold is outlined. Without a threshold nothing is hot.
    """
    if inspected is None:
        return picture if threshold is None else _heated(picture, anomaly_map, threshold)
    inside = box_of(inspected, picture.shape[:2]).inside
    out = np.asarray(picture * _DIMMED, np.uint8)
    out[inside] = draw_overlay(picture[inside], cut(anomaly_map, inspected), threshold)
    return out


def _heated(picture: Pixels, anomaly_map: NDArray[np.float32], threshold: float) -> Pixels:
    values = cv2.resize(anomaly_map, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    strength = np.interp(values, (threshold / 2, threshold, 1.0), (0.0, 0.33, 1.0))
    colors = _INFERNO[(80 + 175 * strength).astype(np.uint8)]
    opacity = np.minimum(strength * 2, 0.65)[..., None]
    blended = picture + (colors - picture.astype(np.float32)) * opacity
    out = np.asarray(np.rint(blended), np.uint8)
    contours, _ = cv2.findContours((values >= threshold).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(out, contours, -1, (255, 64, 64), max(1, round(max(picture.shape) / 400)), cv2.LINE_AA)
    return out


def draw_map(anomaly_map: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The map `(h, w)` as gray values: 0 is 0, 255 is 1."""
    return np.asarray(np.rint(anomaly_map * 255), np.uint8)


def to_npy(anomaly_map: NDArray[np.float32]) -> bytes:
    """The map as a NumPy .npy file, float32 `(h, w)`."""
    buffer = io.BytesIO()
    np.save(buffer, anomaly_map, allow_pickle=False)
    return buffer.getvalue()
