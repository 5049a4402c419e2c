"""A rendered product line: photographs of a turned steel flange on a conveyor belt, good and defective.

Defects are made in the scene, before the light falls on it: a hole that was never drilled, an outline that broke, a
height field that was dented, a coat of oil. Nothing here shares code or method with DRÆM's own simulator (noise mask,
pasted texture), so a model trained on the good parts is tested on something it has not been shown.

Brushed metal is shaded with the anisotropic lobe of Ward 1992: reflections are wide across the turning marks and
narrow along them, which draws the bow-tie highlight of every lathe-turned face.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.float32]

SIZE = 256  # edge of the photograph, pixels; every length below is in these pixels
_SS = 2  # supersampling: edges are rendered twice as fine and averaged down
_OUTER, _HUB, _BORE = 104.0, 52.0, 30.0  # radii of the flange, its raised hub, its bore
_BOLT_CIRCLE, _BOLT_RADIUS, _BOLTS = 77.0, 10.0, 6
_CHAMFER = 2.2
_LIGHT_TILT = 0.72  # radians between the lamp and the camera axis
_ANGLES = 4096  # resolution of an outline's profile around the part
_VISIBLE = 7.0  # grey levels, before sensor noise: what counts as changed in a ground-truth mask
_MIN_PIXELS = 30
_TRIES = 20


@dataclass(frozen=True)
class _Scene:
    """One shot of one part, apart from its flaw. `xy`, `radius`, `theta` and `grain` are (512, 512)."""

    xy: tuple[FloatImage, FloatImage]  # offset from the part's centre
    radius: FloatImage
    theta: FloatImage  # 0 to 2 pi
    rotation: float
    light: tuple[float, float]  # unit vector in the image plane, towards the lamp
    exposure: NDArray[np.float32]  # (3,)
    marks: FloatImage  # slopes of the turning marks, (angle, radius)
    grain: FloatImage  # standard normal
    sensor_noise: FloatImage  # (256, 256, 3), standard normal


@dataclass(frozen=True)
class _Flaw:
    """What differs from a good part. Arrays are (512, 512) unless said otherwise."""

    bolt_radii: tuple[float, ...] = (_BOLT_RADIUS,) * _BOLTS
    bite: FloatImage | None = None  # (_ANGLES,) loss of outer radius
    relief: FloatImage | None = None  # added to the height
    scar: FloatImage | None = None  # 0 to 1: how far the turning marks are gone
    scar_angle: float = 0.0  # direction of the new marks
    coat: FloatImage | None = None  # 0 to 1 opacity
    coat_colour: tuple[float, float, float] = (0.0, 0.0, 0.0)
    coat_gloss: float = 0.0  # 1: a film that tints the metal below; 0: an opaque matt layer


def _smoothstep(low: float, high: float, x: FloatImage) -> FloatImage:
    t = np.clip((x - low) / (high - low), 0, 1)
    return cast(FloatImage, t * t * (3 - 2 * t))


def _draw_scene(rng: np.random.Generator) -> _Scene:
    n = SIZE * _SS
    centre, scale = SIZE / 2 + rng.uniform(-3, 3, 2), rng.uniform(0.985, 1.015)
    grid = (np.arange(n, dtype=np.float32) + 0.5) / _SS
    x, y = np.meshgrid(*((grid - c.astype(np.float32)) / np.float32(scale) for c in centre))
    radius, theta = cv2.cartToPolar(x, y)
    azimuth = np.deg2rad(-128) + rng.normal(0, 0.02)
    fine, coarse = rng.standard_normal((2, 96, 420), dtype=np.float32)
    marks = 1.5 * cv2.GaussianBlur(fine, (0, 0), sigmaX=0.8, sigmaY=9) + 2.5 * cv2.GaussianBlur(coarse, (0, 0), 4)
    return _Scene(
        xy=(x, y),
        radius=cast(FloatImage, radius),
        theta=cast(FloatImage, theta),
        rotation=float(rng.uniform(-0.12, 0.12)),
        light=(float(np.cos(azimuth)), float(np.sin(azimuth))),
        exposure=(rng.uniform(0.95, 1.05) * rng.normal(1, 0.008, 3)).astype(np.float32),
        marks=marks.astype(np.float32),
        grain=rng.standard_normal((n, n), dtype=np.float32),
        sensor_noise=rng.standard_normal((SIZE, SIZE, 3), dtype=np.float32),
    )


def _bolt_centre(scene: _Scene, bolt: int) -> tuple[float, float]:
    angle = scene.rotation + 2 * np.pi * bolt / _BOLTS
    return float(_BOLT_CIRCLE * np.cos(angle)), float(_BOLT_CIRCLE * np.sin(angle))


def _distance(scene: _Scene, centre: tuple[float, float]) -> FloatImage:
    return cast(FloatImage, cv2.magnitude(scene.xy[0] - np.float32(centre[0]), scene.xy[1] - np.float32(centre[1])))


def _edge_distance(scene: _Scene, flaw: _Flaw) -> FloatImage:
    """Pixels to the nearest edge of the metal, positive inside it."""
    outer = _OUTER - scene.radius
    if flaw.bite is not None:
        outer = outer - flaw.bite[(scene.theta * (_ANGLES / (2 * np.pi))).astype(np.int32) % _ANGLES]
    edge = np.minimum(outer, scene.radius - _BORE)
    for bolt, bolt_radius in enumerate(flaw.bolt_radii):
        if bolt_radius > 0:
            edge = np.minimum(edge, _distance(scene, _bolt_centre(scene, bolt)) - bolt_radius)
    # a dowel notch gives the bore a direction
    angle = scene.rotation + np.pi / 2
    notch = _distance(scene, (float(_BORE * np.cos(angle)), float(_BORE * np.sin(angle)))) - 6.5
    return cast(FloatImage, np.minimum(edge, notch))


def _gradient(field: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Slopes of `field` per pixel of the final photograph."""
    return (
        cast(FloatImage, cv2.Sobel(field, cv2.CV_32F, 1, 0, scale=_SS / 8)),
        cast(FloatImage, cv2.Sobel(field, cv2.CV_32F, 0, 1, scale=_SS / 8)),
    )


