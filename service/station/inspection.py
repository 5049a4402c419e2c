"""One inspection: bytes -> pixels -> queue -> network -> verdict, regions, image; with the time each stage took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from service.backends.base import BackendError
from service.bundle.manifest import Crop, InputSpec
from service.images.cropping import box_of, whole_map
from service.images.decoding import Pixels, encode
from service.images.headers import ImageError
from service.images.heatmap import Region, draw_map, draw_overlay, find_regions, hot_from, preview, to_npy
from service.images.quality import Quality, brightness_ratio, find_faults, measure
from service.images.resizing import fit
from service.station.batching import Batcher, ClosedError, OverloadedError
from service.station.cameras import FrozenCameras, digest
from service.station.counters import Counters
from service.station.decode_pool import Codec
from service.station.loading import Recipe
from service.station.monitoring import Metrics
from service.station.problem import ProblemError
from service.station.runs import Result
from service.station.tracing import trace_inspection
from service.station.verdicts import DeadlinePassedError, Evidence, UntrustedResultError, Verdict, judge

T = TypeVar("T")

# Gives the image, RGB uint8 (H, W, 3), or raises ImageError; runs in the pool.
Decoder = Callable[[], Pixels]
HeatmapMode = Literal["none", "auto", "overlay", "map", "npy", "jpeg"]

# Seconds that a shadow inspection may take; nothing waits for it.
_SHADOW_S = 5.0
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


@dataclass(frozen=True)
class _Picture:
    """What is kept of a decoded image while it waits: large originals would fill the memory."""

    resized: Pixels
    size: tuple[int, int]
    preview: Pixels | None
    faults: list[str]
    digest: bytes | None
    quality_s: float
    quality: Quality
    # The version that sees the same without a say, and what it inspects of the photo; None where it cannot.
    shadow: tuple[Recipe, Pixels | None] | None


@contextmanager
def as_problems() -> Iterator[None]:
    """Every way an inspection can fail, as the ProblemError that the client gets."""
    try:
        yield
    except ImageError as error:
        raise ProblemError(error.code, str(error)) from error
    except OverloadedError as error:
        raise ProblemError("overloaded", str(error), retry_after_s=error.retry_after_s) from error
    except DeadlinePassedError as error:
        raise ProblemError("deadline_passed", str(error)) from error
    except TimeoutError as error:
        raise ProblemError("deadline_passed", "the deadline passed before there was a result") from error
    except UntrustedResultError as error:
        raise ProblemError("untrusted_result", str(error)) from error
    except BackendError as error:
        raise ProblemError("backend_failed", str(error), retry_after_s=1.0) from error
    except ClosedError as error:
        raise ProblemError("draining", "the service is shutting down: send it to another", retry_after_s=1.0) from error


class Inspector:
    """Decodes and draws in `codec`, so that nothing blocks the event loop, and runs the network through `batcher`."""

    def __init__(
        self, batcher: Batcher, codec: Codec, metrics: Metrics, counters: Counters, shadows: Mapping[str, Recipe]
    ) -> None:
        self._batcher = batcher
        self._codec = codec
        self._metrics = metrics
        self._counters = counters
        self._shadows = shadows
        self._comparing: set[asyncio.Task[None]] = set()
        self._cameras = FrozenCameras()

    def admit(self, recipe: Recipe, deadline: float) -> None:
        """Raises ProblemError where an image that comes now cannot make its deadline: before its body is read."""
        with as_problems():
            self._batcher.admit(recipe.model, deadline)
            self._codec.admit(deadline - self._batcher.expected_wait(recipe.model))

    async def inspect_all(
        self,
        decoders: Sequence[Decoder],
        recipe: Recipe,
        mode: HeatmapMode,
        *,
        camera: str | None,
        started: float,
        deadline: float,
    ) -> list[Inspection]:
        """Inspect what `decoders` give, in order: all of it or none; `started` and `deadline` are on time.monotonic.

        A `camera` that has a name is watched for sending the same image twice. Raises ProblemError. Counts nothing:
        see `count`.
        """
        seconds = {"read": time.monotonic() - started}
        attributes: dict[str, str | float] = {"recipe": recipe.name, "version": recipe.version}
        try:
            with self._in_flight(len(decoders)), as_problems():
                # A device that hangs must not keep the line waiting for a verdict.
                async with asyncio.timeout(deadline - time.monotonic()):
                    found = await self._stages(decoders, recipe, mode, camera, deadline, seconds)
        except ProblemError as problem:
            trace_inspection(seconds, started, attributes, problem=problem.code)
            raise
        total = time.monotonic() - started
        for inspection in found:
            inspection.seconds["total"] = total
            result = {**attributes, "verdict": str(inspection.verdict), "score": inspection.score}
            trace_inspection(inspection.seconds, started, result)
            self._metrics.of_deadline(recipe.name).observe(total / (deadline - started))
        return found

    def count(self, inspection: Inspection) -> None:
        """Add an answered image to the metrics and to the parts by verdict."""
        recipe = inspection.recipe
        for stage, value in inspection.seconds.items():
            self._metrics.of_stage(recipe.name, stage).observe(value)
        self._metrics.of_verdict(recipe.name, inspection.verdict).inc()
        for fault in inspection.faults:
            self._metrics.faults.labels(recipe.name, fault.split(":")[0]).inc()
        if inspection.verdict is not Verdict.NOT_INSPECTED:
            self._metrics.of_scores(recipe.name).observe(inspection.score)
        self._counters.add(recipe.name, recipe.version, inspection.verdict, inspection.score, inspection.faults)

    @contextmanager
    def _in_flight(self, pictures: int) -> Iterator[None]:
        self._metrics.in_flight.inc(pictures)
        try:
            yield
        finally:
            self._metrics.in_flight.dec(pictures)

    async def _stages(
        self,
        decoders: Sequence[Decoder],
        recipe: Recipe,
        mode: HeatmapMode,
        camera: str | None,
        deadline: float,
        seconds: dict[str, float],
    ) -> list[Inspection]:
        """Each stage for all images, then the next; adds to `seconds` what the finished stages took."""
        clock = time.monotonic()

        def prepare(decoder: Decoder) -> _Picture:
            picture = self._prepare(decoder, recipe, mode, camera is not None)
            # Of several images the last one's stays.
            seconds["decode"] = time.monotonic() - clock
            return picture

        def submit(picture: _Picture) -> Future[Result | None]:
            return cast(Future[Result | None], self._batcher.submit(recipe.model, picture.resized, deadline))

        # Alone, an image goes to the device straight from the thread that decoded it. Several go there together, when
        # the last is decoded, and share a batch.
        alone = len(decoders) == 1
        work = [self._codec.decode(deadline, partial(prepare, one), submit if alone else _later) for one in decoders]
        decoded = await _together(work)
        pictures = [picture for picture, _ in decoded]
        results = [result for _, result in decoded if result is not None]
        if not alone:
            results = await self._run_all([picture.resized for picture in pictures], recipe, deadline)
        seconds["queue"] = time.monotonic() - clock - seconds["decode"]

        clock = time.monotonic()
        judged = await _together(
            [
                self._conclude(picture, result, recipe, mode, deadline)
                for picture, result in zip(pictures, results, strict=True)
            ]
        )
        seconds["postprocess"] = time.monotonic() - clock
        if time.monotonic() > deadline:
            raise DeadlinePassedError("the result came after the deadline")
        if recipe.model.refused:
            raise UntrustedResultError(f"recipe {recipe.name!r} failed its golden images meanwhile")
        # From here on nothing waits and nothing fails: every image gets its verdict.
        found = []
        for picture, result, (verdict, regions, heatmap) in zip(pictures, results, judged, strict=True):
            if self._is_frozen(camera, recipe, picture):
                verdict = Verdict.NOT_INSPECTED
            # What the queue did not count, waking up this task, belongs to the waiting.
            own = seconds | {
                "decode": seconds["decode"] - picture.quality_s,
                "quality": picture.quality_s,
                "queue": seconds["queue"] - result.model_s,
                "model": result.model_s,
            }
            found.append(
                Inspection(
                    recipe=recipe,
                    verdict=verdict,
                    score=result.scored.score,
                    anomaly_map=whole_map(result.scored.anomaly_map, recipe.bundle.manifest.input),
                    image_size=picture.size,
                    faults=picture.faults,
                    regions=regions,
                    heatmap=heatmap,
                    seconds=own,
                    quality=picture.quality,
                )
            )
            self._compare_with_shadow(picture, verdict)
        return found

    async def _conclude(
        self, picture: _Picture, result: Result, recipe: Recipe, mode: HeatmapMode, deadline: float
    ) -> tuple[Verdict, list[Region], Heatmap | None]:
        # Nothing to label or to draw: the verdict takes less than the way to another thread and back.
        if mode == "none" and recipe.limits.thresholds.band(result.scored.score) == "OK":
            return _judge(picture, result, recipe, deadline), [], None
        return await self._codec.draw(partial(_postprocess, picture, recipe, result, mode, deadline))

    async def _run_all(self, images: Sequence[Pixels], recipe: Recipe, deadline: float) -> list[Result]:
        futures: list[Future[Result]] = []
        try:
            # Extended one by one: where a submit raises, those before it are in the list.
            futures.extend(self._batcher.submit(recipe.model, image, deadline) for image in images)
            return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))
        finally:
            # One that fails takes the others out of the queue: nobody would get their results.
            for future in futures:
                future.cancel()

    def _is_frozen(self, camera: str | None, recipe: Recipe, picture: _Picture) -> bool:
        """Compare and remember in one step, with the verdict: an image that got none may be sent again, and of two
        that are the same and under way together the second is frozen.
        """
        if camera is None or picture.digest is None:
            return False
        frozen = self._cameras.is_frozen(camera, recipe.name, picture.digest)
        if frozen:
            picture.faults.append(f"frozen: camera {camera!r} sent exactly this image before")
        return frozen

    def _prepare(self, decoder: Decoder, recipe: Recipe, mode: HeatmapMode, watched: bool) -> _Picture:
        image = decoder()
        spec = recipe.bundle.manifest.input
        resized = fit(image, spec)
        shadow = self._shadows.get(recipe.name)
        clock = time.monotonic()
        quality = measure(image, resized)
        limits = recipe.limits.quality
        faults = find_faults(quality, limits)
        self._metrics.of_brightness(recipe.name).observe(brightness_ratio(quality, limits))
        watched_digest = digest(resized) if watched else None
        quality_s = time.monotonic() - clock
        return _Picture(
            resized=resized,
            size=(image.shape[0], image.shape[1]),
            preview=preview(image) if mode in {"auto", "overlay", "jpeg"} else None,
            faults=faults,
            digest=watched_digest,
            quality_s=quality_s,
            quality=quality,
            shadow=None if shadow is None else (shadow, _for_shadow(image, resized, spec, shadow)),
        )

    def _compare_with_shadow(self, picture: _Picture, verdict: Verdict) -> None:
        """Ask the shadow version, if there is one, after the fact and only while nobody waits for the device."""
        if picture.shadow is None or self._batcher.depth:
            return
        shadow, image = picture.shadow
        if image is None:
            self._metrics.shadow.labels(shadow.name, verdict, Verdict.NOT_INSPECTED).inc()
            return

        async def compare() -> None:
            deadline = time.monotonic() + _SHADOW_S
            try:
                result = await asyncio.wrap_future(self._batcher.submit(shadow.model, image, deadline))
                evidence = Evidence(
                    result.scored.anomaly_map, result.scored.score, picture.faults, deadline, time.monotonic()
                )
                other = judge(evidence, shadow.limits.thresholds, shadow.shape)
            except (OverloadedError, ClosedError, DeadlinePassedError, UntrustedResultError, BackendError):
                other = Verdict.NOT_INSPECTED
            self._metrics.shadow.labels(shadow.name, verdict, other).inc()

        task = asyncio.create_task(compare())
        # The event loop itself keeps no task alive.
        self._comparing.add(task)
        task.add_done_callback(self._comparing.discard)


def _later(_: _Picture) -> Future[Result | None]:
    """No result yet: the image goes to the device with others."""
    promise: Future[Result | None] = Future()
    promise.set_result(None)
    return promise


async def _together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, in order; where one fails nobody would get those of the others, and they are cancelled."""
    if len(work) == 1:
        return [await work[0]]
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _for_shadow(image: Pixels, resized: Pixels, spec: InputSpec, shadow: Recipe) -> Pixels | None:
    """What the shadow inspects of a photo, of which `resized` fits `spec`; a photo that it refuses is inspected."""
    own = shadow.bundle.manifest.input
    if own == spec:
        return resized
    with suppress(ImageError):
        return fit(image, own)
    return None


