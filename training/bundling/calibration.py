"""Thresholds from held-out good photos, with how sure one can be of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.backends.base import Scored
from service.bundle.manifest import Calibration, Thresholds
from training.evaluation.metrics import clopper_pearson, in_bands, stacked

# REVIEW may take this many times more good parts than NG: a look costs less than a rejected part.
REVIEW_TO_REJECT = 3.0
# Without defects to outline: good photos with a spot that is all bright would put the pixel threshold at 1, and no
# region would ever be shown.
PIXEL_THRESHOLDS = (0.5, 0.9)
_LEVELS = 200  # of the map, among which the pixel threshold is chosen


def calibrate(
    good: Sequence[Scored],
    simulated: Sequence[Scored],
    *,
    false_reject_rate: float,
    trained_on: bool = False,
    min_area: int = 0,
    weights: NDArray[np.float64] | None = None,
    masks: Sequence[NDArray[np.bool_]] = (),
) -> Thresholds:
    """Thresholds such that at most `false_reject_rate` of future good parts are expected at or above reject.

    Split conformal prediction: with n exchangeable good scores, a new one exceeds the k-th smallest, k = ceil((n
    + 1)(1 - rate)), with probability at most rate. Where n is too small for that (k > n), reject is put above the
    largest good score by the distance from their median, and a warning says so. `simulated`, rendered defects, only
    tell the escape rate; with their `masks` they choose the pixel threshold, which no verdict depends on.
    Good photos that the network was `trained_on` score lower than new ones: then a warning is all that is promised.
    Regions of fewer than `min_area` pixels are not reported; the verdict does not depend on that.
    `weights` `(n,)`: how many of the line's parts each good part stands for, where not all had the same chance.
    """
    good_maps, good_scores = stacked(good)
    order = np.argsort(good_scores, kind="stable")
    ordered = good_scores.astype(np.float64)[order]
    stands_for = np.ones(len(ordered)) if weights is None else weights[order]
    reject = _upper_limit(ordered, stands_for, false_reject_rate)
    review_rate = min(0.5, REVIEW_TO_REJECT * false_reject_rate)
    review = min(reject, _upper_limit(ordered, stands_for, review_rate, extrapolate=False))
    needed, count_like = photos_needed(false_reject_rate), counts_like(stands_for)
    warnings = []
    if trained_on:
        warnings.append(
            "the network was trained on the photos that set the thresholds: they are too low, and more good parts will "
            "be rejected than was asked for; calibrate on photos that it has not seen"
        )
    if count_like < needed:
        warnings.append(
            f"{count_like} held-out good photos cannot show a false-reject rate of {false_reject_rate:.3g}: at least "
            f"{needed} are needed; thresholds were extrapolated, check them on the line before trusting them"
        )
    calibration = Calibration(
        target_false_reject_rate=false_reject_rate,
        good_images=len(good),
        false_rejects=0,
        false_reject_interval=(0.0, 1.0),
        defect_images=len(simulated),
        defect_source="simulated" if simulated else "none",
        good_scores=[round(min(1.0, float(score)), 6) for score in _spread(ordered, stands_for)],
        warning="; ".join(warnings) or None,
    )
    thresholds = Thresholds(
        review=review,
        reject=reject,
        pixel=float(np.clip(np.quantile(good_maps, 0.9999), *PIXEL_THRESHOLDS)),
        min_area=min_area,
        calibration=calibration,
    )
    seen = [one for one in zip(simulated, masks, strict=False) if thresholds.band(one[0].score) == "NG"]
    if seen:
        thresholds = thresholds.model_copy(update={"pixel": _outlining(seen)})
    # What these thresholds make of the scores that they come from.
    rejects = in_bands(good_scores, thresholds)["NG"]
    escapes = in_bands(stacked(simulated)[1], thresholds)["OK"]
    counted = {
        "false_rejects": rejects,
        "false_reject_interval": clopper_pearson(_rejected_like(ordered, stands_for, reject), count_like),
        "escapes": escapes,
        "escape_interval": clopper_pearson(escapes, len(simulated)),
    }
    return thresholds.model_copy(update={"calibration": calibration.model_copy(update=counted)})


def _outlining(defects: Sequence[tuple[Scored, NDArray[np.bool_]]]) -> float:
    """The level at which maps outline their defects best, in the mean of F1, and none of them has nothing to show."""
    mean = np.mean([_f1(scored.anomaly_map, mask) for scored, mask in defects], axis=0)
    # Of several that are as good the middle one.
    level = float(np.median(1 + np.flatnonzero(mean[1:] == mean[1:].max()))) / _LEVELS
    return min(level, *(float(scored.anomaly_map.max()) for scored, _ in defects))


def _f1(anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of what is at or above each of the levels 0, 1/_LEVELS, … against the mask."""
    levels = np.minimum(anomaly_map * _LEVELS, _LEVELS - 1).astype(np.int64)
    inside, outside = (np.bincount(levels[where], minlength=_LEVELS)[::-1].cumsum()[::-1] for where in (mask, ~mask))
    f1: NDArray[np.float64] = 2 * inside / (inside + outside + max(1, int(mask.sum())))
    return f1


