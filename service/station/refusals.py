"""Every part that was refused leaves a trace: a record NOT_INSPECTED, a log line, a count by code.

A line that is refused sends again, and a stranger sends without end: records and log lines are bounded in rate and
size, the others are summed up in one line and one record every few seconds. Nothing here waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass

from service.station.counters import Counters
from service.station.ids import new_id
from service.station.record import Record
from service.station.records import Records
from service.station.verdicts import Verdict

log = logging.getLogger("draem_inspect")

# Refusals a second that get a line and a record of their own, and how many may come at once.
_RATE, _BURST = 10.0, 500.0
# The same for those who may not inspect; they get no record: strangers must not fill the disk.
_STRANGERS_RATE, _STRANGERS_BURST = 1.0, 20.0
# Seconds between two sums of the others.
_SUM_EVERY_S = 10.0
_DETAIL = 500


@dataclass(frozen=True)
class Refusal:
    """A request for inspection that got no inspection; `recipe` as it was asked for."""

    code: str
    status: int
    detail: str
    recipe: str | None
    part_id: str | None
    camera_id: str | None
    request_id: str | None
    lot_id: str | None = None


class Refusals:
    """Used from the event loop only. `recipe_of` gives the name that a request's recipe is counted under, `publish`
    shows a refusal to who looks on."""

    def __init__(
        self,
        records: Records | None,
        counters: Counters,
        recipe_of: Callable[[str | None], str],
        *,
        publish: Callable[[dict[str, object]], None] = lambda entry: None,
        clock: Callable[[], float] = time.monotonic,
        sum_every_s: float = _SUM_EVERY_S,
    ) -> None:
        self._records = records
        self._counters = counters
        self._recipe_of = recipe_of
        self._publish = publish
        self._sum_every_s = sum_every_s
        self._own = _Allowance(_RATE, _BURST, clock)
        self._strangers = _Allowance(_STRANGERS_RATE, _STRANGERS_BURST, clock)
        self._left_out: Counter[str] = Counter()
        self._left_out_of_records: Counter[tuple[str, str]] = Counter()
        self._sum: asyncio.TimerHandle | None = None

    def note(self, refusal: Refusal, *, may_inspect: bool) -> None:
        """Count, log and record a refusal, as far as it may; never waits."""
        recipe = self._recipe_of(refusal.recipe)
        if may_inspect:
            self._counters.refuse(recipe, refusal.code)
        if (self._own if may_inspect else self._strangers).take():
            values = vars(refusal) | {"detail": refusal.detail[:_DETAIL]}
            log.warning("not inspected", extra=values)
            if may_inspect:
                self._record(values, counted_as=recipe, waits=True)
            return
        self._left_out[refusal.code] += 1
        if may_inspect:
            self._left_out_of_records[recipe, refusal.code] += 1
        if self._sum is None:
            self._sum = asyncio.get_running_loop().call_later(self._sum_every_s, self.sum_up)

    def sum_up(self) -> None:
        """Say how many had no line and no record of their own since the last sum."""
        if self._sum is not None:
            self._sum.cancel()
            self._sum = None
        if self._left_out:
            said = ", ".join(f"{code} {count}" for code, count in self._left_out.most_common())
            log.warning("not inspected either, more than are listed one by one: %s", said)
        if self._left_out_of_records:
            counts: Counter[str] = Counter()
            refused: dict[str, dict[str, int]] = {}
            for (recipe, code), count in self._left_out_of_records.items():
                counts[code] += count
                refused.setdefault(recipe, {})[code] = count
            said = ", ".join(f"{code} {count}" for code, count in counts.most_common())
            values = asdict(Refusal("refusals_summed", 0, f"more than are recorded one by one: {said}", *(None,) * 4))
            self._record(values | {"counts": dict(counts), "refused": refused})
        self._left_out.clear()
        self._left_out_of_records.clear()

    def _record(self, values: dict[str, object], *, counted_as: str = "", waits: bool = False) -> None:
        reply = {"inspection_id": new_id(), "verdict": str(Verdict.NOT_INSPECTED), **values}
        now = time.time()
        self._publish(reply | {"time": now})
        if self._records is not None:
            lot = values["lot_id"]
            self._records.add(
                Record(
                    reply, now, None, None, lot_id=None if lot is None else str(lot), counted_as=counted_as, open=waits
                )
            )


class _Allowance:
    """So many a second, and a number at once after a pause."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left, self._at = burst, clock()

    def take(self) -> bool:
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