def _height(scene: _Scene, flaw: _Flaw, edge: FloatImage) -> FloatImage:
    r = scene.radius
    hub = 2.4 * (1 - _smoothstep(_HUB - 1.6, _HUB + 1.6, r))
    groove = -0.9 * np.exp(-(((r - 92) / 0.9) ** 2)) - 0.7 * np.exp(-(((r - 41) / 0.8) ** 2))
    chamfer = 0.8 * np.minimum(edge - _CHAMFER, 0)
    height = hub + groove + np.maximum(chamfer, -3)
    if flaw.relief is not None:
        height = height + flaw.relief
    return cast(FloatImage, cv2.GaussianBlur(height, (0, 0), 0.9))


def _shade_metal(scene: _Scene, flaw: _Flaw, edge: FloatImage) -> tuple[FloatImage, FloatImage]:
    """Reflected light of the metal and the plain diffuse light on it, both linear."""
    slope_x, slope_y = _gradient(_height(scene, flaw, edge))
    inverse = 1 / np.maximum(scene.radius, 1)
    rx, ry = scene.xy[0] * inverse, scene.xy[1] * inverse
    angle = (scene.theta - np.float32(scene.rotation)) * (96 / (2 * np.pi))
    marks = cv2.remap(scene.marks, scene.radius * 4, angle % 96, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    if flaw.scar is not None:
        nx, ny = -np.float32(np.sin(flaw.scar_angle)), np.float32(np.cos(flaw.scar_angle))
        rx, ry = rx + flaw.scar * (nx - rx), ry + flaw.scar * (ny - ry)
        marks = marks * (1 - flaw.scar)
    lx, ly = scene.light
    # the lamp is near: the half vector leans further where the part is further from it
    lean = np.float32(np.sin(_LIGHT_TILT / 2))
    hx, hy = lean * (lx - scene.xy[0] / 420), lean * (ly - scene.xy[1] / 420)
    hz = np.float32(np.cos(_LIGHT_TILT / 2))
    across_slope = slope_x * rx + slope_y * ry + 0.14 * marks
    along_slope = slope_y * rx - slope_x * ry
    across = (hx * rx + hy * ry + hz * across_slope) / np.sqrt(1 + across_slope**2)
    along = (hy * rx - hx * ry + hz * along_slope) / np.sqrt(1 + along_slope**2)
    up = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    facing = np.maximum((hz - hx * slope_x - hy * slope_y) * up, 0.2)
    highlight = np.exp(-((along / 0.17) ** 2 + (across / 0.62) ** 2) / facing**2)
    # a weaker second lamp from the side, and the bright ceiling
    side = np.exp(-(((ry * 0.31 + rx * 0.05 + along_slope) / 0.24) ** 2))
    diffuse = np.maximum((np.cos(_LIGHT_TILT) - np.sin(_LIGHT_TILT) * (lx * slope_x + ly * slope_y)) * up, 0)
    ceiling = up**2 * (1 + 0.22 * marks)
    metal = 0.10 * diffuse + 0.13 * ceiling + 0.62 * highlight + 0.07 * side
    return cast(FloatImage, metal), cast(FloatImage, diffuse)


def _shade_belt(scene: _Scene, coverage: FloatImage) -> FloatImage:
    """(512, 512, 3) linear light of the woven belt, with the shadow of the part."""
    x, y = scene.xy
    weave = np.sin((x + y) * np.float32(0.9)) * np.sin((x - y) * np.float32(0.9))
    small = cv2.GaussianBlur(cv2.resize(coverage, (SIZE // 2, SIZE // 2), interpolation=cv2.INTER_AREA), (0, 0), 2.2)
    lx, ly = scene.light
    shift = np.array([[1, 0, -3.5 * lx], [0, 1, -3.5 * ly]])
    shadow = cv2.resize(cv2.warpAffine(small, shift, small.shape), coverage.shape, interpolation=cv2.INTER_LINEAR)
    falloff = 1 + (lx * x + ly * y) / 420
    light = (1 + 0.30 * weave + 0.16 * scene.grain) * (1 - 0.75 * shadow) * falloff
    return cast(FloatImage, light[..., None] * np.array([0.034, 0.041, 0.047], np.float32))


def _render(scene: _Scene, flaw: _Flaw) -> FloatImage:
    """(256, 256, 3), 0 to 255 after the camera's gamma and before its noise."""
    edge = _edge_distance(scene, flaw)
    coverage = cast(FloatImage, np.clip(edge * _SS + 0.5, 0, 1))
    metal, diffuse = _shade_metal(scene, flaw, edge)
    light = metal[..., None] * np.array([0.96, 0.985, 1.0], np.float32)
    if flaw.coat is not None:
        below = flaw.coat_gloss * metal + (1 - flaw.coat_gloss) * (0.25 + 0.75 * diffuse)
        coated = below[..., None] * np.array(flaw.coat_colour, np.float32)
        light += flaw.coat[..., None] * (coated - light)
    gx, gy = _gradient(edge)
    facing = np.maximum(-(gx * scene.light[0] + gy * scene.light[1]), 0)
    wall = 0.16 * facing * np.exp(np.minimum(edge + 0.5, 0) * 0.45)
    belt = _shade_belt(scene, coverage)
    in_hole = (scene.radius < _OUTER - 10)[..., None]
    ground = np.where(in_hole, 0.35 * belt + wall[..., None], belt)
    frame = ground + coverage[..., None] * (light - ground)
    small = cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_AREA) * scene.exposure
    photo = 255 * np.clip(cv2.GaussianBlur(small, (0, 0), 0.55), 0, 1) ** np.float32(1 / 2.2)
    return cast(FloatImage, photo)


def _expose(scene: _Scene, photo: FloatImage) -> NDArray[np.uint8]:
    noise = scene.sensor_noise * (1.1 + 0.09 * np.sqrt(photo))
    return np.clip(np.rint(photo + noise), 0, 255).astype(np.uint8)


def _spot_on_face(scene: _Scene, rng: np.random.Generator) -> tuple[float, float]:
    """A point of the flange's face between two bolt holes."""
    angle = scene.rotation + 2 * np.pi * (rng.integers(_BOLTS) + rng.uniform(0.3, 0.7)) / _BOLTS
    radius = rng.uniform(_HUB + 10, _OUTER - 14)
    return float(radius * np.cos(angle)), float(radius * np.sin(angle))


def _scratch(scene: _Scene, rng: np.random.Generator) -> _Flaw:
    """A tool slipped: a tapered furrow with burrs, whose inside reflects along its own direction."""
    start = np.array(_spot_on_face(scene, rng))
    heading, bend, length = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.25), rng.uniform(25, 70)
    t = np.linspace(0, 1, 160)
    direction = heading + bend * (t - 0.5)
    path = start + np.cumsum(np.stack([np.cos(direction), np.sin(direction)], 1), 0) * length / len(t)
    path -= (path[-1] - path[0]) / 2
    width = rng.uniform(0.4, 0.95) * np.sqrt(np.clip(4 * t * (1.05 - t), 0.05, 1))
    canvas = np.zeros_like(scene.grain, np.uint8)
    origin = np.array([scene.xy[0][0, 0], scene.xy[1][0, 0]])
    pitch = float(scene.xy[0][0, 1] - scene.xy[0][0, 0])
    for (px, py), w in zip((path - origin) / pitch * 16, width / pitch * 16, strict=True):
        cv2.circle(canvas, (round(px), round(py)), round(w), 255, -1, cv2.LINE_AA, shift=4)
    furrow = canvas.astype(np.float32) / np.float32(255)
    burr = cv2.GaussianBlur(furrow, (0, 0), 2) - furrow
    relief = rng.uniform(0.8, 1.5) * burr
    return _Flaw(relief=cast(FloatImage, relief), scar=furrow, scar_angle=float(heading))


def _stain(scene: _Scene, rng: np.random.Generator) -> _Flaw:
    """Oil: few large drops running together. Rust: a matt bloom with many small satellites."""
    oil = rng.random() < 0.5
    x, y = _spot_on_face(scene, rng)
    spread = rng.uniform(5, 11)
    field = np.zeros_like(scene.grain)
    for i in range(int(rng.integers(3, 6) if oil else rng.integers(14, 26))):
        size = spread * rng.uniform(0.5, 1.0) * (1 if oil or i < 4 else 0.35)
        away = rng.normal(0, spread * (0.7 if oil else 1.0), 2)
        field += np.exp(-((_distance(scene, (x + away[0], y + away[1])) / size) ** 2))
    if oil:
        film = _smoothstep(0.35, 0.55, field) * (0.55 + 0.4 * _smoothstep(0.4, 1.8, field))
        return _Flaw(coat=cast(FloatImage, film), coat_colour=(0.30, 0.21, 0.10), coat_gloss=1.0)
    speckle = cv2.GaussianBlur(scene.grain, (0, 0), 1.6)
    coat = rng.uniform(0.7, 0.9) * _smoothstep(0.15, 0.9, cast(FloatImage, field * (1 + 0.8 * speckle)))
    return _Flaw(coat=cast(FloatImage, coat), coat_colour=(0.20, 0.085, 0.035), coat_gloss=0.1)


def _missing_hole(scene: _Scene, rng: np.random.Generator) -> _Flaw:
    """One bolt hole not drilled at all, or left at its pilot diameter."""
    radii = [_BOLT_RADIUS] * _BOLTS
    radii[int(rng.integers(_BOLTS))] = 0.0 if rng.random() < 0.6 else float(rng.uniform(2.5, 4.5))
    return _Flaw(bolt_radii=tuple(radii))


def _chip(scene: _Scene, rng: np.random.Generator) -> _Flaw:
    """Part of the rim broken off: a ragged bite in the outline and a rough, sloping face behind it."""
    width, depth = rng.uniform(8, 20) / _OUTER, rng.uniform(5, 12)
    around = (np.arange(_ANGLES) / _ANGLES * 2 * np.pi - rng.uniform(0, 2 * np.pi) + np.pi) % (2 * np.pi) - np.pi
    knots = np.linspace(-1, 1, 9)
    ragged = (1 - np.abs(knots) ** 2.5) * rng.uniform(0.55, 1.15, 9)
    bite = (depth * np.interp(around / width, knots, ragged, left=0, right=0)).astype(np.float32)
    lost = bite[(scene.theta * (_ANGLES / (2 * np.pi))).astype(np.int32) % _ANGLES]
    below = scene.radius - (_OUTER - lost)
    face = np.clip(below * 1.5, 0, 1) * (lost > 0.3)
    rough = 1.6 * cv2.GaussianBlur(scene.grain, (0, 0), 1.8) + 3.0 * cv2.GaussianBlur(scene.grain, (0, 0), 4)
    relief = face * (rough - 0.75 * below)
    return _Flaw(
        bite=cast(FloatImage, bite * rng.uniform(0.45, 0.7)),
        relief=cast(FloatImage, relief.astype(np.float32)),
        scar=cast(FloatImage, face.astype(np.float32)),
        scar_angle=float(rng.uniform(0, np.pi)),
    )


def _dent(scene: _Scene, rng: np.random.Generator) -> _Flaw:
    """An elliptic bowl with a raised lip, pressed into the face."""
    x, y = _spot_on_face(scene, rng)
    angle, size, aspect = rng.uniform(0, np.pi), rng.uniform(6, 13), rng.uniform(0.6, 1.0)
    dx, dy = scene.xy[0] - np.float32(x), scene.xy[1] - np.float32(y)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    rho = cv2.magnitude((dx * c + dy * s) / np.float32(size), (dy * c - dx * s) / np.float32(size * aspect))
    lip = 0.12 * np.exp(-(((rho - 1.05) / 0.28) ** 2))
    relief = rng.uniform(0.09, 0.17) * size * (lip - np.maximum(1 - rho**2, 0) ** 2)
    return _Flaw(relief=cast(FloatImage, relief.astype(np.float32)))


_FLAWS: dict[str, Callable[[_Scene, np.random.Generator], _Flaw]] = {
    "scratch": _scratch,
    "stain": _stain,
    "missing_hole": _missing_hole,
    "chip": _chip,
    "dent": _dent,
}
KINDS = tuple(_FLAWS)


def _changed(good: FloatImage, bad: FloatImage) -> NDArray[np.bool_]:
    """Where the two noise-free photographs differ visibly, without pinholes."""
    mask = (np.abs(good - bad).max(axis=2) > _VISIBLE).astype(np.uint8)
    closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    # a dent reflects like the plain face at its bottom: the annotation is the whole dent
    return cv2.drawContours(closed, outlines, -1, 1, cv2.FILLED).astype(np.bool_)


def render_good(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A flawless part, (256, 256, 3) RGB. The same generator state gives the scene `render_defect` would use."""
    scene = _draw_scene(rng)
    return _expose(scene, _render(scene, _Flaw()))


def render_defect(rng: np.random.Generator, kind: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A part with one defect, (256, 256, 3) RGB, and the mask (256, 256) of what the defect visibly changed."""
    if kind not in _FLAWS:
        raise ValueError(f"unknown kind of defect {kind!r}: choose one of {', '.join(KINDS)}")
    scene = _draw_scene(rng)
    good = _render(scene, _Flaw())
    for _ in range(_TRIES):
        bad = _render(scene, _FLAWS[kind](scene, rng))
        mask = _changed(good, bad)
        if mask.sum() >= _MIN_PIXELS:
            return _expose(scene, bad), mask
    raise RuntimeError(f"{_TRIES} attempts at a {kind} were all invisible in this light")


def _write(path: Path, image: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        raise OSError(f"cannot write {path}")


def write_dataset(folder: Path, *, good: int, test_good: int, defects_per_kind: int, seed: int) -> None:
    """Write the line as a category in MVTec AD's layout: train/, test/ and ground_truth/, masks 0 or 255."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", good), ("test", test_good)):
        for i in range(count):
            _write(folder / split / "good" / f"{i:03d}.png", render_good(rng)[..., ::-1])
    for kind in KINDS:
        for i in range(defects_per_kind):
            image, mask = render_defect(rng, kind)
            _write(folder / "test" / kind / f"{i:03d}.png", image[..., ::-1])
            _write(folder / "ground_truth" / kind / f"{i:03d}_mask.png", mask.astype(np.uint8) * 255)
