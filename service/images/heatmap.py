"""Pictures and regions of an anomaly map, on a scale fixed by the pixel threshold: a good part never glows."""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from service.images.decoding import Pixels

MAX_REGIONS = 50
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


def find_regions(
    anomaly_map: NDArray[np.float32], threshold: float, image_size: tuple[int, int], *, min_area: int = 0
) -> list[Region]:
    """Regions of a map `(h, w)` (8 neighbours), largest first, at most 50; `image_size` is the image's (H, W).

    Regions of fewer than `min_area` pixels of the map are left out.
    """
    above = (anomaly_map >= threshold).astype(np.uint8)
    offset_x, offset_y, width, height = cv2.boundingRect(above)
    if width == 0:
        return []
    # Labelling costs more than all else that happens to a finished map: only where there is something.
    marked = np.s_[offset_y : offset_y + height, offset_x : offset_x + width]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(above[marked], connectivity=8)
    values = anomaly_map[marked]
    scale_y, scale_x = image_size[0] / anomaly_map.shape[0], image_size[1] / anomaly_map.shape[1]
    largest = sorted(range(1, count), key=lambda label: -int(stats[label, cv2.CC_STAT_AREA]))[:MAX_REGIONS]
    regions = []
    for label in largest:
        x, y, width, height, area = (int(value) for value in stats[label])
        if area < min_area:
            break
        inside = np.s_[y : y + height, x : x + width]
        peak = float(values[inside][labels[inside] == label].max())
        x, y = x + offset_x, y + offset_y
        left, top = int(x * scale_x), int(y * scale_y)
        regions.append(
            Region(
                x=left,
                y=top,
                width=min(image_size[1], round((x + width) * scale_x)) - left,
                height=min(image_size[0], round((y + height) * scale_y)) - top,
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


def draw_overlay(picture: Pixels, anomaly_map: NDArray[np.float32], threshold: float) -> Pixels:
    """A preview `(H, W, 3)` with the map on it.

    Half the pixel threshold and less is clear, the threshold itself is plainly visible, 1 is strongest; what is at or
    above the threshold is outlined.
    """
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
