"""One request for inspection, whatever its protocol: let in, read, worked on while its client waits, put on record."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Header, Request, Response
from pydantic import AfterValidator

from service.http.answers import TimelyAnswer
from service.http.context import Station, choose_recipe, station_of
from service.http.identifiers import read_identifier
from service.http.metadata import read_metadata
from service.http.replies import inspection_reply, stored
from service.http.uploads import arrival
from service.images.decoding import Pixels
from service.images.heatmap import hot_from
from service.station.feed import View
from service.station.inspection import Decoder, HeatmapMode, Inspection
from service.station.loading import Recipe
from service.station.problem import ProblemError
from service.station.record import Record, Trigger
from service.station.triggers import Judge
from service.station.verdicts import Verdict

T = TypeVar("T")

log = logging.getLogger("draem_inspect")

DeadlineMs = Annotated[float | None, Header(ge=1, le=600_000, description="time this request may take")]
_Identifier = Annotated[str | None, AfterValidator(read_identifier)]
PartId = Annotated[_Identifier, Header(max_length=128, description="comes back in the reply; UTF-8, 128 bytes")]
TriggerId = Annotated[
    _Identifier,
    Header(
        min_length=1, max_length=128, description="with the same recipe and image it gives the same answer, as JSON"
    ),
]
CameraId = Annotated[
    _Identifier, Header(max_length=64, description="who sends; the same image twice from one camera is frozen")
]

LotId = Annotated[
    _Identifier, Header(max_length=128, description="the lot; on record with X-Meta-… headers, searchable")
]

_LOGGED = ("inspection_id", "request_id", "part_id", "camera_id", "recipe", "version", "verdict", "score")


@dataclass(frozen=True)
class Order:
    """What is asked of which recipe; `started` and `deadline` are on time.monotonic."""

    request: Request
    station: Station
    recipe: Recipe
    started: float
    deadline: float
    part: str | None
    camera: str | None
    lot: str | None
    metadata: Mapping[str, str]
    # Of the recipe that is chosen, what suits this protocol.
    adapt: Callable[[Recipe], Recipe] = field(default=lambda recipe: recipe)
    # What is done once the answer goes out: nothing is counted or on record that was not said.
    settle: list[Callable[[], None]] = field(default_factory=list)

    async def read(self, reader: Callable[[Request, int], Awaitable[T]]) -> T:
        """What `reader` makes of the body, under the limits of size and time; raises ProblemError."""
        async with arrival(self.deadline, self.request.state.body):
            return await reader(self.request, self.station.settings.max_upload_bytes)

    async def inspect(self, decoders: Sequence[Decoder], mode: HeatmapMode = "none") -> list[Inspection]:
        """Inspect images that are answered together or not at all; raises ProblemError and then counts nothing."""
        return await self.station.inspector.inspect_all(
            decoders, self.recipe, mode, camera=self.camera, started=self.started, deadline=self.deadline
        )

    def judge(self) -> Judge:
        """What would inspect an image that comes now; raises ProblemError where nothing does."""
        version = self.request.path_params.get("version")
        return Judge.of(self.adapt(choose_recipe(self.station, self.recipe.name, version)))

    def conclude(
        self,
        inspection: Inspection,
        image: bytes | Pixels,
        trigger: Trigger | None = None,
        layout: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The reply to a finished inspection, which is counted, recorded and logged once it goes out; `image` is what
        is kept of its image, bare pixels with their `layout`: see Record.
        """
        reply = inspection_reply(inspection, self.request.state.request_id, self.part, self.camera)
        self.settle.append(partial(self._settle, inspection, reply, image, trigger, layout))
        return reply

    async def hold(self, block: AbstractAsyncContextManager[T]) -> T:
        """Enter `block`, which ends with the request: once its answer is out."""
        held: AsyncExitStack = self.request.state.held
        return await held.enter_async_context(block)

    def answer(self, response: Response) -> Response:
        """`response` if it can still go out in time, with what is done when it does."""
        return TimelyAnswer(response, self.deadline - self.started, self.settle)

    def _settle(
        self,
        inspection: Inspection,
        reply: dict[str, Any],
        image: bytes | Pixels,
        trigger: Trigger | None,
        layout: Mapping[str, Any] | None,
    ) -> None:
        self.station.inspector.count(inspection)
        record = stored(reply)
        now = time.time()
        if self.station.records is not None:
            doubtful = inspection.verdict is not Verdict.OK or self.station.sample.take()
            keep = {"none": False, "failed": doubtful, "all": True}[self.station.settings.record_images]
            self.station.records.add(
                Record(
                    record,
                    now,
                    trigger,
                    image if keep else None,
                    anomaly_map=inspection.anomaly_map if keep else None,
                    layout=layout,
                    lot_id=self.lot,
                    metadata=self.metadata,
                    brightness=inspection.quality.brightness,
                    sharpness=inspection.quality.sharpness,
                    open=doubtful,
                )
            )
        recipe = inspection.recipe
        hot = hot_from(inspection.anomaly_map, inspection.verdict, recipe.limits.thresholds.pixel)
        view = View(image, inspection.anomaly_map, hot, recipe.bundle.manifest.input.crop, layout)
        seen = {"camera_id": self.camera, "lot_id": self.lot, "metadata": self.metadata}
        self.station.feed.publish(record | seen | {"time": now}, view)
        log.info(
            "inspected", extra={name: record[name] for name in _LOGGED} | {"total_ms": reply["timings_ms"]["total"]}
        )


def take_order(
    request: Request,
    recipe: str | None,
    deadline_ms: float | None,
    *,
    part: str | None = None,
    camera: str | None = None,
    lot: str | None = None,
) -> Order:
    """Let a request in, before its body is read; raises ProblemError where it may not or could not be in time.

    A path with a `version` is only of the recipe in that version.
    """
    station = station_of(request)
    station.access.require(request, "inspect")
    started: float = request.state.started
    deadline = started + (deadline_ms or station.settings.deadline_ms) / 1000
    chosen = choose_recipe(station, recipe, request.path_params.get("version"))
    metadata = read_metadata(request.headers)
    station.inspector.admit(chosen, deadline)
    return Order(request, station, chosen, started, deadline, part, camera, lot, metadata)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, cancelled as soon as the client goes away: nobody waits for it."""
    limit = asyncio.timeout(None)
    try:
        async with limit, _watched(request, limit):
            return await work
    except TimeoutError:
        if not limit.expired():
            raise
        raise ProblemError("client_disconnected", "the client went away before the result") from None
    finally:
        # Where it never began.
        work.close()


@asynccontextmanager
async def _watched(request: Request, limit: asyncio.Timeout) -> AsyncIterator[None]:
    """While the block lasts `limit` ends it when the client goes away."""

    def end() -> None:
        limit.reschedule(0)

    if (connection := request.scope["state"].get("connection")) is not None:
        with connection.watched(end):
            yield
        return

    # Under a server that tells of it in answer to a question alone.
    async def ask() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        end()

    asking = asyncio.ensure_future(ask())
    try:
        yield
    finally:
        asking.cancel()
