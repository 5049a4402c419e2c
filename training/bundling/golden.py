"""Golden images: what every backend has to reproduce before a recipe serves."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from service.backends.base import Scored
from service.bundle.manifest import GoldenImage, Tolerance
from service.images.decoding import Pixels, encode
from training.bundling.graph import InspectionGraph, score_with_torch

GOLDEN_TOLERANCE = Tolerance(score=2e-3, anomaly_map=5e-3)


def golden_choice(
    good: Sequence[Pixels], good_scored: Sequence[Scored], defects: Sequence[Pixels], defects_scored: Sequence[Scored]
) -> list[Pixels]:
    """A typical good part, the strongest defect and a middling one: flat maps alone would prove little."""
    by_score = _rising(good_scored)
    chosen = [good[by_score[len(by_score) // 2]]]
    if defects:
        by_score = _rising(defects_scored)
        chosen += [defects[by_score[-1]], defects[by_score[len(by_score) // 2]]]
    return chosen


def _rising(scored: Sequence[Scored]) -> list[int]:
    return [int(place) for place in np.argsort([one.score for one in scored])]


def golden_files(graph: InspectionGraph, images: Sequence[Pixels]) -> tuple[list[GoldenImage], dict[str, bytes]]:
    golden: list[GoldenImage] = []
    files: dict[str, bytes] = {}
    for place, (image, scored) in enumerate(zip(images, score_with_torch(graph, images), strict=True)):
        entry = GoldenImage(
            image=f"golden/{place}.png", anomaly_map=f"golden/{place}.npy", score=min(1.0, scored.score)
        )
        array = io.BytesIO()
        np.save(array, scored.anomaly_map, allow_pickle=False)
        files[entry.image], files[entry.anomaly_map] = encode(image, ".png"), array.getvalue()
        golden.append(entry)
    return golden, files
