"""Generic defects on photographs of any good part: validates and calibrates a model before real defects are known.

A model must not be judged on the anomalies it was trained on, so what is drawn
(`drawings.py`) shares nothing with the simulators. Sizes are log-uniform: small defects are as likely as large ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.drawings import DRAWINGS, Image

Mask = NDArray[np.bool_]  # (H, W)

KINDS = tuple(DRAWINGS)
_REFERENCE = 256  # shorter side of the image that sizes are told for
_SIZES = (5.0, 60.0)  # pixels across
_SIZES_OF = {"cloud": (30.0, 90.0), "blur": (14.0, 60.0)}  # smaller ones would be stains, and seen by nobody
_VISIBLE = 12  # grey levels in any channel: a fainter change is not called a defect
_PLAIN = 24  # grey levels by which a plain background may vary along the image's border
_MIN_PIXELS = 12
_TRIES = 60


class ImpossibleDefectError(ValueError):
    """This kind of defect cannot be seen on this image, such as a warp of a constant grey."""


def _rim(shape: tuple[int, ...]) -> Mask:
    rim = np.ones(shape[:2], np.bool_)
    rim[1:-1, 1:-1] = False
    return rim


def _changed(before: Image, after: Image) -> Mask:
    # slightly out of focus, grain that merely moved cancels out: the eye does not call it a defect either
    seen = cv2.absdiff(cv2.GaussianBlur(before, (0, 0), 1), cv2.GaussianBlur(after, (0, 0), 1)).max(axis=2) > _VISIBLE
    mask = (seen & (before != after).any(axis=2)).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    return cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel).astype(np.bool_)


def _largest_piece(mask: Mask) -> int:
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return int(stats[1:, cv2.CC_STAT_AREA].max(initial=0))


def apply(
    image: Image,
    kind: str,
    rng: np.random.Generator,
    foreground: Mask | None = None,
    *,
    across: float | None = None,
) -> tuple[Image, Mask]:
    """A copy of `image` with one defect, and the mask of what visibly changed.

    The defect's centre lies in `foreground`; a "border" defect's centre also lies on the image's edge. `across` is its
    size in pixels of an image of 256x256; drawn without it.
    """
    if kind not in DRAWINGS:
        raise ValueError(f"unknown kind of defect {kind!r}: choose one of {', '.join(KINDS)}")
    allowed = np.ones(image.shape[:2], np.bool_) if foreground is None else foreground
    if allowed.shape != image.shape[:2]:
        raise ValueError(f"foreground is {allowed.shape} but the image is {image.shape[:2]}")
    rim = _rim(image.shape)
    rows, columns = np.nonzero(allowed & rim if kind == "border" else allowed)
    if len(rows) == 0:
        raise ImpossibleDefectError(f"the foreground leaves no place for a {kind} defect")
    scale = min(image.shape[:2]) / _REFERENCE
    for _ in range(_TRIES):
        place = rng.integers(len(rows))
        size = scale * (across or np.exp(rng.uniform(*np.log(_SIZES_OF.get(kind, _SIZES)))))
        drawn = DRAWINGS[kind](image, (float(columns[place]), float(rows[place])), float(size), rng)
        mask = _changed(image, drawn)
        if _largest_piece(mask) >= _MIN_PIXELS and (kind != "border" or (mask & rim).any()):
            return drawn, mask
    raise ImpossibleDefectError(f"{_TRIES} attempts at a {kind} defect left this image visibly unchanged")


def part_masks(photos: Sequence[Image]) -> list[Mask | None]:
    """The part's place on each photo; None where it cannot be told from the background.

    Each photo's own first: parts may lie in any direction. What all share stands in where one photo's own is unclear.
    """
    shared = foreground_mask(photos)
    return [shared if (own := foreground_mask([photo])) is None else own for photo in photos]


def foreground_mask(images: Sequence[Image]) -> Mask | None:
    """The part's place, common to aligned photographs; None where there is no plain background around a part."""
    typical = np.median(np.stack(images[:32]), axis=0)
    rim = _rim(typical.shape)
    distance = np.abs(typical - np.median(typical[rim], axis=0)).max(axis=2)
    unevenness = float(np.quantile(distance[rim], 0.99))
    if unevenness > _PLAIN:
        return None
    differs = (distance > max(_VISIBLE, 1.5 * unevenness)).astype(np.uint8)
    outlines, _ = cv2.findContours(differs, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return None
    part = cv2.drawContours(np.zeros_like(differs), [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return part.astype(np.bool_) if 0.05 < part.mean() < 0.9 else None
