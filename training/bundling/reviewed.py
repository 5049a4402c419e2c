"""What a bundle makes of parts that people reviewed: good ones with what each stands for, and confirmed defects."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.backends.base import Backend, Scored, score_images
from service.bundle.folder import Bundle
from service.images.headers import ImageError
from service.images.quality import find_faults, measure
from service.images.resizing import fit
from training.bundling.calibration import counts_like, photos_needed
from training.data.recorded import ReviewedPart, Stratum
from training.errors import UserError

# Who rejects more good parts makes no promise with it.
_MOST_REJECTS = 0.2


class RecalibrationError(UserError):
    """The reviewed parts do not give thresholds; the message says what is missing."""


@dataclass(frozen=True)
class ReviewedLine:
    """What the bundle makes of the reviewed parts: good ones with what each stands for, and confirmed defects."""

    good: list[ReviewedPart]
    good_scored: list[Scored]
    weights: NDArray[np.float64]
    defects_scored: list[Scored]
    unfit_images: int


def score_reviewed(
    bundle: Bundle, parts: Sequence[ReviewedPart], inspected: Counter[Stratum], backend: Backend
) -> ReviewedLine:
    """By the bundle's graph; parts whose image is not fit to be judged are counted alone."""
    good: list[ReviewedPart] = []
    good_scored: list[Scored] = []
    defects: list[Scored] = []
    looked_at: Counter[Stratum] = Counter()
    unfit = 0
    for part in parts:
        try:
            picture = part.pixels()
            resized = fit(picture, bundle.manifest.input)
        except ImageError:
            unfit += 1
            continue
        # What no threshold decides on, and what nobody counted among the scored parts.
        if find_faults(measure(picture, resized), bundle.manifest.quality) or not inspected[part.stratum]:
            unfit += 1
            continue
        (scored,) = score_images(backend, [resized])
        looked_at[part.stratum] += 1
        if part.kind:
            defects.append(scored)
        else:
            good.append(part)
            good_scored.append(scored)
    weights = np.array([inspected[part.stratum] / looked_at[part.stratum] for part in good])
    return ReviewedLine(good, good_scored, weights, defects, unfit)


def require_enough(line: ReviewedLine, rate: float) -> None:
    """Raises RecalibrationError where so many parts cannot show a false-reject rate."""
    count, needed = counts_like(line.weights), photos_needed(rate)
    if line.good and not any(part.stratum[1] == "OK" for part in line.good):
        raise RecalibrationError(
            f"{len(line.good)} good parts were reviewed, and none of them had passed as OK: they are doubtful ones, "
            "and would put the thresholds far too high: review a sample of those that pass too (INSPECT_SAMPLE_OK)"
        )
    if count < needed:
        possible = math.ceil(1000 / (count + 1)) / 1000
        less = f", or promise --false-reject-rate {possible}" if possible <= _MOST_REJECTS else ""
        raise RecalibrationError(
            f"{len(line.good)} reviewed good parts count like {count}, a false-reject rate of {rate:.3g} takes "
            f"{needed}: review more of those that passed (INSPECT_SAMPLE_OK){less}"
        )


def seen_by(bundle: Bundle, parts: Sequence[ReviewedPart]) -> list[NDArray[np.uint8]]:
    """What the bundle sees of parts."""
    return [fit(part.pixels(), bundle.manifest.input) for part in parts]
