"""One inspection: bytes -> pixels -> queue -> network -> verdict, regions, image; with the time each stage took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar, cast

from service.images.decoding import Decoder
from service.station.batching import Batcher
from service.station.cameras import FrozenCameras
from service.station.decode_pool import Codec
from service.station.inspection import (
    ON_THE_IMAGE,
    HeatmapMode,
    Inspection,
    Judged,
    finish,
    judge_and_draw,
    judge_result,
    require_valid,
)
from service.station.loading import Recipe
from service.station.monitoring import Metrics
from service.station.preparing import Decoded, Picture, examine, prepare
from service.station.problem import FAILURES, problem_of
from service.station.runs import Result
from service.station.shadowing import Shadowing
from service.station.tracing import trace_inspection

T = TypeVar("T")


class Inspector:
    """Decodes and draws in `codec`, so that nothing blocks the event loop, and runs the network through `batcher`."""

    def __init__(self, batcher: Batcher, codec: Codec, metrics: Metrics, shadows: Mapping[str, Recipe]) -> None:
        self._batcher = batcher
        self._codec = codec
        self._metrics = metrics
        self._shadows = shadows
        self._shadowing = Shadowing(batcher, metrics)
        self._cameras = FrozenCameras()
        self._pace = codec.pace

    def admit(self, recipe: Recipe, deadline: float) -> None:
        """Raises ProblemError where an image that comes now cannot make its deadline: before its body is read."""
        try:
            wait = self._batcher.admit(recipe.model, deadline)
            self._codec.admit(deadline - wait)
            self._pace.admit(deadline)
        except FAILURES as error:
            raise problem_of(error) from error

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

        A `camera` that has a name is watched for sending the same image twice. Raises ProblemError. Counts no part:
        see service.station.counting.
        """
        seconds = {"read": time.monotonic() - started}
        attributes: dict[str, str | float] = {"recipe": recipe.name, "version": recipe.version}
        self._metrics.in_flight.inc(len(decoders))
        try:
            self._pace.admit(deadline)
            # A device that hangs must not keep the line waiting for a verdict.
            async with asyncio.timeout(deadline - time.monotonic()):
                with self._pace.inside(len(decoders)):
                    found = await self._stages(decoders, recipe, mode, camera, deadline, seconds)
        except FAILURES as error:
            problem = problem_of(error)
            trace_inspection(seconds, started, attributes, problem=problem.code)
            raise problem from error
        finally:
            self._metrics.in_flight.dec(len(decoders))
        total = time.monotonic() - started
        for inspection in found:
            inspection.seconds["total"] = total
            result = {**attributes, "verdict": str(inspection.verdict), "score": inspection.score}
            trace_inspection(inspection.seconds, started, result)
            self._metrics.of_deadline(recipe.name).observe(total / (deadline - started))
        return found

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

        def ready(decoder: Decoder) -> Decoded:
            decoded = prepare(decoder, recipe)
            # Of several images the last one's stays.
            seconds["decode"] = time.monotonic() - clock
            return decoded

        def submit(decoded: Decoded) -> Future[Result | None]:
            return cast(Future[Result | None], self._batcher.submit(recipe.model, decoded.resized, deadline))

        def look(decoded: Decoded) -> Picture:
            watched, previewed = camera is not None, mode in ON_THE_IMAGE
            return examine(decoded, recipe, self._shadows, self._metrics, watched=watched, previewed=previewed)

        # Alone, an image goes to the device straight from the thread that decoded it. Several go there together, when
        # the last is decoded, and share a batch.
        alone = len(decoders) == 1
        then = submit if alone else _later
        found = await _together([self._codec.decode(deadline, partial(ready, one), then, look) for one in decoders])
        pictures = [picture for picture, _ in found]
        results = [result for _, result in found if result is not None]
        if not alone:
            results = await self._run_all(pictures, recipe, deadline)
        seconds["queue"] = time.monotonic() - clock - seconds["decode"]

        clock = time.monotonic()
        judged = await _together(
            [
                self._conclude(picture, result, recipe, mode, deadline)
                for picture, result in zip(pictures, results, strict=True)
            ]
        )
        seconds["postprocess"] = time.monotonic() - clock
        require_valid(recipe, deadline)
        # From here on nothing waits and nothing fails: every image gets its verdict.
        inspections = []
        for picture, result, one in zip(pictures, results, judged, strict=True):
            frozen = self._is_frozen(camera, recipe, picture)
            inspection = finish(picture, result, recipe, one, seconds, frozen=frozen)
            inspections.append(inspection)
            self._shadowing.compare(picture, inspection.verdict)
        return inspections

    async def _conclude(
        self, picture: Picture, result: Result, recipe: Recipe, mode: HeatmapMode, deadline: float
    ) -> Judged:
        # Nothing to label or to draw: the verdict takes less than the way to another thread and back.
        if mode == "none" and recipe.limits.thresholds.band(result.scored.score) == "OK":
            return Judged(judge_result(picture, result, recipe, deadline), [], None)
        return await self._codec.draw(partial(judge_and_draw, picture, result, recipe, mode, deadline))

    async def _run_all(self, pictures: Sequence[Picture], recipe: Recipe, deadline: float) -> list[Result]:
        futures: list[Future[Result]] = []
        try:
            # Extended one by one: where a submit raises, those before it are in the list.
            futures.extend(self._batcher.submit(recipe.model, picture.resized, deadline) for picture in pictures)
            return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))
        finally:
            # One that fails takes the others out of the queue: nobody would get their results.
            for future in futures:
                future.cancel()

    def _is_frozen(self, camera: str | None, recipe: Recipe, picture: Picture) -> bool:
        """Compare and remember in one step, with the verdict: an image that got none may be sent again, and of two
        that are the same and under way together the second is frozen.
        """
        if camera is None or picture.digest is None:
            return False
        frozen = self._cameras.is_frozen(camera, recipe.name, picture.digest)
        if frozen:
            picture.faults.append(f"frozen: camera {camera!r} sent exactly this image before")
        return frozen


def _later(_: Decoded) -> Future[Result | None]:
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