def photos_needed(false_reject_rate: float) -> int:
    """Held-out photos without which no threshold keeps the promise: the rank k of `calibrate` must be one of them."""
    return math.ceil(1 / false_reject_rate) - 1


# Of the bundles in experiments/RESULTS.md those whose image AUROC on real defects is good are below it, PaDiM on
# wood and magnetic_tile, which lets a quarter and more of them pass, is above.
MOST_ESCAPES = 0.5


def why_unfit(calibration: Calibration, most_escapes: float) -> str | None:
    """Why no part should be judged by these thresholds: too many of the defects pass them as OK."""
    if not calibration.defect_images:
        return None
    share = calibration.escapes / calibration.defect_images
    if share <= most_escapes:
        return None
    kind = "confirmed" if calibration.defect_source == "labelled" else "rendered"
    return (
        f"{calibration.escapes} of {calibration.defect_images} {kind} defects pass as OK ({share:.0%}, allowed are "
        f"{most_escapes:.0%})"
    )


def counts_like(weights: NDArray[np.float64]) -> int:
    """How many parts, drawn alike, parts of such weights are worth: all of them where all weigh the same."""
    return int(weights.sum() / weights.max()) if len(weights) else 0


def _upper_limit(
    ordered: NDArray[np.float64], weights: NDArray[np.float64], rate: float, *, extrapolate: bool = True
) -> float:
    """Weighted split conformal prediction (Tibshirani et al. 2019); a new part weighs as much as the heaviest here."""
    needed = (weights.sum() + weights.max()) * (1 - rate)
    rank = int(np.searchsorted(np.cumsum(weights), needed)) + 1
    limit = float(ordered[min(rank, len(ordered)) - 1])
    if rank > len(ordered) and extrapolate:
        limit += limit - _median(ordered, weights)
    # The limit itself is still good: the verdict compares with >=.
    return min(1.0, float(np.nextafter(np.float32(limit), np.float32(2))))


def _median(ordered: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    return float(np.median(_spread(ordered, weights)))


def _spread(ordered: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """As many scores as there are, spread as those of the parts that they stand for."""
    reached = np.cumsum(weights) / weights.sum()
    places = np.searchsorted(reached, (np.arange(len(ordered)) + 0.5) / len(ordered))
    return ordered[np.minimum(places, len(ordered) - 1)]


def _rejected_like(ordered: NDArray[np.float64], weights: NDArray[np.float64], reject: float) -> int:
    share = float(weights[ordered >= reject].sum() / weights.sum())
    return math.ceil(share * counts_like(weights) - 1e-9)
