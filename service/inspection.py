"""One inspection: bytes -> pixels -> queue -> network -> verdict, regions, picture; with the time each stage took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal

from service.backends import BackendError
from service.batching import Batcher, ClosedError, OverloadedError, Result
from service.heatmap import Region, draw_map, draw_overlay, find_regions, to_npy
from service.images import ImageError, Pixels, encode, resize
from service.monitoring import Metrics
from service.problems import ProblemError
from service.quality import FrozenCameras, find_faults, measure
from service.recipes import Recipe
from service.verdicts import DeadlinePassedError, Evidence, UntrustedResultError, Verdict, judge

# Gives the picture, RGB uint8 (H, W, 3), or raises ImageError; runs in the pool.
Decoder = Callable[[], Pixels]
HeatmapMode = Literal["none", "auto", "overlay", "map", "npy", "jpeg"]

_MEDIA_TYPES = {"overlay": "image/png", "map": "image/png", "npy": "application/x-npy", "jpeg": "image/jpeg"}


@dataclass(frozen=True)
class Heatmap:
    format: Literal["overlay", "map", "npy"]
    media_type: str
    data: bytes


@dataclass(frozen=True)
class Inspection:
    """A finished inspection; `seconds` by stage, in the order they happened, `faults` of the picture itself."""

    recipe: Recipe
    verdict: Verdict
    score: float
    faults: list[str]
    regions: list[Region]
    heatmap: Heatmap | None
    seconds: dict[str, float]


class Inspector:
    """Decodes and draws in `pool`, so that nothing blocks the event loop, and runs the network through `batcher`."""

    def __init__(self, batcher: Batcher, pool: Executor, metrics: Metrics) -> None:
        self._batcher = batcher
        self._pool = pool
        self._metrics = metrics
        self._cameras = FrozenCameras()

    async def inspect(
        self,
        decoder: Decoder,
        recipe: Recipe,
        mode: HeatmapMode,
        *,
        camera: str | None,
        started: float,
        deadline: float,
    ) -> Inspection:
        """Inspect what `decoder` gives; `started` and `deadline` are on time.monotonic. Raises ProblemError.

        A `camera` that has a name is watched for sending the same picture twice.
        """
        seconds = {"read": time.monotonic() - started}
        with self._metrics.in_flight.track_inprogress():
            try:
                inspection = await self._stages(decoder, recipe, mode, camera, deadline, seconds)
            except ImageError as error:
                raise ProblemError(error.code, str(error)) from error
            except OverloadedError as error:
                raise ProblemError("overloaded", str(error), retry_after_s=error.retry_after_s) from error
            except DeadlinePassedError as error:
                raise ProblemError("deadline_passed", str(error)) from error
            except UntrustedResultError as error:
                raise ProblemError("untrusted_result", str(error)) from error
            except BackendError as error:
                raise ProblemError("backend_failed", str(error), retry_after_s=1.0) from error
            except ClosedError as error:
                raise ProblemError(
                    "draining", "the service is shutting down: send it to another", retry_after_s=1.0
                ) from error
        seconds["total"] = time.monotonic() - started
        self._record(inspection)
        return inspection

    async def _stages(
        self,
        decoder: Decoder,
        recipe: Recipe,
        mode: HeatmapMode,
        camera: str | None,
        deadline: float,
        seconds: dict[str, float],
    ) -> Inspection:
        loop = asyncio.get_running_loop()
        clock = time.monotonic()
        image, resized = await loop.run_in_executor(self._pool, _decode, decoder, recipe.shape)
        seconds["decode"] = time.monotonic() - clock

        clock = time.monotonic()
        faults = self._find_faults(image, resized, recipe, camera)
        seconds["quality"] = time.monotonic() - clock

        clock = time.monotonic()
        result = await asyncio.wrap_future(self._batcher.submit(recipe.model, resized, deadline))
        # What the queue did not count, waking up this task, belongs to the waiting.
        seconds["model"] = result.model_s
        seconds["queue"] = time.monotonic() - clock - result.model_s

        clock = time.monotonic()
        verdict, regions, heatmap = await loop.run_in_executor(
            self._pool, _postprocess, image, recipe, result, faults, mode, deadline
        )
        seconds["postprocess"] = time.monotonic() - clock
        if time.monotonic() > deadline:
            raise DeadlinePassedError("the result came after the deadline")
        return Inspection(recipe, verdict, result.score, faults, regions, heatmap, seconds)

    def _find_faults(self, image: Pixels, resized: Pixels, recipe: Recipe, camera: str | None) -> list[str]:
        faults = find_faults(measure(image, resized), recipe.bundle.manifest.quality)
        if camera is not None and self._cameras.is_frozen(camera, resized):
            faults.append(f"frozen: camera {camera!r} sent exactly this picture before")
        return faults

    def _record(self, inspection: Inspection) -> None:
        name = inspection.recipe.name
        for stage, value in inspection.seconds.items():
            self._metrics.seconds.labels(name, stage).observe(value)
        self._metrics.verdicts.labels(name, inspection.verdict).inc()
        for fault in inspection.faults:
            self._metrics.faults.labels(name, fault.split(":")[0]).inc()
        self._metrics.scores.labels(name).observe(inspection.score)


def _decode(decoder: Decoder, shape: tuple[int, int]) -> tuple[Pixels, Pixels]:
    image = decoder()
    return image, resize(image, *shape)


def _postprocess(
    image: Pixels, recipe: Recipe, result: Result, faults: list[str], mode: HeatmapMode, deadline: float
) -> tuple[Verdict, list[Region], Heatmap | None]:
    thresholds = recipe.bundle.manifest.thresholds
    evidence = Evidence(result.anomaly_map, result.score, faults, deadline, time.monotonic())
    verdict = judge(evidence, thresholds, recipe.shape)
    height, width = image.shape[:2]
    regions = find_regions(result.anomaly_map, thresholds.pixel, (height, width))
    if mode == "auto":
        mode = "none" if verdict is Verdict.OK else "overlay"
    return verdict, regions, None if mode == "none" else _draw(image, result, thresholds.pixel, mode)


def _draw(image: Pixels, result: Result, threshold: float, mode: HeatmapMode) -> Heatmap:
    if mode == "npy":
        return Heatmap("npy", _MEDIA_TYPES[mode], to_npy(result.anomaly_map))
    if mode == "map":
        return Heatmap("map", _MEDIA_TYPES[mode], encode(draw_map(result.anomaly_map), ".png"))
    picture = draw_overlay(image, result.anomaly_map, threshold)
    return Heatmap("overlay", _MEDIA_TYPES[mode], encode(picture, ".jpg" if mode == "jpeg" else ".png"))
