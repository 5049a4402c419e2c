"""Idempotent triggers: a line that asks twice about one part gets one inspection and the same answer."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

from service.records import Records

_REMEMBERED = 10_000


class Triggers:
    """The same trigger gives the same answer: while it is worked on, afterwards, and after a restart."""

    def __init__(self, records: Records | None) -> None:
        self._records = records
        self._running: dict[str, asyncio.Event] = {}
        # Records are written a moment after the answer; until then it is here.
        self._recent: OrderedDict[str, dict[str, Any]] = OrderedDict()

    async def claim(self, trigger: str) -> dict[str, Any] | None:
        """The answer this trigger got, or None: then the caller inspects, and must call `finish`."""
        while trigger in self._running:
            await self._running[trigger].wait()
        if trigger in self._recent:
            return self._recent[trigger]
        self._running[trigger] = asyncio.Event()
        try:
            stored = await asyncio.to_thread(self._records.find, trigger_id=trigger) if self._records else None
        except BaseException:
            self.finish(trigger, None)
            raise
        if stored is not None:
            self.finish(trigger, stored)
        return stored

    def finish(self, trigger: str, reply: dict[str, Any] | None) -> None:
        """Remember the answer; without one (an error) the next request with this trigger is inspected."""
        if reply is not None:
            self._recent[trigger] = reply
            if len(self._recent) > _REMEMBERED:
                self._recent.popitem(last=False)
        self._running.pop(trigger).set()
