"""The metrics, in one table, and what else is counted of scores; how pixels are counted is in `pixels`.

SciPy and scikit-learn take a second to load: they are where a figure is made, for every command starts with this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from service.backends.base import Scored
from service.bundle.manifest import Band, Thresholds
from training.evaluation.pixels import PixelFigures


@dataclass(frozen=True)
class Metric:
    """A figure of a test split: made of the scores and labels `(N,)` of its images, or of its counted pixels."""

    title: str
    of_scores: Callable[[NDArray[np.float32], NDArray[np.bool_]], float] | None = None
    of_pixels: Callable[[PixelFigures], float] | None = None


def image_auroc(scores: NDArray[np.float32], is_defect: NDArray[np.bool_]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(is_defect, scores))


def average_precision(scores: NDArray[np.float32], is_defect: NDArray[np.bool_]) -> float:
    """Of scores, or of the pixels of maps."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(is_defect, scores))


# All there are, in the order of the paper's tables: evaluation, report and tables take them from here.
METRICS = {
    "image_auroc": Metric("image AUROC", image_auroc),
    "image_ap": Metric("image AP", average_precision),
    "pixel_auroc": Metric("pixel AUROC", of_pixels=PixelFigures.auroc),
    "pixel_ap": Metric("pixel AP", of_pixels=PixelFigures.average_precision),
    "pro": Metric("PRO", of_pixels=PixelFigures.region_overlap),
}


def image_metrics(scores: NDArray[np.float32], is_defect: NDArray[np.bool_]) -> dict[str, float]:
    """The metrics that are made of scores `(N,)` against labels `(N,)`."""
    return {name: metric.of_scores(scores, is_defect) for name, metric in METRICS.items() if metric.of_scores}


def pixel_metrics(pixels: PixelFigures) -> dict[str, float]:
    """The metrics that are made of pixels; none where no defect or nothing but defect was counted."""
    if not pixels.complete:
        return {}
    return {name: metric.of_pixels(pixels) for name, metric in METRICS.items() if metric.of_pixels}


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
    from scipy.stats import binomtest

    if trials == 0:
        return (0.0, 1.0)
    interval = binomtest(events, trials).proportion_ci(0.95, method="exact")
    return (float(interval.low), float(interval.high))
