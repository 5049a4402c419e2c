"""The last look at the clock: an answer with a verdict goes out in time or not at all, and then it is on record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service.station.calendar import steady
from service.station.problem import ProblemError


class TimelyAnswer(Response):
    """`answer`, unless the request is older than `seconds` before its first byte: then a problem. What `settle` does,
    to count, record and log, is done once its last byte is written.
    """

    def __init__(self, answer: Response, seconds: float, settle: list[Callable[[], None]]) -> None:
        super().__init__()
        self._answer = answer
        self._seconds = seconds
        self._settle = settle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Where the client reads its answers slowly they wait here; from the look at the clock on nothing waits.
        if (connection := scope["state"].get("connection")) is not None:
            await connection.writable()
        if steady() - scope["state"]["began"] > self._seconds:
            raise ProblemError("deadline_passed", "the deadline passed before the answer could be sent")

        async def send_and_settle(message: Message) -> None:
            await send(message)
            if message["type"] != "http.response.body" or message.get("more_body"):
                return
            try:
                # The event loop writes before it goes on here, and here before it reads the client's next request.
                await asyncio.sleep(0)
            finally:
                for settle in self._settle:
                    settle()

        try:
            await self._answer(scope, receive, send_and_settle)
        finally:
            # It knows the order, which knows it: images, maps and models would stay until somebody looks for circles.
            self._settle.clear()
