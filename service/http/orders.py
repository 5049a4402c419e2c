"""One request for inspection, whatever its protocol: let in, read, worked on while its client waits, put on record."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Header, Request, Response

from service.http.answers import TimelyAnswer
from service.http.context import Station, choose_recipe, station_of
from service.http.metadata import named, read_metadata
from service.http.replies import inspection_reply
from service.http.settling import Given
from service.http.uploads import arrival
from service.images.decoding import Decoder, Pixels
from service.station.inspection import HeatmapMode, Inspection
from service.station.loading import Recipe
from service.station.problem import ProblemError
from service.station.record import Trigger
from service.station.triggers import Asked, Judge

T = TypeVar("T")

DeadlineMs = Annotated[float | None, Header(ge=1, le=600_000, description="time this request may take")]


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
        most = self.station.settings.max_upload_bytes
        connection = self.request.scope["state"].get("connection")
        # It is here: there is nothing to wait for.
        if connection is not None and connection.state == "working":
            return await reader(self.request, most)
        async with arrival(self.deadline, self.request.state.body):
            return await reader(self.request, most)

    async def inspect(self, decoders: Sequence[Decoder], mode: HeatmapMode = "none") -> list[Inspection]:
        """Inspect images that are answered together or not at all; raises ProblemError and then counts nothing."""
        return await self.station.inspector.inspect_all(
            decoders, self.recipe, mode, camera=self.camera, started=self.started, deadline=self.deadline
        )

    async def ask(self, trigger_id: str | None, image: bytes | Pixels, layout: str = "") -> Asked:
        """What a trigger got for this image before, or room for what it gets, until the answer is out; raises
        ProblemError. Without a trigger an image gets its own answer.
        """
        if trigger_id is None:
            return Asked(None)
        asking = self.station.triggers.ask(
            self.recipe.name, trigger_id, image, self.deadline, judge=self._judge, layout=layout, part=self.part
        )
        held: AsyncExitStack = self.request.state.held
        return await held.enter_async_context(asking)

    def _judge(self) -> Judge:
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
        given = Given(
            inspection, reply, image, trigger, layout, camera=self.camera, lot=self.lot, metadata=self.metadata
        )
        self.settle.append(partial(given.settle, self.station))
        return reply

    def answer(self, response: Response) -> Response:
        """`response` if it can still go out in time, with what is done when it does."""
        return TimelyAnswer(response, self.deadline - self.started, self.settle)


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
    return Order(request, station, chosen, started, deadline, named(part), named(camera), named(lot), metadata)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, cancelled as soon as the client goes away: nobody waits for it."""
    limit = asyncio.timeout(None)
    try:
        async with limit:
            connection = request.scope["state"].get("connection")

            def end() -> None:
                limit.reschedule(0)

            with _asking(request, end) if connection is None else connection.watched(end):
                return await work
    except TimeoutError:
        if not limit.expired():
            raise
        raise ProblemError("client_disconnected", "the client went away before the result") from None
    finally:
        # Where it never began.
        work.close()


@contextmanager
def _asking(request: Request, on_lost: Callable[[], object]) -> Iterator[None]:
    """As Connection.watched, under a server that tells of a lost client in answer to a question alone."""

    async def ask() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        on_lost()

    asking = asyncio.ensure_future(ask())
    try:
        yield
    finally:
        asking.cancel()
