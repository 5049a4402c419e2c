"""Verdicts, and the only place in the service that can say OK."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Thresholds


class Verdict(StrEnum):
    """What the line acts on; NOT_INSPECTED, the verdict of every error and unfit image, is to be treated like NG."""

    OK = "OK"
    REVIEW = "REVIEW"
    NG = "NG"
    NOT_INSPECTED = "NOT_INSPECTED"


class UntrustedResultError(Exception):
    """The network's output cannot be judged; the message says what is wrong with it."""


class DeadlinePassedError(Exception):
    """The result came after the deadline: the part has moved on."""


@dataclass(frozen=True)
class Evidence:
    """What one inspection found: map float32 `(H, W)`, score, faults of the image, deadline and time in seconds.

    `quality_reasons` is empty only for an image that passed the quality gate.
    """

    anomaly_map: NDArray[np.float32]
    score: float
    quality_reasons: Sequence[str]
    deadline: float
    now: float


def judge(evidence: Evidence, thresholds: Thresholds, shape: tuple[int, int]) -> Verdict:
    """The verdict on a complete, finite, timely result whose map has `shape`; raises instead of guessing.

    NOT_INSPECTED for an image that failed the quality gate, whatever its score.
    """
    found = evidence.anomaly_map
    if found.shape != shape:
        raise UntrustedResultError(f"anomaly map is {found.shape}, the recipe says {shape}")
    low, high = float(found.min()), float(found.max())
    # Written so that NaN fails every comparison.
    if not (low >= 0.0 and high <= 1.0):
        raise UntrustedResultError(f"anomaly map holds values outside of [0, 1] ({low} to {high})")
    if not 0.0 <= evidence.score <= 1.0:
        raise UntrustedResultError(f"score {evidence.score} is outside of [0, 1]")
    if not evidence.now <= evidence.deadline:
        raise DeadlinePassedError("the result came after the deadline")
    if evidence.quality_reasons:
        return Verdict.NOT_INSPECTED
    return Verdict(thresholds.band(evidence.score))
