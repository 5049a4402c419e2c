"""Figures of defects by what they are, how large and where: an average over all hides that small ones pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from service.bundle.manifest import Thresholds
from training.evaluation.metrics import clopper_pearson, image_metrics, in_bands

TABLES = ("per_defect", "per_size", "per_place")
# Square root of the area, in pixels of a 256x256 image; the paper's score window is 21 across.
SIZES = ("under 10 px", "10 to 21 px", "over 21 px")
PLACES = ("inside", "at the border")
_BORDER = 2  # pixels: full mask pixels lie so far from the side, where the defect was cut by it and then resized


def sizes_of(masks: NDArray[np.bool_]) -> NDArray[np.str_]:
    """Name of SIZES for every mask of `(N, H, W)`."""
    across = np.sqrt(masks.sum(axis=(1, 2))) * 256 / min(masks.shape[1:])
    small, middling, large = SIZES
    return np.where(across < 10, small, np.where(across < 21.5, middling, large))


def places_of(masks: NDArray[np.bool_]) -> NDArray[np.str_]:
    """Name of PLACES for every mask of `(N, H, W)`."""
    rim = np.ones(masks.shape[1:], np.bool_)
    rim[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    return np.where((masks & rim).any(axis=(1, 2)), PLACES[1], PLACES[0])


def tables(
    kinds: NDArray[np.str_],
    masks: NDArray[np.bool_],
    scores: NDArray[np.float32],
    good_scores: NDArray[np.float32],
    thresholds: Thresholds | None = None,
) -> dict[str, JsonValue]:
    """`rows` by kind, size and place of N defects; one whose mask of `masks` `(N, H, W)` is empty has only a kind."""
    known = masks.any(axis=(1, 2))
    by_size = rows(sizes_of(masks[known]), scores[known], good_scores, thresholds, SIZES)
    by_place = rows(places_of(masks[known]), scores[known], good_scores, thresholds, PLACES)
    return dict(zip(TABLES, (rows(kinds, scores, good_scores, thresholds), by_size, by_place), strict=True))


def rows(
    names: NDArray[np.str_],
    scores: NDArray[np.float32],
    good_scores: NDArray[np.float32],
    thresholds: Thresholds | None,
    order: Sequence[str] = (),
) -> dict[str, JsonValue]:
    """For every name that occurs in `names` `(N,)`: how many defects, image AUROC of their `scores` `(N,)` against all
    `good_scores` `(M,)`, and with thresholds how many score below review, with the exact 95 % interval of that rate.
    """
    found: dict[str, JsonValue] = {}
    for name in order or sorted(set(names.tolist())):
        chosen = scores[names == name]
        if not len(chosen):
            continue
        labels = np.arange(len(good_scores) + len(chosen)) >= len(good_scores)
        row: dict[str, JsonValue] = {
            "images": len(chosen),
            "image_auroc": image_metrics(np.concatenate((good_scores, chosen)), labels)["image_auroc"],
        }
        if thresholds:
            escapes = in_bands(chosen, thresholds)["OK"]
            low, high = clopper_pearson(escapes, len(chosen))
            row |= {"escapes": escapes, "escape_interval": [low, high]}
        found[name] = row
    return found
