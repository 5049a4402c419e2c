"""Figures of N parts by their scores alone, as a line sees them: who passes and who is sorted out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]  # (N,)
VIAD_RATE = 0.02  # of missed defects in PG2, of false rejects in PB2
_RESAMPLES = 1000


def auroc(good: Scores, defects: Scores) -> float:
    """Share of pairs of a good part and a defect in which the defect scores higher; equal ones count half."""
    ordered = np.sort(good)
    below, up_to = np.searchsorted(ordered, defects, "left"), np.searchsorted(ordered, defects, "right")
    return float((below + up_to).mean() / (2 * len(good)))


def good_sorted_right(good: Scores, defects: Scores, missed: float = VIAD_RATE) -> float:
    """PG2 of the VIAD benchmark: share of good parts under the threshold that misses at most `missed` of defects."""
    ordered = np.sort(defects)
    threshold = ordered[int(np.floor(missed * len(ordered)))]
    return float((good < threshold).mean())


def defects_found(good: Scores, defects: Scores, rejected: float = VIAD_RATE) -> float:
    """PB2 of the VIAD benchmark: share of defects above the threshold that rejects at most `rejected` of good parts."""
    ordered = np.sort(good)[::-1]
    threshold = ordered[int(np.floor(rejected * len(ordered)))]
    return float((defects > threshold).mean())


def interval(
    groups: Sequence[tuple[Scores, Scores]], figure: Callable[[Scores, Scores], float], seed: int = 0
) -> tuple[float, float]:
    """Bootstrap 95 % interval of the mean of `figure` over groups of good and defective parts' scores.

    Good and defective parts are drawn again, with replacement, each group by itself.
    """
    rng = np.random.default_rng(seed)
    means = [
        np.mean([figure(rng.choice(good, len(good)), rng.choice(bad, len(bad))) for good, bad in groups])
        for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
