"""Idempotent triggers: a line that asks twice about one part gets one inspection and the same answer."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from service.records import Records

_REMEMBERED = 10_000


class Answer:
    """What a trigger got `before`, or room for what it gets now."""

    def __init__(self, before: dict[str, Any] | None) -> None:
        self.before = before
        self.given: dict[str, Any] | None = None

    def give(self, reply: dict[str, Any]) -> None:
        self.given = reply


class Triggers:
    """The same trigger gives the same answer: while it is worked on, afterwards, and after a restart."""

    def __init__(self, records: Records | None) -> None:
        self._records = records
        self._running: dict[str, asyncio.Event] = {}
        # Records are written a moment after the answer; until then it is here.
        self._recent: OrderedDict[str, dict[str, Any]] = OrderedDict()

    @asynccontextmanager
    async def answer(self, trigger: str | None) -> AsyncIterator[Answer]:
        """The answer of a trigger: the one it got before, or the one given in this block, which others wait for.

        Without one (an error) the next request with this trigger is inspected.
        """
        if trigger is None:
            yield Answer(None)
            return
        while trigger in self._running:
            await self._running[trigger].wait()
        if trigger in self._recent:
            yield Answer(self._recent[trigger])
            return
        self._running[trigger] = asyncio.Event()
        answer = Answer(None)
        try:
            if self._records:
                answer.before = await asyncio.to_thread(self._records.find, trigger_id=trigger)
            yield answer
        finally:
            self._remember(trigger, answer.given or answer.before)
            self._running.pop(trigger).set()

    def _remember(self, trigger: str, reply: dict[str, Any] | None) -> None:
        if reply is not None:
            self._recent[trigger] = reply
            if len(self._recent) > _REMEMBERED:
                self._recent.popitem(last=False)
