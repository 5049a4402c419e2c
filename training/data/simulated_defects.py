"""Generic defects on photographs of any good part: validates and calibrates a model before real defects are known.

A model must not be judged on the anomalies it was trained on, so nothing here uses Perlin noise or a texture source
(the simulator of Zavrtanik et al. 2021, sec. 3.2). Sizes are log-uniform: small defects are as likely as large ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Mask = NDArray[np.bool_]  # (H, W)
Point = tuple[float, float]  # x, y in pixels
_Drawing = Callable[[Image, Point, float, np.random.Generator], Image]

_SMALLEST, _LARGEST = 5.0, 60.0  # pixels across, for an image whose shorter side is _REFERENCE
_REFERENCE = 256
_VISIBLE = 12  # grey levels in any channel: a fainter change is not called a defect
_PLAIN = 24  # grey levels by which a plain background may vary along the image's border
_MIN_PIXELS = 12
_TRIES = 60


class ImpossibleDefectError(ValueError):
    """This kind of defect cannot be seen on this image, such as a warp of a constant grey."""


def _outline(centre: Point, radius: float, rng: np.random.Generator, corners: int) -> NDArray[np.float64]:
    """(corners, 2) points of an irregular polygon about `centre`."""
    angles = (np.arange(corners) + rng.uniform(-0.35, 0.35, corners)) * 2 * np.pi / corners
    reach = radius * rng.uniform(0.6, 1.15, corners)
    # an elongated defect is as common as a round one
    squeeze, turn = rng.uniform(0.5, 1.0), rng.uniform(0, np.pi)
    x, y = reach * np.cos(angles), squeeze * reach * np.sin(angles)
    c, s = np.cos(turn), np.sin(turn)
    return np.stack([centre[0] + c * x - s * y, centre[1] + s * x + c * y], axis=1)


def _polygon(shape: tuple[int, ...], points: NDArray[np.float64]) -> NDArray[np.float32]:
    """(H, W) coverage in [0, 1] of an anti-aliased polygon."""
    canvas = np.zeros(shape[:2], np.uint8)
    cv2.fillPoly(canvas, [np.rint(points * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    return canvas.astype(np.float32) / np.float32(255)


def _blob(
    shape: tuple[int, ...], centre: Point, radius: float, softness: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """(H, W) coverage in [0, 1] of a smooth irregular spot fading over `softness` of its radius."""
    yy, xx = np.indices(shape[:2], dtype=np.float32)
    dx, dy = xx - centre[0], yy - centre[1]
    angle = np.arctan2(dy, dx)
    waves = sum(rng.normal(0, 0.28 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 6))
    inside = np.clip((1 - np.hypot(dx, dy) / (radius * np.maximum(1 + waves, 0.3))) / softness, 0, 1)
    return cast(NDArray[np.float32], (inside * inside * (3 - 2 * inside)).astype(np.float32))


def _blend(image: Image, target: NDArray[np.floating], opacity: NDArray[np.floating]) -> Image:
    mixed = image + opacity[..., None] * (target - image.astype(np.float32))
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _shade(rng: np.random.Generator, low: float, high: float) -> float:
    """A signed change of brightness in grey levels, darker or brighter with equal chance."""
    return float(rng.choice([-1, 1]) * rng.uniform(low, high))


def _scratch(image: Image, centre: Point, size: float, rng: np.random.Generator) -> Image:
    length = max(1.5 * size, 8.0)
    t = np.linspace(0, 1, max(int(3 * length), 8))
    heading = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.5) * (t - 0.5) + rng.normal(0, 0.4) * (t - 0.5) ** 2
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * length / len(t)
    path: NDArray[np.float64] = np.cumsum(steps, axis=0)
    path = path + np.array(centre) - path[len(t) // 2]
    radius = rng.uniform(0.5, 1.5) * np.sqrt(np.clip(4 * t * (1 - t), 0.1, 1))
    canvas = np.zeros(image.shape[:2], np.uint8)
    for (x, y), r in zip(path * 16, radius * 16, strict=True):
        cv2.circle(canvas, (round(x), round(y)), round(r), 255, -1, cv2.LINE_AA, shift=4)
    return _blend(image, image + np.float32(_shade(rng, 35, 110)), canvas / np.float32(255))


def _stain(image: Image, centre: Point, size: float, rng: np.random.Generator) -> Image:
    monochrome = bool((image == image[..., :1]).all())  # such a camera sees no coloured stains
    tint = rng.uniform(0.25, 0.75) * rng.uniform(0.75, 1.0, 1 if monochrome else 3)
    opacity = rng.uniform(0.45, 0.85) * _blob(image.shape, centre, size / 2, rng.uniform(0.25, 0.8), rng)
    return _blend(image, image * tint, opacity)


def _cut_paste(image: Image, centre: Point, size: float, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    source = rng.uniform(0, width), rng.uniform(0, height)
    turn = np.asarray(cv2.getRotationMatrix2D(source, rng.uniform(0, 360), rng.uniform(0.9, 1.1)), np.float64)
    turn[:, 2] += np.subtract(centre, source)
    moved = cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    jittered = moved * rng.uniform(0.85, 1.15) + rng.uniform(-8, 8)
    return _blend(image, jittered, _polygon(image.shape, _outline(centre, size / 2, rng, int(rng.integers(5, 12)))))


def _missing(image: Image, centre: Point, size: float, rng: np.random.Generator) -> Image:
    coverage = _polygon(image.shape, _outline(centre, size / 2, rng, 9))
    if rng.random() < 0.5:
        border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        grain = rng.normal(0, 2, (*image.shape[:2], 1))
        return _blend(image, np.median(border, axis=0) + grain, coverage)
    return cv2.inpaint(image, (coverage > 0).astype(np.uint8), 3, cv2.INPAINT_TELEA).astype(np.uint8)


def _warp(image: Image, centre: Point, size: float, rng: np.random.Generator) -> Image:
    reach = size / 2 + 3  # a field that fades to nothing at its rim looks smaller than it is
    yy, xx = np.indices(image.shape[:2], dtype=np.float32)
    dx, dy = xx - centre[0], yy - centre[1]
    weight = np.maximum(1 - (dx * dx + dy * dy) / reach**2, 0) ** 2
    swirl, bulge = (_shade(rng, 0.7, 2.2), 0.0) if rng.random() < 0.5 else (0.0, _shade(rng, 0.4, 0.8))
    c, s, grow = np.cos(swirl * weight), np.sin(swirl * weight), 1 - bulge * weight
    map_x = (centre[0] + grow * (c * dx - s * dy)).astype(np.float32)
    map_y = (centre[1] + grow * (s * dx + c * dy)).astype(np.float32)
    moved = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.where((weight > 0)[..., None], moved, image).astype(np.uint8)


def _spots(image: Image, centre: Point, size: float, rng: np.random.Generator) -> Image:
    coverage = np.zeros(image.shape[:2], np.float32)
    for _ in range(int(rng.integers(2, 4 + int(size / 6)))):
        place = rng.normal(centre, size / 4)
        radius = rng.uniform(1.5, 4.0)
        spot = _polygon(image.shape, _outline((float(place[0]), float(place[1])), radius, rng, 8))
        coverage = np.maximum(coverage, spot * np.float32(rng.uniform(0.7, 1.0)))
    return _blend(image, image + np.float32(_shade(rng, 40, 120)), coverage)


def _border(image: Image, centre: Point, size: float, rng: np.random.Generator) -> Image:
    draw = (_stain, _cut_paste, _missing, _scratch)[int(rng.integers(4))]
    return draw(image, centre, size, rng)


_DRAWINGS: dict[str, _Drawing] = {
    "scratch": _scratch,
    "stain": _stain,
    "cut_paste": _cut_paste,
    "missing": _missing,
    "warp": _warp,
    "spots": _spots,
    "border": _border,
}
KINDS = tuple(_DRAWINGS)


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
    if kind not in _DRAWINGS:
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
        size = scale * (across or np.exp(rng.uniform(np.log(_SMALLEST), np.log(_LARGEST))))
        drawn = _DRAWINGS[kind](image, (float(columns[place]), float(rows[place])), float(size), rng)
        mask = _changed(image, drawn)
        if _largest_piece(mask) >= _MIN_PIXELS and (kind != "border" or (mask & rim).any()):
            return drawn, mask
    raise ImpossibleDefectError(f"{_TRIES} attempts at a {kind} defect left this image visibly unchanged")


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
