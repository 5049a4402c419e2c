"""Two versions of a recipe on the same images: what each makes of them, and where they differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from service.backends.base import Backend, Scored, score_images
from service.bundle.manifest import InputSpec, QualityLimits, Thresholds
from service.images.cropping import whole_map
from service.images.decoding import Pixels, encode
from service.images.headers import ImageError
from service.images.heatmap import draw_overlay, hot_from
from service.images.quality import find_faults, measure
from service.images.resizing import fit, resize

Finding = Literal["OK", "REVIEW", "NG", "NOT_INSPECTED"]
Truth = Literal["good", "defect", "unknown"]
FINDINGS: tuple[Finding, ...] = get_args(Finding)
TRUTHS: tuple[Truth, ...] = get_args(Truth)

_SIDE = 200  # pixels of an image in a report


@dataclass(frozen=True)
class Contender:
    """A version as it judges: its graph and the limits that are in force for it."""

    name: str
    backend: Backend
    spec: InputSpec
    thresholds: Thresholds
    quality: QualityLimits


@dataclass(frozen=True)
class Sample:
    """An image that both are shown; `truth` is what a person said of the part. `picture` may raise ImageError.

    An image that was sent as a tensor has the network's shape, whatever the photo's was.
    """

    name: str
    picture: Callable[[], Pixels]
    truth: Truth = "unknown"
    tensor: bool = False


@dataclass(frozen=True)
class Judged:
    """What a version makes of an image."""

    finding: Finding
    score: float


@dataclass(frozen=True)
class Compared:
    """One image before and after; `strip`, where the finding changed, is a JPEG of it and of both maps on it."""

    name: str
    truth: Truth
    before: Judged
    after: Judged
    strip: bytes | None = None

    @property
    def changed(self) -> bool:
        return self.before.finding != self.after.finding


@dataclass(frozen=True)
class Comparison:
    """All images, and those that could not be read, with the reason."""

    recipe: str
    before: Contender
    after: Contender
    images: list[Compared]
    left_out: Counter[str]

    def confusion(self, side: Literal["before", "after"]) -> dict[Truth, dict[Finding, int]]:
        """How many images of each truth got each finding."""
        found = Counter((one.truth, getattr(one, side).finding) for one in self.images)
        return {truth: {finding: found[truth, finding] for finding in FINDINGS} for truth in TRUTHS}

    def changes(self) -> list[Compared]:
        """Images whose finding changed; those that matter most come first: defects that pass now."""
        return sorted((one for one in self.images if one.changed), key=_weight)

    @property
    def new_escapes(self) -> list[Compared]:
        """Defects, by what people said, that pass as OK now and did not before."""
        return [one for one in self.changes() if _weight(one) == 0]


def compare(recipe: str, samples: Iterable[Sample], before: Contender, after: Contender) -> Comparison:
    """Show every image to both; raises BackendError. One image is in memory at a time."""
    images: list[Compared] = []
    left_out: Counter[str] = Counter()
    for sample in samples:
        try:
            picture = sample.picture()
            (was, scored_before), (now, scored_after) = (_judge(one, picture, sample) for one in (before, after))
        # Of an image that one of them cannot even see nothing is compared.
        except ImageError as error:
            left_out[str(error)] += 1
            continue
        strip = None
        if was.finding != now.finding:
            strip = _strip(picture, (before, was, scored_before), (after, now, scored_after))
        images.append(Compared(sample.name, sample.truth, was, now, strip))
    return Comparison(recipe, before, after, images, left_out)


def _judge(contender: Contender, picture: Pixels, sample: Sample) -> tuple[Judged, Scored]:
    resized = fit(picture, contender.spec)
    (scored,) = score_images(contender.backend, [resized])
    quality = contender.quality
    if sample.tensor:
        quality = quality.model_copy(update={"aspect_min": 0.0, "aspect_max": math.inf})
    faulty = bool(find_faults(measure(picture, resized), quality))
    finding: Finding = "NOT_INSPECTED" if faulty else contender.thresholds.band(scored.score)
    return Judged(finding, scored.score), scored


def _strip(picture: Pixels, *versions: tuple[Contender, Judged, Scored]) -> bytes:
    shown = resize(picture, _SIDE, _SIDE)
    strip = [shown]
    for contender, judged, scored in versions:
        hot = hot_from(scored.anomaly_map, judged.finding, contender.thresholds.pixel)
        strip.append(draw_overlay(shown, whole_map(scored.anomaly_map, contender.spec), hot, contender.spec.crop))
    return encode(np.hstack(strip), ".jpg")


def _weight(one: Compared) -> int:
    """0: a defect passes now; 1: a good part is rejected now; 2: nobody said what it is; 3: better than before."""
    worse = {"defect": one.after.finding == "OK", "good": one.after.finding == "NG"}
    if one.truth == "unknown":
        return 2
    return 3 if not worse[one.truth] else 0 if one.truth == "defect" else 1
