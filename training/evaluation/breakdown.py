"""Figures of defects by what they are, how large and where: an average over all hides that small ones pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Defect:
    """What is known of one defect: `size` and `place` are names of SIZES and PLACES, None where nobody marked it."""

    kind: str
    size: str | None
    place: str | None


def describe(kind: str, mask: NDArray[np.bool_] | None) -> Defect:
    """The defect of a mask `(H, W)`; of an empty mask or none only the kind is known."""
    if mask is None or not mask.any():
        return Defect(kind, None, None)
    across = float(np.sqrt(mask.sum())) * 256 / min(mask.shape)
    inner = mask[_BORDER:-_BORDER, _BORDER:-_BORDER]
    at_border = int(inner.sum()) < int(mask.sum())
    return Defect(kind, SIZES[(across >= 10) + (across >= 21.5)], PLACES[at_border])


def tables(
    defects: Sequence[Defect],
    scores: NDArray[np.float32],
    good_scores: NDArray[np.float32],
    thresholds: Thresholds | None = None,
) -> dict[str, JsonValue]:
    """`rows` of N defects by kind, size and place."""
    kinds = rows([defect.kind for defect in defects], scores, good_scores, thresholds)
    sizes = rows([defect.size for defect in defects], scores, good_scores, thresholds, SIZES)
    places = rows([defect.place for defect in defects], scores, good_scores, thresholds, PLACES)
    return dict(zip(TABLES, (kinds, sizes, places), strict=True))


def rows(
    names: Sequence[str | None],
    scores: NDArray[np.float32],
    good_scores: NDArray[np.float32],
    thresholds: Thresholds | None,
    order: Sequence[str] = (),
) -> dict[str, JsonValue]:
    """For every name that occurs in `names` of N defects, None left out: how many defects, image AUROC of their
    `scores` `(N,)` against all `good_scores` `(M,)`, and with thresholds how many score below review, with the exact
    95 % interval of that rate.
    """
    found: dict[str, JsonValue] = {}
    for name in order or sorted({name for name in names if name}):
        chosen = scores[[one == name for one in names]]
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
