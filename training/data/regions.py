"""Where a recipe looks: a region of interest and areas to ignore, as polygons or black-and-white images."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Crop, InputSpec
from service.images.cropping import cut
from service.images.decoding import read
from service.images.resizing import resize_area
from training.errors import UserError


class RegionError(UserError):
    """The region cannot be used; the message names the file."""


def crop_around(interest: Path | None) -> Crop | None:
    """The smallest part of the photo that holds the region of interest; None where that is the whole photo."""
    if interest is None:
        return None
    if interest.suffix.lower() == ".json":
        points = np.concatenate(_polygons(interest))
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    else:
        white = _picture(interest)
        rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
        if not len(rows):
            raise RegionError(f"{interest}: nothing is left to inspect: no pixel of it is white")
        height, width = white.shape
        left, right = columns[0] / width, (columns[-1] + 1) / width
        top, bottom = rows[0] / height, (rows[-1] + 1) / height
    if not (right > left and bottom > top):
        raise RegionError(f"{interest}: nothing is left to inspect")
    whole = (left, top, right, bottom) == (0, 0, 1, 1)
    return None if whole else Crop(left=left, top=top, width=right - left, height=bottom - top)


def keep_mask(interest: Path | None, ignore: Path | None, spec: InputSpec) -> NDArray[np.bool_] | None:
    """`(H, W)` of what a recipe sees, True where anomalies count: inside `interest` and outside `ignore`; None where
    everything counts.

    A region is a PNG (white is the region, any size) or a JSON list of polygons, each a list of [x, y] in 0..1 of
    width and height; it is of the whole photo.
    """
    if interest is None and ignore is None:
        return None
    keep = np.ones((spec.height, spec.width), np.bool_)
    if interest is not None:
        keep &= _region(interest, spec)
    if ignore is not None:
        keep &= ~_region(ignore, spec)
    if not keep.any():
        raise RegionError(f"{interest or ignore}: nothing is left to inspect")
    return None if keep.all() else keep


def _region(file: Path, spec: InputSpec) -> NDArray[np.bool_]:
    if file.suffix.lower() != ".json":
        white = np.where(cut(_picture(file), spec.crop), 255, 0).astype(np.uint8)
        return np.asarray(resize_area(white, spec.height, spec.width) > 127)
    canvas = np.zeros((spec.height, spec.width), np.uint8)
    crop = spec.crop or Crop(left=0, top=0, width=1, height=1)
    for polygon in _polygons(file):
        inside = (polygon - (crop.left, crop.top)) / (crop.width, crop.height)
        cv2.fillPoly(canvas, [np.rint(inside * (spec.width, spec.height) - 0.5).astype(np.int32)], 1)
    return canvas.astype(np.bool_)


def _picture(file: Path) -> NDArray[np.bool_]:
    return np.asarray(read(file)[:, :, 0] > 127)


def _polygons(file: Path) -> list[NDArray[np.float64]]:
    try:
        polygons = [np.array(polygon, np.float64) for polygon in json.loads(file.read_text())]
    except (ValueError, TypeError) as error:
        raise RegionError(f"{file}: not a JSON list of polygons ({error})") from error
    for polygon in polygons:
        if (
            polygon.ndim != 2
            or polygon.shape[1] != 2
            or len(polygon) < 3
            or not (polygon >= 0).all()
            or polygon.max() > 1
        ):
            raise RegionError(f"{file}: a polygon is three or more [x, y] in 0..1 of width and height")
    if not polygons:
        raise RegionError(f"{file}: nothing is left to inspect: there is no polygon in it")
    return polygons
