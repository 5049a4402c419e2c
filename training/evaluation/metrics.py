"""Figures of merit of scores; those of pixels are in training.evaluation.pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, roc_auc_score

from service.backends.base import Scored
from service.bundle.manifest import Band, Thresholds


def image_metrics(scores: NDArray[np.float32], is_defect: NDArray[np.bool_]) -> dict[str, float]:
    """Image AUROC and average precision of scores `(N,)` against labels `(N,)`."""
    return {
        "image_auroc": float(roc_auc_score(is_defect, scores)),
        "image_ap": float(average_precision_score(is_defect, scores)),
    }


def stacked(scored: Sequence[Scored]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Maps `(N, H, W)` and scores `(N,)`; `(0, 0, 0)` of none."""
    maps, scores = [one.anomaly_map for one in scored], [one.score for one in scored]
    return np.stack(maps) if maps else np.zeros((0, 0, 0), np.float32), np.array(scores, np.float32)


def in_bands(scores: NDArray[np.float32], thresholds: Thresholds) -> dict[Band, int]:
    """How many of scores `(N,)` lie in each band."""
    found = [thresholds.band(score) for score in scores.tolist()]
    return {band: found.count(band) for band in get_args(Band)}


def clopper_pearson(events: int, trials: int) -> tuple[float, float]:
    """Exact two-sided 95 % confidence interval of a rate; (0, 1) without trials."""
    if trials == 0:
        return (0.0, 1.0)
    interval = binomtest(events, trials).proportion_ci(0.95, method="exact")
    return (float(interval.low), float(interval.high))