def _judge(picture: _Picture, result: Result, recipe: Recipe, deadline: float) -> Verdict:
    evidence = Evidence(result.scored.anomaly_map, result.scored.score, picture.faults, deadline, time.monotonic())
    return judge(evidence, recipe.limits.thresholds, recipe.shape)


def _postprocess(
    picture: _Picture, recipe: Recipe, result: Result, mode: HeatmapMode, deadline: float
) -> tuple[Verdict, list[Region], Heatmap | None]:
    thresholds, spec = recipe.limits.thresholds, recipe.bundle.manifest.input
    verdict, found = _judge(picture, result, recipe, deadline), result.scored.anomaly_map
    hot = hot_from(found, verdict, thresholds.pixel)
    regions = find_regions(found, hot, box_of(spec.crop, picture.size), min_area=thresholds.min_area)
    if mode == "auto":
        mode = "none" if verdict is Verdict.OK else "overlay"
    if mode == "none":
        return verdict, regions, None
    return verdict, regions, _draw(picture, whole_map(found, spec), hot, spec.crop, mode)


def _draw(
    picture: _Picture, found: NDArray[np.float32], hot: float | None, crop: Crop | None, mode: HeatmapMode
) -> Heatmap | None:
    if mode == "npy":
        return Heatmap("npy", _MEDIA_TYPES[mode], to_npy(found))
    if mode == "map":
        return Heatmap("map", _MEDIA_TYPES[mode], encode(draw_map(found), ".png"))
    if picture.preview is None:
        return None
    overlay = draw_overlay(picture.preview, found, hot, crop)
    return Heatmap("overlay", _MEDIA_TYPES[mode], encode(overlay, ".jpg" if mode == "jpeg" else ".png"))
