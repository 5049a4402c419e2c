"""Figures of merit on numpy arrays: scikit-learn where it has them, PRO here (Bergmann et al., IJCV 2021)."""

from __future__ import annotations

from typing import get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, roc_auc_score

from service.bundle.manifest import Band, Thresholds


def image_metrics(scores: NDArray[np.float32], is_defect: NDArray[np.bool_]) -> dict[str, float]:
    """Image AUROC and average precision of scores `(N,)` against labels `(N,)`."""
    return {
        "image_auroc": float(roc_auc_score(is_defect, scores)),
        "image_ap": float(average_precision_score(is_defect, scores)),
    }


def pixel_metrics(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> dict[str, float]:
    """Pixel AUROC and AP over the pooled pixels of maps and masks `(N, H, W)`, and PRO up to 30 % false positives."""
    labels, values = masks.ravel(), maps.ravel()
    return {
        "pixel_auroc": float(roc_auc_score(labels, values)),
        "pixel_ap": float(average_precision_score(labels, values)),
        "pro": per_region_overlap(maps, masks),
    }


def per_region_overlap(
    maps: NDArray[np.float32], masks: NDArray[np.bool_], *, max_false_positive_rate: float = 0.3
) -> float:
    """Area under the mean region overlap against the false positive rate, divided by its largest possible value.

    Every connected region (8 neighbours) of a mask weighs the same whatever its size. Exact: one step per distinct
    map value, no threshold grid.
    """
    # A pixel's share of the mean overlap; 0 outside of regions.
    share = np.zeros(masks.shape, np.float64)
    regions = 0
    for mask, out in zip(masks, share, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        sizes = np.bincount(labels.ravel())
        out[mask] = 1.0 / sizes[labels[mask]]
        regions += count
    values = maps.ravel()
    order = np.argsort(values)[::-1]
    values = values[order]
    overlap = np.cumsum(share.ravel()[order]) / regions
    normal = ~masks.ravel()[order]
    false_positives = np.cumsum(normal) / normal.sum()
    last_of_ties = np.append(values[1:] != values[:-1], True)
    x = np.concatenate(([0.0], false_positives[last_of_ties]))
    y = np.concatenate(([0.0], overlap[last_of_ties]))
    inside = x < max_false_positive_rate
    x_cut = np.append(x[inside], max_false_positive_rate)
    y_cut = np.append(y[inside], np.interp(max_false_positive_rate, x, y))
    return float(np.trapezoid(y_cut, x_cut) / max_false_positive_rate)


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
