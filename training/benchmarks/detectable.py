"""How small a defect may be at each resolution, and what that costs: `python -m training.benchmarks detectable`.

For each setting a recipe is trained on good photos and calibrated on held-out ones. Then squares and scratches of some
grey levels are drawn into the held-out photos, in pixels of the photo, inside the region that all settings see. The
smallest is the one from which on at least nine in ten are not called OK. Milliseconds are the processor's own, with
one thread. Without `--data` photos of brushed plates are rendered: figures of a surface of your own are worth more.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from service.backends.base import Backend, score_images
from service.backends.cpu import describe_cpu
from service.bundle.manifest import Crop, InputSpec
from service.images.cropping import box_of
from service.images.decoding import Pixels, encode, read
from service.images.resizing import fit
from training.bundling.calibration import calibrate
from training.bundling.graph import InspectionGraph
from training.bundling.onnx import opened, to_onnx
from training.data.folders import good_images, split
from training.data.reading import load_photos
from training.loop.runs import Run
from training.methods import METHODS
from training.methods.protocol import TrainingSet
from training.settings import RecipeSettings, changed

_REGION = Crop(left=0.25, top=0.25, width=0.5, height=0.5)
# Size, tiles, and what of the photo is seen.
SETTINGS: dict[str, tuple[int, str, Crop | None]] = {
    "size 256": (256, "1x1", None),
    "size 512": (512, "1x1", None),
    "tiles 2x2 of 256": (256, "2x2", None),
    "a quarter as the region, size 256": (256, "1x1", _REGION),
}
_SIDES = (32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
_FOUND = 0.9
_SCRATCH = 120  # pixels long
_PLATE = 1024

Draw = Callable[[Pixels, tuple[int, int], int, float, np.random.Generator], Pixels]


class Row(NamedTuple):
    setting: str
    pixels: float  # of the photo, across, in one of the network
    square: int | None
    scratch: int | None
    milliseconds: float


@dataclass(frozen=True)
class Trial:
    """What every setting is tried on: photos to train on, photos to draw defects into, and how."""

    trained_on: list[Path]
    held_out: list[Path]
    method: str
    contrast: float
    seed: int
    bank: int


def render_plate(rng: np.random.Generator, side: int = _PLATE) -> Pixels:
    """A brushed plate `(side, side, 3)` in uneven light, as a camera with a little noise sees it."""
    grain = rng.standard_normal((side, side), dtype=np.float32)
    strokes = 60 * cv2.GaussianBlur(grain, (0, 0), sigmaX=30, sigmaY=0.8)
    light = cv2.resize(rng.uniform(-12, 12, (4, 4)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    grey = 128 + strokes + light + rng.normal(0, 2, (side, side)).astype(np.float32)
    return np.repeat(np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def draw_square(photo: Pixels, place: tuple[int, int], side: int, contrast: float, rng: np.random.Generator) -> Pixels:
    x, y = place
    return _changed(photo, np.s_[y : y + side, x : x + side], contrast * rng.choice([-1, 1]))


def draw_scratch(photo: Pixels, place: tuple[int, int], side: int, contrast: float, rng: np.random.Generator) -> Pixels:
    """A straight line, `side` pixels wide."""
    line = np.zeros(photo.shape[:2], np.uint8)
    angle = rng.uniform(0, np.pi)
    reach = np.array([np.cos(angle), np.sin(angle)]) * _SCRATCH / 2
    ends = [tuple(int(v) for v in np.rint(np.array(place) + sign * reach)) for sign in (-1, 1)]
    cv2.line(line, ends[0], ends[1], 1, side)
    return _changed(photo, line > 0, contrast * rng.choice([-1, 1]))


def _changed(photo: Pixels, where: tuple[slice, slice] | NDArray[np.bool_], levels: float) -> Pixels:
    drawn = photo.astype(np.float32)
    drawn[where] += levels
    return np.clip(drawn, 0, 255).astype(np.uint8)


def smallest_found(found: Callable[[int], float]) -> int | None:
    """The smallest of the sides from which on all are found often enough; None where the largest is not."""
    smallest = None
    for side in _SIDES:
        if found(side) < _FOUND:
            break
        smallest = side
    return smallest


def measure(name: str, trial: Trial) -> Row:
    """Train, calibrate and try one setting."""
    size, tiles, crop = SETTINGS[name]
    method = METHODS[trial.method]
    values = {"size": size, "tiles": tiles, "seed": trial.seed, "bank": trial.bank}
    if method.of_positions and tiles != "1x1":
        raise SystemExit(f"{method.name} takes no tiles: choose another --method, or --settings without them")
    settings: RecipeSettings = changed(next(iter(method.presets.values())), values)
    grid = settings.grid
    spec = InputSpec(height=grid.height, width=grid.width, crop=crop)
    good = grid.cut(load_photos(trial.trained_on, spec, "good photos"))
    textures = method.textures(settings, None) if method.textures else None
    with tempfile.TemporaryDirectory() as run:
        learned = method.fit(settings, TrainingSet(good, textures), Run(Path(run)), torch.device("cpu"))
    graph = InspectionGraph(grid.over(learned), None, settings.score).eval()
    photos = [read(path) for path in trial.held_out]
    with opened(to_onnx(graph, spec.height, spec.width), spec) as backend:
        scored = score_images(backend, [fit(photo, spec) for photo in photos])
        limit = calibrate(scored, [], false_reject_rate=0.05).review
        square, scratch = (
            smallest_found(lambda side, draw=draw: _share(backend, spec, photos, limit, side, draw, trial))  # type: ignore[misc]
            for draw in (draw_square, draw_scratch)
        )
        taken = [_milliseconds(backend, photo, spec) for photo in photos]
    box = box_of(crop, photos[0].shape[:2])
    return Row(name, box.width / spec.width, square, scratch, median(taken))


def _share(
    backend: Backend,
    spec: InputSpec,
    photos: Sequence[Pixels],
    limit: float,
    side: int,
    draw: Draw,
    trial: Trial,
) -> float:
    """Of defects of this side, one a photo, those that are not called OK; the same ones for every setting."""
    rng = np.random.default_rng([trial.seed, side, draw is draw_scratch])
    found = 0
    for photo in photos:
        box = box_of(_REGION, photo.shape[:2])
        # All of it inside the region.
        rim = _SCRATCH // 2 + max(_SIDES)
        place = (
            int(rng.integers(box.x + rim, box.x + box.width - rim)),
            int(rng.integers(box.y + rim, box.y + box.height - rim)),
        )
        drawn = fit(draw(photo, place, side, trial.contrast, rng), spec)
        found += score_images(backend, [drawn])[0].score >= limit
    return found / len(photos)


def _milliseconds(backend: Backend, photo: Pixels, spec: InputSpec) -> float:
    # Of the process, whatever else the machine has to do.
    started = time.process_time()
    score_images(backend, [fit(photo, spec)])
    return 1000 * (time.process_time() - started)


def tabulate(rows: Sequence[Row]) -> str:
    head = (
        "setting",
        "photo pixels in one",
        "smallest square, px",
        "smallest scratch, px wide",
        "ms",
    )
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for row in rows:
        sizes = [f"over {max(_SIDES)}" if side is None else str(side) for side in (row.square, row.scratch)]
        lines.append(" | ".join([row.setting, f"{row.pixels:.1f}", *sizes, f"{row.milliseconds:.0f}"]))
    return "\n".join(f"| {line} |" for line in lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks detectable", description=__doc__)
    parser.add_argument("--data", type=Path, help="good photos of one size; without it plates are rendered")
    parser.add_argument("--photos", type=int, default=40, help="rendered plates, half of them held out")
    parser.add_argument("--method", default="patchcore", help="its first preset")
    parser.add_argument("--bank", type=int, default=512, help="good patches, of a method that keeps some")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--contrast", type=float, default=40, help="grey levels by which a defect differs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    # Time of all threads together is that of one where there is one.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or _plates(Path(folder), options.photos, options.seed)
        trained_on, held_out = split(good_images(data), 0.5, options.seed)
        trial = Trial(trained_on, held_out, options.method, options.contrast, options.seed, options.bank)
        print(f"{describe_cpu()}, {len(trained_on)} photos learned from, {len(held_out)} defects of each size\n")
        print(tabulate([]), flush=True)
        for name in options.settings:
            # Each as soon as it is known.
            print(tabulate([measure(name, trial)]).splitlines()[-1], flush=True)


def _plates(folder: Path, count: int, seed: int) -> Path:
    for number in range(count):
        plate = render_plate(np.random.default_rng([seed, number]))
        (folder / f"{number:03}.png").write_bytes(encode(plate, ".png"))
    return folder
