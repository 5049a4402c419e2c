"""Client of the service, for lines and scripts: `Client` waits, `AsyncClient` awaits; neither makes up an OK.

Whatever becomes of an image is an Outcome, of a question an Answer: an exception is for what the caller did wrong, such
as a file that cannot be read. With `retries` an image that got no answer is sent again under the same trigger: the
service inspects it once. Questions are asked again too, but for those that change something.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from functools import update_wrapper
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

import httpx2

from service.client import questions
from service.client.address import split_address
from service.client.conversation import (
    HeatmapMode,
    Order,
    Outcome,
    Pause,
    Picture,
    Reply,
    Step,
    conversation,
    interview,
)
from service.client.questions import Answer, Question

P = ParamSpec("P")
T = TypeVar("T")


def _asks(make: Callable[P, Question[T]]) -> Callable[Concatenate[Client, P], Answer[T]]:
    def ask(client: Client, /, *args: P.args, **values: P.kwargs) -> Answer[T]:
        return client.ask(make(*args, **values))

    update_wrapper(ask, make)
    return ask


def _awaits(make: Callable[P, Question[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[Answer[T]]]:
    async def ask(client: AsyncClient, /, *args: P.args, **values: P.kwargs) -> Answer[T]:
        return await client.ask(make(*args, **values))

    update_wrapper(ask, make)
    return ask


class Client:
    """Blocking client; keeps its connection. `retries`: how often an image without an answer is sent again. An `url`
    such as `http+unix:///run/inspect.sock` is a UNIX socket of this machine.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 10.0, retries: int = 0) -> None:
        headers = {"X-API-Key": api_key} if api_key else {}
        base, unix = split_address(url)
        transport = None if unix is None else httpx2.HTTPTransport(uds=unix)
        self._http = httpx2.Client(base_url=base, headers=headers, timeout=timeout_s, transport=transport)
        self._timeout_s = timeout_s
        self._retries = retries

    def inspect(
        self,
        image: Picture,
        *,
        recipe: str | None = None,
        deadline_ms: float | None = None,
        part_id: str | None = None,
        camera_id: str | None = None,
        trigger_id: str | None = None,
        lot_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        heatmap: HeatmapMode = "none",
    ) -> Outcome:
        """Inspect encoded bytes, a file, or an array: RGB `(H, W, 3)` uint8, gray `(H, W)` uint8 or uint16.

        `metadata` is kept with the record: {"order": "4711"}. OSError only where the file cannot be read.
        """
        order = Order(image, recipe, deadline_ms, part_id, camera_id, trigger_id, lot_id, metadata, heatmap)
        return self._go_through(conversation(order, self._retries, self._timeout_s))

    def ask(self, question: Question[T]) -> Answer[T]:
        """What the service answers to one of service.client.questions."""
        return self._go_through(interview(question, self._retries, self._timeout_s))

    search = _asks(questions.search)
    record = _asks(questions.record)
    image = _asks(questions.image)
    anomaly_map = _asks(questions.anomaly_map)
    overlay = _asks(questions.overlay)
    review = _asks(questions.review)
    reviews = _asks(questions.reviews)
    defect_types = _asks(questions.defect_types)
    counters = _asks(questions.counters)
    reset_counters = _asks(questions.reset_counters)
    shift = _asks(questions.shift)
    recipes = _asks(questions.recipes)

    def _go_through(self, steps: Generator[Step, Reply, T]) -> T:
        answer: Reply = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            answer = self._take(step)

    def _take(self, step: Step) -> Reply:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            return self._http.request(**step.request, timeout=step.timeout_s)
        except httpx2.HTTPError as error:
            return error

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class AsyncClient:
    """The same for asyncio."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 10.0,
        retries: int = 0,
        connections: int = 100,
    ) -> None:
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        base, unix = split_address(url)
        self._http = httpx2.AsyncClient(
            base_url=base,
            headers={"X-API-Key": api_key} if api_key else {},
            timeout=timeout_s,
            limits=limits,
            transport=None if unix is None else httpx2.AsyncHTTPTransport(uds=unix, limits=limits),
        )
        self._timeout_s = timeout_s
        self._retries = retries

    async def inspect(
        self,
        image: Picture,
        *,
        recipe: str | None = None,
        deadline_ms: float | None = None,
        part_id: str | None = None,
        camera_id: str | None = None,
        trigger_id: str | None = None,
        lot_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        heatmap: HeatmapMode = "none",
    ) -> Outcome:
        """Inspect as `Client.inspect` does."""
        order = Order(image, recipe, deadline_ms, part_id, camera_id, trigger_id, lot_id, metadata, heatmap)
        return await self._go_through(conversation(order, self._retries, self._timeout_s))

    async def ask(self, question: Question[T]) -> Answer[T]:
        """What the service answers to one of service.client.questions."""
        return await self._go_through(interview(question, self._retries, self._timeout_s))

    search = _awaits(questions.search)
    record = _awaits(questions.record)
    image = _awaits(questions.image)
    anomaly_map = _awaits(questions.anomaly_map)
    overlay = _awaits(questions.overlay)
    review = _awaits(questions.review)
    reviews = _awaits(questions.reviews)
    defect_types = _awaits(questions.defect_types)
    counters = _awaits(questions.counters)
    reset_counters = _awaits(questions.reset_counters)
    shift = _awaits(questions.shift)
    recipes = _awaits(questions.recipes)

    async def _go_through(self, steps: Generator[Step, Reply, T]) -> T:
        answer: Reply = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            answer = await self._take(step)

    async def _take(self, step: Step) -> Reply:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return await self._http.request(**step.request, timeout=step.timeout_s)
        except httpx2.HTTPError as error:
            return error

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()
