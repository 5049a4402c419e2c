"""Thresholds that came from no photos."""

from __future__ import annotations

from collections.abc import Sequence

from service.bundle.manifest import Calibration, Thresholds


def thresholds(review: float, reject: float, good_scores: Sequence[float] = ()) -> Thresholds:
    calibration = Calibration(
        target_false_reject_rate=0.01,
        good_images=len(good_scores),
        false_rejects=0,
        false_reject_interval=(0.0, 1.0),
        good_scores=list(good_scores),
    )
    return Thresholds(review=review, reject=reject, pixel=0.5, calibration=calibration)
