"""Compares the image scores by size and place of the defect, on held-out good photos and rendered defects alone.

`python -m training.benchmarks scores --bundle models/NAME/VERSION --data D`: the pair may be repeated. The bundle's
graph gives the maps; every formula makes its own score of them and its own thresholds, as training does. The photos are
those that the bundle's training held out. No test image is read, so a formula may be chosen here.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from service.backends.base import Backend, Scored, score_images
from service.backends.opening import open_backend
from service.bundle.folder import Bundle, read_bundle
from service.bundle.manifest import BundleError, ScoreFormula, Thresholds
from service.images.decoding import Pixels, read
from service.images.resizing import fit
from training.bundling.calibration import calibrate
from training.bundling.held_out import split_as_trained
from training.bundling.scores import PAPER_WINDOW, build_score
from training.data.folders import DataError
from training.data.simulated_defects import KINDS, ImpossibleDefectError, apply, part_masks
from training.evaluation.metrics import image_metrics, in_bands, stacked

FORMULAS: tuple[ScoreFormula, ...] = get_args(ScoreFormula)
SIZES = (5, 10, 15, 21, 40)  # pixels across of a 256x256 image
PLACES = ("interior", "edge", "corner")
_PHOTOS = 40  # held-out photos that get a defect of every size at every place


@dataclass(frozen=True)
class Scores:
    """Of one recipe and one formula: held-out good photos, and rendered defects by size and place."""

    good: NDArray[np.float32]
    thresholds: Thresholds
    defects: dict[tuple[int, str], NDArray[np.float32]]

    def chosen(self, size: int | None, place: str | None) -> NDArray[np.float32]:
        """Scores of the defects of one size, of one place, of both or of all."""
        return np.concatenate(
            [found for (s, p), found in self.defects.items() if size in {None, s} and place in {None, p}]
        )


def places(shape: tuple[int, int], across: float) -> dict[str, NDArray[np.bool_]]:
    """Where the centre of a defect of `across` pixels may be: cut by no side or one or two sides of the image.

    An interior defect also keeps so far from the sides that the paper's window around it is never padded.
    """
    rows, columns = (np.minimum(np.arange(n), np.arange(n)[::-1]) for n in shape)
    margin = across / 2 + PAPER_WINDOW // 2 + 1
    near = [distance < across / 2 for distance in (rows, columns)]
    far = [distance >= margin for distance in (rows, columns)]
    return {
        "interior": np.outer(far[0], far[1]),
        "edge": np.outer(near[0], far[1]) | np.outer(far[0], near[1]),
        "corner": np.outer(near[0], near[1]),
    }


def render(photos: Sequence[Pixels], seed: int) -> Iterator[tuple[tuple[int, str], Pixels]]:
    """A defect of every size at every place on every photo, of any kind; inside, on the part where that is known."""
    rng = np.random.default_rng(seed)
    kinds = [kind for kind in KINDS if kind != "border"]
    parts = part_masks(photos[:_PHOTOS])
    height, width = photos[0].shape[:2]
    for size in SIZES:
        allowed = places((height, width), size * min(height, width) / 256)
        for place, everywhere in allowed.items():
            for photo, part in zip(photos[:_PHOTOS], parts, strict=True):
                mask = everywhere
                if place == "interior" and part is not None and (everywhere & part).any():
                    mask = everywhere & part
                for kind in rng.permutation(kinds):
                    # Not every kind can be seen everywhere: nothing is missing on a plain background.
                    with suppress(ImpossibleDefectError):
                        yield (size, place), apply(photo, str(kind), rng, mask, across=size)[0]
                        break


def held_out(bundle: Bundle, data: Path) -> list[Pixels]:
    """The photos of `data` that the bundle's training held out."""
    _, paths = split_as_trained(bundle, data)
    spec = bundle.manifest.input
    return [fit(read(path), spec) for path in paths]


def compare(bundle: Bundle, backend: Backend, photos: Sequence[Pixels], seed: int) -> dict[ScoreFormula, Scores]:
    """Scores by every formula; thresholds for the bundle's own false-reject rate."""
    kept = bundle.manifest.keep_mask
    keep = None if kept is None else read(bundle.file(kept))[:, :, 0] > 0
    good, _ = stacked(score_images(backend, photos))
    maps: dict[tuple[int, str], list[NDArray[np.float32]]] = {}
    total = len(SIZES) * len(PLACES) * min(_PHOTOS, len(photos))
    for cell, picture in tqdm(render(photos, seed), "rendered defects", total, unit="img", leave=False):
        maps.setdefault(cell, []).append(score_images(backend, [picture])[0].anomaly_map)
    found: dict[ScoreFormula, Scores] = {}
    for formula in FORMULAS:
        score = build_score(formula, keep)
        of = {cell: score(torch.from_numpy(np.stack(stack))).numpy() for cell, stack in maps.items()}
        good_scores = score(torch.from_numpy(good)).numpy()
        rate = bundle.manifest.thresholds.calibration.target_false_reject_rate
        scored = [Scored(*one) for one in zip(good, good_scores.tolist(), strict=True)]
        thresholds = calibrate(scored, [], false_reject_rate=rate)
        found[formula] = Scores(good_scores, thresholds, of)
    return found


def tabulate(recipes: dict[str, dict[ScoreFormula, Scores]]) -> str:
    """Markdown: image AUROC / defects below review, in percent; a column each for all, every size and every place."""
    columns: list[tuple[str, int | None, str | None]] = [("all", None, None)]
    columns += [(f"{size} px", size, None) for size in SIZES] + [(place, None, place) for place in PLACES]
    lines = [f"| recipe | score | {' | '.join(name for name, _, _ in columns)} |", "|---" * (len(columns) + 2) + "|"]
    for recipe, formulas in recipes.items():
        for formula, scores in formulas.items():
            cells = [_cell(scores, size, place) for _, size, place in columns]
            lines.append(f"| {recipe} | `{formula}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(scores: Scores, size: int | None, place: str | None) -> str:
    defects = scores.chosen(size, place)
    labels = np.arange(len(scores.good) + len(defects)) >= len(scores.good)
    auroc = image_metrics(np.concatenate((scores.good, defects)), labels)["image_auroc"]
    escapes = in_bands(defects, scores.thresholds)["OK"]
    return f"{100 * auroc:.1f} / {100 * escapes / len(defects):.0f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks scores", description=__doc__)
    parser.add_argument("--bundle", type=Path, action="append", required=True, help="models/RECIPE/VERSION")
    parser.add_argument("--data", type=Path, action="append", required=True, help="the folder that it was trained on")
    parser.add_argument("--seed", type=int, default=0, help="of the rendered defects")
    options = parser.parse_args(arguments)
    recipes = {}
    try:
        for path, data in zip(options.bundle, options.data, strict=True):
            bundle = read_bundle(path)
            photos = held_out(bundle, data)
            backend = open_backend(bundle, "auto", threads=len(os.sched_getaffinity(0)))
            name = f"{bundle.manifest.recipe}/{bundle.manifest.version}, {len(photos)} good"
            recipes[name] = compare(bundle, backend, photos, options.seed)
            backend.close()
    except (BundleError, DataError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(tabulate(recipes))
    return 0
