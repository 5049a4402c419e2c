"""Idempotent triggers: a line that asks twice about one image gets one inspection and the same answer.

A trigger is of one recipe and one image. Lines count their parts, begin again at 1 and know nothing of each other: an
answer is never given to another image, and not after its time. It is given again only while what gave it serves: the
same version, model and limits, ready, and no failed golden image of the recipe since.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from service.images.decoding import Pixels
from service.station.calendar import STEP_S, steady
from service.station.database import RecordsError
from service.station.loading import Recipe
from service.station.problem import ProblemError
from service.station.record import Answer, Trigger
from service.station.records import Records

_REMEMBERED = 10_000

log = logging.getLogger("draem_inspect")


@dataclass(frozen=True)
class Judge:
    """What gives an answer: another one might have given another."""

    version: str
    model_sha256: str
    limits_sha256: str

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """Raises ProblemError where the recipe's backend fails at present."""
        if recipe.model.failures or recipe.model.refused:
            raise ProblemError("recipe_not_ready", f"the backend of recipe {recipe.name!r} fails: ask again later")
        return cls(recipe.version, recipe.model_sha256, recipe.limits.sha256)

    def differs_from(self, reply: dict[str, Any]) -> str | None:
        """What of this did not give the reply; replies of earlier programs do not say what did."""
        if reply.get("version") != self.version:
            return f"version {reply.get('version')}, and version {self.version} serves now"
        if reply.get("model_sha256") != self.model_sha256:
            return "another model file of this version"
        if reply.get("limits", {}).get("sha256") != self.limits_sha256:
            return "other limits than those in force now"
        return None


class Asked:
    """A trigger with what it got `before`, or room for what it gets now."""

    def __init__(self, trigger: Trigger | None, before: dict[str, Any] | None = None) -> None:
        self.trigger = trigger
        self.before = before
        self.given: dict[str, Any] | None = None

    def give(self, reply: dict[str, Any]) -> None:
        self.given = reply


class Triggers:
    """The same trigger gives the same answer for `hours`: while it is worked on, afterwards, and after a restart."""

    def __init__(self, records: Records | None, *, hours: float) -> None:
        self._records = records
        self._hours = hours
        self._running: dict[tuple[str, str], asyncio.Event] = {}
        # Records are written a moment after the answer; until then it is here.
        self._recent: OrderedDict[tuple[str, str], Answer] = OrderedDict()
        # Recipes that failed their golden images, with the time: what they said before is not said again.
        self._distrusted: dict[str, float] = {} if records is None else records.distrusted()

    def distrust(self, recipe: str) -> None:
        """Give no answer of this recipe again that it gave until now, also after a restart. From any thread."""
        self._distrusted[recipe] = steady()
        if self._records is not None:
            self._records.distrust(recipe)

    @asynccontextmanager
    async def ask(
        self,
        recipe: str,
        trigger_id: str | None,
        picture: bytes | Pixels,
        deadline: float,
        *,
        judge: Callable[[], Judge],
        layout: str = "",
        part: str | None = None,
    ) -> AsyncIterator[Asked]:
        """The answer that a trigger got before for this image, or room for the one given in this block, which others
        wait for. Without one (an error) the next request with this trigger is inspected.

        `picture` is as it was sent; bare pixels in another `layout` are another image. `judge` tells what serves at
        the moment. Raises ProblemError where the trigger was answered for another image or part, or by another judge,
        or the answer is not there by `deadline` (time.monotonic).
        """
        if trigger_id is None:
            yield Asked(None)
            return
        key = recipe, trigger_id
        async with _until(deadline):
            sha256 = await asyncio.to_thread(_sha256, picture, layout)
            while key in self._running:
                await self._running[key].wait()
        self._running[key] = asyncio.Event()
        asked = Asked(Trigger(recipe, trigger_id, sha256))
        try:
            async with _until(deadline):
                last = await self._last_answer(recipe, trigger_id)
            if last is not None and self._holds(last, sha256):
                if last.sha256 != sha256:
                    raise ProblemError(
                        "trigger_reused",
                        f"trigger {trigger_id!r} was answered for another image of recipe {recipe!r}: give every "
                        f"image an X-Trigger-Id of its own; one comes free {self._hours:g} hours after its answer",
                    )
                # A camera that is frozen sends the same image of the next part.
                if last.reply.get("part_id") != part:
                    raise ProblemError(
                        "trigger_reused",
                        f"trigger {trigger_id!r} was answered for part {last.reply.get('part_id')!r}, not {part!r}: "
                        "give every part an X-Trigger-Id of its own",
                    )
                self._require_valid(recipe, trigger_id, last, judge())
                asked.before = last.reply
            yield asked
        finally:
            if asked.given is not None:
                self._remember(key, Answer(sha256, steady(), asked.given))
            self._running.pop(key).set()

    def _require_valid(self, recipe: str, trigger_id: str, answer: Answer, judge: Judge) -> None:
        why = judge.differs_from(answer.reply)
        if why is None and answer.given <= self._distrusted.get(recipe, -math.inf):
            why = "the recipe before it failed its golden images"
        if why is not None:
            raise ProblemError(
                "trigger_outdated",
                f"trigger {trigger_id!r} was answered by {why}: to have the image inspected, send it with a new "
                "X-Trigger-Id, or with none",
            )

    async def _last_answer(self, recipe: str, trigger_id: str) -> Answer | None:
        recent = self._recent.get((recipe, trigger_id))
        if recent is None and self._records is not None:
            try:
                return await asyncio.to_thread(self._records.answer_to, recipe, trigger_id)
            except RecordsError as error:
                # An inspection more is true as well; a line that stands would not be.
                log.warning("trigger %r is inspected without a look at earlier answers: %s", trigger_id, error)
        return recent

    def _holds(self, answer: Answer, sha256: str) -> bool:
        age_s = steady() - answer.given
        # One with a date still to come: how old it is nobody knows, but one image keeps its one answer.
        return age_s < 3600 * self._hours and (age_s > -STEP_S or answer.sha256 == sha256)

    def _remember(self, key: tuple[str, str], answer: Answer) -> None:
        self._recent[key] = answer
        self._recent.move_to_end(key)
        if len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)


@asynccontextmanager
async def _until(deadline: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            yield
    except TimeoutError:
        raise ProblemError(
            "deadline_passed",
            "the deadline passed while the first request with this trigger was worked on or looked up",
        ) from None


def _sha256(picture: bytes | Pixels, layout: str) -> str:
    digest = hashlib.sha256(picture if isinstance(picture, bytes) else picture.data)
    digest.update(layout.encode())
    return digest.hexdigest()
