"""Where a recipe looks: a region of interest and areas to ignore, as polygons or black-and-white pictures."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from service.images.decoding import read
from service.images.resizing import resize
from training.errors import UserError


class RegionError(UserError):
    """The region cannot be used; the message names the file."""


def keep_mask(interest: Path | None, ignore: Path | None, size: int) -> NDArray[np.bool_] | None:
    """`(size, size)` True where anomalies count: inside `interest` and outside `ignore`; None where everything counts.

    A region is a PNG (white is the region, any size) or a JSON list of polygons, each a list of [x, y] in 0..1 of
    width and height.
    """
    if interest is None and ignore is None:
        return None
    keep = np.ones((size, size), np.bool_)
    if interest is not None:
        keep &= _region(interest, size)
    if ignore is not None:
        keep &= ~_region(ignore, size)
    if not keep.any():
        raise RegionError(f"{interest or ignore}: nothing is left to inspect")
    return keep


def _region(file: Path, size: int) -> NDArray[np.bool_]:
    if file.suffix.lower() == ".json":
        return _polygons(file, size)
    return np.asarray(resize(read(file), size, size)[:, :, 0] > 127)


def _polygons(file: Path, size: int) -> NDArray[np.bool_]:
    try:
        polygons = [np.array(polygon, np.float64) for polygon in json.loads(file.read_text())]
    except (ValueError, TypeError) as error:
        raise RegionError(f"{file}: not a JSON list of polygons ({error})") from error
    canvas = np.zeros((size, size), np.uint8)
    for polygon in polygons:
        if (
            polygon.ndim != 2
            or polygon.shape[1] != 2
            or len(polygon) < 3
            or not (polygon >= 0).all()
            or polygon.max() > 1
        ):
            raise RegionError(f"{file}: a polygon is three or more [x, y] in 0..1 of width and height")
        cv2.fillPoly(canvas, [np.rint(polygon * size - 0.5).astype(np.int32)], 1)
    return canvas.astype(np.bool_)
