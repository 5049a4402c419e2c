"""A finished inspection: verdict, score, regions and heatmap, and how the network's result becomes them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import Crop
from service.images.cropping import box_of, whole_map
from service.images.decoding import encode
from service.images.heatmap import Region, draw_map, draw_overlay, find_regions, hot_from, to_npy
from service.images.quality import Quality
from service.station.loading import Recipe
from service.station.preparing import Picture
from service.station.runs import Result
from service.station.verdicts import DeadlinePassedError, Evidence, UntrustedResultError, Verdict, judge

HeatmapMode = Literal["none", "auto", "overlay", "map", "npy", "jpeg"]
# What is drawn on the image itself, which waits with a preview then.
ON_THE_IMAGE: frozenset[HeatmapMode] = frozenset({"auto", "overlay", "jpeg"})

_MEDIA_TYPES = {"overlay": "image/png", "map": "image/png", "npy": "application/x-npy", "jpeg": "image/jpeg"}


@dataclass(frozen=True)
class Heatmap:
    format: Literal["overlay", "map", "npy"]
    media_type: str
    data: bytes


@dataclass(frozen=True)
class Inspection:
    """A finished inspection: map float32 `(h, w)` of the whole photo, size (H, W) of the image as it was sent, `faults`
    of that image, `seconds` by stage.
    """

    recipe: Recipe
    verdict: Verdict
    score: float
    anomaly_map: NDArray[np.float32]
    image_size: tuple[int, int]
    faults: list[str]
    regions: list[Region]
    heatmap: Heatmap | None
    seconds: dict[str, float]
    quality: Quality


class Judged(NamedTuple):
    verdict: Verdict
    regions: list[Region]
    heatmap: Heatmap | None


def judge_result(picture: Picture, result: Result, recipe: Recipe, deadline: float) -> Verdict:
    """The verdict on what the network gave, now; raises what `judge` does."""
    evidence = Evidence(result.scored.anomaly_map, result.scored.score, picture.faults, deadline, time.monotonic())
    return judge(evidence, recipe.limits.thresholds, recipe.shape)


def judge_and_draw(picture: Picture, result: Result, recipe: Recipe, mode: HeatmapMode, deadline: float) -> Judged:
    """The same with the regions that it is for, and with the heatmap that was asked for."""
    thresholds, spec = recipe.limits.thresholds, recipe.bundle.manifest.input
    verdict, found = judge_result(picture, result, recipe, deadline), result.scored.anomaly_map
    hot = hot_from(found, verdict, thresholds.pixel)
    regions = find_regions(found, hot, box_of(spec.crop, picture.size), min_area=thresholds.min_area)
    if mode == "auto":
        mode = "none" if verdict is Verdict.OK else "overlay"
    if mode == "none":
        return Judged(verdict, regions, None)
    return Judged(verdict, regions, _draw(picture, whole_map(found, spec), hot, spec.crop, mode))


def require_valid(recipe: Recipe, deadline: float) -> None:
    """Raises where what was judged may not go out any more: too late, or by a model that is refused by now."""
    if time.monotonic() > deadline:
        raise DeadlinePassedError("the result came after the deadline")
    if recipe.model.refused:
        raise UntrustedResultError(f"recipe {recipe.name!r} failed its golden images meanwhile")


def finish(
    picture: Picture, result: Result, recipe: Recipe, judged: Judged, seconds: Mapping[str, float], *, frozen: bool
) -> Inspection:
    """The inspection; `seconds` are those of the stages that the images of a request share. A `frozen` camera saw no
    part.
    """
    # What the queue did not count, waking up this task, belongs to the waiting. The quality is measured meanwhile.
    own = {
        **seconds,
        "quality": picture.quality_s,
        "queue": seconds["queue"] - result.model_s,
        "model": result.model_s,
    }
    return Inspection(
        recipe=recipe,
        verdict=Verdict.NOT_INSPECTED if frozen else judged.verdict,
        score=result.scored.score,
        anomaly_map=whole_map(result.scored.anomaly_map, recipe.bundle.manifest.input),
        image_size=picture.size,
        faults=picture.faults,
        regions=judged.regions,
        heatmap=judged.heatmap,
        seconds=own,
        quality=picture.quality,
    )


def _draw(
    picture: Picture, found: NDArray[np.float32], hot: float | None, crop: Crop | None, mode: HeatmapMode
) -> Heatmap | None:
    if mode == "npy":
        return Heatmap("npy", _MEDIA_TYPES[mode], to_npy(found))
    if mode == "map":
        return Heatmap("map", _MEDIA_TYPES[mode], encode(draw_map(found), ".png"))
    if picture.preview is None:
        return None
    overlay = draw_overlay(picture.preview, found, hot, crop)
    return Heatmap("overlay", _MEDIA_TYPES[mode], encode(overlay, ".jpg" if mode == "jpeg" else ".png"))
