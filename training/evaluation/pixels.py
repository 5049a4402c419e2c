"""Pixel figures of a test split, an image at a time: memory does not grow with the number of images.

Map values are counted in bins of equal width in log(p / (1 - p)), which is where a softmax has its resolution: fine
near 0 and near 1. Pixels in one bin count as equal. AUROC, average precision and PRO (Bergmann et al., IJCV 2021)
differ from those of sorted pixels by less than 1e-4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The logarithm's range for float32, between its smallest number and the last one below 1.
_LOWEST, _HIGHEST = -104.0, 17.0
_BINS = 2**21  # of three counters, 48 MiB
_PRO_LIMIT = 0.3  # largest false positive rate of the PRO


class PixelFigures:
    """Adds up maps and masks of one test split."""

    def __init__(self) -> None:
        self._normal = np.zeros(_BINS, np.int64)
        self._defective = np.zeros(_BINS, np.int64)
        # A pixel of a region of n pixels weighs 1 / n: every connected region counts the same whatever its size.
        self._overlap = np.zeros(_BINS, np.float64)
        self._regions = 0

    def add(self, anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
        """Map in [0, 1] and mask `(H, W)` of one image."""
        from scipy import ndimage  # not with every command

        bins = _bins(anomaly_map)
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        inside = labels[mask]
        values, counts = np.unique(bins[~mask], return_counts=True)
        self._normal[values] += counts
        np.add.at(self._defective, bins[mask], 1)
        np.add.at(self._overlap, bins[mask], 1 / np.bincount(inside)[inside])
        self._regions += count

    @property
    def complete(self) -> bool:
        """Whether there are defective pixels and others: without both there are no figures."""
        return bool(self._normal.any() and self._defective.any())

    def auroc(self) -> float:
        below = np.cumsum(self._normal) - self._normal / 2
        return float((self._defective * below).sum() / (self._defective.sum() * self._normal.sum()))

    def average_precision(self) -> float:
        hits, false = np.cumsum(self._defective[::-1]), np.cumsum(self._normal[::-1])
        precision = hits / np.maximum(hits + false, 1)
        return float((self._defective[::-1] * precision).sum() / self._defective.sum())

    def region_overlap(self) -> float:
        """PRO up to 30 % false positives."""
        false = np.cumsum(self._normal[::-1]) / self._normal.sum()
        return _area(false, np.cumsum(self._overlap[::-1]) / self._regions)


def _bins(anomaly_map: NDArray[np.float32]) -> NDArray[np.int64]:
    p = anomaly_map.astype(np.float64)
    with np.errstate(divide="ignore"):
        logits = np.log(np.maximum(p, 0)) - np.log1p(-np.minimum(p, 1))
    scaled = (np.clip(logits, _LOWEST, _HIGHEST) - _LOWEST) / (_HIGHEST - _LOWEST)
    bins: NDArray[np.int64] = np.minimum(scaled * _BINS, _BINS - 1).astype(np.int64)
    return bins


def _area(false_positive_rate: NDArray[np.float64], overlap: NDArray[np.float64]) -> float:
    """Area under the mean overlap of regions up to the limit, divided by its largest possible value."""
    x, y = np.concatenate(([0.0], false_positive_rate)), np.concatenate(([0.0], overlap))
    inside = x < _PRO_LIMIT
    x_cut = np.append(x[inside], _PRO_LIMIT)
    y_cut = np.append(y[inside], np.interp(_PRO_LIMIT, x, y))
    return float(np.trapezoid(y_cut, x_cut) / _PRO_LIMIT)
