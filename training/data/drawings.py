"""What rendered defects look like: a drawing of each kind, on any photograph.

None uses Perlin noise, a texture or a piece of a photo: training simulates anomalies of these, and a model must not be
judged by what it was trained on. Contrast is from just visible to strong, weak as likely as strong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Point = tuple[float, float]  # x, y in pixels
Drawing = Callable[[Image, Point, float, np.random.Generator], Image]
_Path = NDArray[np.float64]  # (n, 2), x and y

_COLOURED_BY = 3  # grey levels between channels that are no colour
_COLOURED_SHARE = 0.001  # of the pixels


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
    """A signed change, darker or brighter with equal chance, as often in any octave between `low` and `high`."""
    return float(rng.choice([-1, 1]) * np.exp(rng.uniform(np.log(low), np.log(high))))


def _monochrome(image: Image) -> bool:
    """Whether the camera sees no colour; then neither stains nor foreign bodies have one."""
    return bool((np.ptp(image, axis=2) > _COLOURED_BY).mean() < _COLOURED_SHARE)


def _wander(centre: Point, length: float, rng: np.random.Generator, bend: float) -> _Path:
    """A path through `centre` whose heading changes by about `bend` radians a step of two thirds of a pixel."""
    n = max(int(1.5 * length), 12)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend, n))
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * length / n
    return _through(centre, np.cumsum(steps, axis=0))


def _through(centre: Point, path: _Path) -> _Path:
    """`path` moved so that its middle lies at `centre`."""
    moved: _Path = path - path[len(path) // 2] + np.array(centre)
    return moved


def _stroke(shape: tuple[int, ...], path: _Path, radius: float | NDArray[np.float64]) -> NDArray[np.float32]:
    """(H, W) coverage in [0, 1] of a line along `path`."""
    canvas = np.zeros(shape[:2], np.uint8)
    for (x, y), r in zip(path * 16, np.broadcast_to(radius, len(path)) * 16, strict=True):
        cv2.circle(canvas, (round(x), round(y)), round(r), 255, -1, cv2.LINE_AA, shift=4)
    return canvas.astype(np.float32) / np.float32(255)


def _scratch(image: Image, centre: Point, size: float, rng: np.random.Generator) -> Image:
    length = max(1.5 * size, 8.0)
    t = np.linspace(0, 1, max(int(3 * length), 8))
    heading = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.5) * (t - 0.5) + rng.normal(0, 0.4) * (t - 0.5) ** 2
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * length / len(t)
    path = _through(centre, np.cumsum(steps, axis=0))
    coverage = _stroke(image.shape, path, rng.uniform(0.5, 1.5) * np.sqrt(np.clip(4 * t * (1 - t), 0.1, 1)))
    return _blend(image, image + np.float32(_shade(rng, 20, 110)), coverage)


def _hairline(image: Image, centre: Point, size: float, rng: np.random.Generator) -> Image:
    """Long, nearly straight, a pixel wide."""
    path = _wander(centre, max(2 * size, 14.0), rng, 0.015)
    coverage = _stroke(image.shape, path, rng.uniform(0.35, 0.7))
    return _blend(image, image + np.float32(_shade(rng, 20, 90)), coverage)


def _crack(image: Image, centre: Point, size: float, rng: np.random.Generator) -> Image:
    """Jagged, dark, with up to two branches that are thinner."""
    length = max(1.5 * size, 12.0)
    path = _wander(centre, length, rng, 0.3)
    coverage = _stroke(image.shape, path, rng.uniform(0.4, 1.0))
    for _ in range(int(rng.integers(3))):
        x, y = path[int(rng.integers(len(path)))]
        branch = _wander((float(x), float(y)), length * rng.uniform(0.2, 0.5), rng, 0.3)
        coverage = np.maximum(coverage, _stroke(image.shape, branch, rng.uniform(0.3, 0.7)))
    return _blend(image, image * np.float32(rng.uniform(0.2, 0.8)), coverage)


def _stain(image: Image, centre: Point, size: float, rng: np.random.Generator) -> Image:
    tint = rng.uniform(0.25, 0.8) * rng.uniform(0.75, 1.0, 1 if _monochrome(image) else 3)
    opacity = rng.uniform(0.45, 0.85) * _blob(image.shape, centre, size / 2, rng.uniform(0.25, 0.8), rng)
    return _blend(image, image * tint, opacity)


def _cloud(image: Image, centre: Point, size: float, rng: np.random.Generator) -> Image:
    """A large stain that is hardly there."""
    tint = 1 + _shade(rng, 0.08, 0.3) + rng.normal(0, 0.03, 1 if _monochrome(image) else 3)
    return _blend(image, image * tint, _blob(image.shape, centre, size / 2, rng.uniform(0.3, 1.0), rng))


def _dent(image: Image, centre: Point, size: float, rng: np.random.Generator) -> Image:
    """Bright on the side towards the light, dark on the other, nothing else changed."""
    yy, xx = np.indices(image.shape[:2], dtype=np.float32)
    dx, dy = (xx - centre[0]) / (size / 2.5), (yy - centre[1]) / (size / 2.5)
    light = rng.uniform(0, 2 * np.pi)
    slope = (dx * np.cos(light) + dy * np.sin(light)) * np.exp(-1.5 * (dx * dx + dy * dy))
    return _blend(image, image + np.float32(_shade(rng, 35, 160)) * slope[..., None], np.ones_like(dx))


def _foreign(image: Image, centre: Point, size: float, rng: np.random.Generator) -> Image:
    """A fibre or a crumb with a colour and a light of its own."""
    colour = rng.uniform(0, 255, 1 if _monochrome(image) else 3)
    if rng.random() < 0.5:
        coverage = _stroke(image.shape, _wander(centre, max(1.5 * size, 12.0), rng, 0.1), rng.uniform(0.7, 1.5))
    else:
        crumb = _polygon(image.shape, _outline(centre, 0.45 * size, rng, 7))
        coverage = cv2.GaussianBlur(crumb, (0, 0), 0.7).astype(np.float32)
    yy, xx = np.indices((*image.shape[:2], 1), dtype=np.float32)[:2]
    light = 1 + 0.25 * np.clip((xx - centre[0] + yy - centre[1]) / size, -1, 1)
    return _blend(image, colour * light, coverage)


def _blur(image: Image, centre: Point, size: float, rng: np.random.Generator) -> Image:
    """Out of focus, smeared or polished at one place."""
    smooth = cv2.GaussianBlur(image, (0, 0), rng.uniform(1.5, 5.0)).astype(np.float32)
    return _blend(image, smooth, _blob(image.shape, centre, size / 2, 0.4, rng))


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
    return _blend(image, image + np.float32(_shade(rng, 20, 120)), coverage)


def _border(image: Image, centre: Point, size: float, rng: np.random.Generator) -> Image:
    draw = (_stain, _foreign, _missing, _scratch)[int(rng.integers(4))]
    return draw(image, centre, size, rng)


DRAWINGS: dict[str, Drawing] = {
    "scratch": _scratch,
    "hairline": _hairline,
    "crack": _crack,
    "stain": _stain,
    "cloud": _cloud,
    "dent": _dent,
    "missing": _missing,
    "warp": _warp,
    "foreign": _foreign,
    "spots": _spots,
    "blur": _blur,
    "border": _border,
}
