"""What a line lead looks at: parts by verdict since the last reset and in this shift, and whether scores drift from
calibration's. The records have the same counts, from which a new process goes on.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from time import time as now

import numpy as np

from service.station.shifts import Shift, shift_at
from service.station.tallies import Counted
from service.station.verdicts import Verdict

# The newest scores that drift is judged by, and how many it takes to say anything.
_WINDOW, _ENOUGH = 500, 50


@dataclass
class Parts:
    """Parts by verdict, those without inspection by the reason."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    not_inspected: Counter[str] = field(default_factory=Counter)

    def add(self, verdict: Verdict, reason: str, count: int = 1) -> None:
        self.verdicts[verdict] += count
        if verdict is Verdict.NOT_INSPECTED:
            self.not_inspected[reason] += count

    def totals(self) -> dict[str, int | str | dict[str, int]]:
        return {
            "total": self.verdicts.total(),
            **{str(verdict): self.verdicts[verdict] for verdict in Verdict},
            "not_inspected": dict(self.not_inspected),
        }


@dataclass
class RecipeCounters:
    """Parts of one recipe since `since`; `recent`: scores of `version`."""

    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    parts: Parts = field(default_factory=Parts)
    version: str = ""
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))


class Counters:
    """Used from the event loop only; `on_not_inspected` is told recipe and reason of each part without inspection.
    `begins` are the beginnings of shifts.
    """

    def __init__(
        self,
        on_not_inspected: Callable[[str, str], None] = lambda recipe, code: None,
        *,
        begins: Sequence[time] = (time(),),
        clock: Callable[[], float] = now,
    ) -> None:
        self._recipes: defaultdict[str, RecipeCounters] = defaultdict(RecipeCounters)
        self._on_not_inspected = on_not_inspected
        self._begins = begins
        self._clock = clock
        self._shift = shift_at(clock(), begins)
        self._of_shift: defaultdict[str, Parts] = defaultdict(Parts)

    @property
    def shift(self) -> Shift:
        """The shift that is under way."""
        at = self._clock()
        # The clock may have been set back too.
        if not self._shift.since <= at < self._shift.until:
            self._shift = shift_at(at, self._begins)
            self._of_shift.clear()
        return self._shift

    def restore(self, counted: Iterable[Counted], of_shift: Iterable[Counted]) -> None:
        """Go on from what the records have."""
        for one in counted:
            recipe = self._recipes.setdefault(one.recipe, RecipeCounters(datetime.fromtimestamp(one.since, UTC)))
            recipe.parts.add(one.verdict, one.reason, one.count)
        for one in of_shift:
            self._of_shift[one.recipe].add(one.verdict, one.reason, one.count)

    def add(self, recipe: str, version: str, verdict: Verdict, score: float, faults: Sequence[str] = ()) -> None:
        """Count an answered image; one that was not fit is counted by its first fault."""
        counters = self._recipes[recipe]
        if counters.version != version:
            # Scores of another network are no sign of drift.
            counters.version = version
            counters.recent.clear()
        # The score of an image that was not judged says nothing about the parts.
        if verdict is not Verdict.NOT_INSPECTED:
            counters.recent.append(score)
        self._count(recipe, verdict, faults[0].split(":")[0] if faults else "unfit")

    def refuse(self, recipe: str, code: str) -> None:
        """Count a request that ended in a problem: a part without inspection."""
        self._count(recipe, Verdict.NOT_INSPECTED, code)

    def _count(self, recipe: str, verdict: Verdict, reason: str) -> None:
        self._recipes[recipe].parts.add(verdict, reason)
        self._parts_of_shift(recipe).add(verdict, reason)
        if verdict is Verdict.NOT_INSPECTED:
            self._on_not_inspected(recipe, reason)

    def _parts_of_shift(self, recipe: str) -> Parts:
        # First: the shift may just have changed.
        _ = self.shift
        return self._of_shift[recipe]

    def totals(self) -> dict[str, dict[str, int | str | dict[str, int]]]:
        """Recipe -> count of every verdict, their total, since when, and why parts were not inspected."""
        return {
            name: {"since": counters.since.isoformat(timespec="seconds"), **counters.parts.totals()}
            for name, counters in self._recipes.items()
        }

    def shift_totals(self) -> dict[str, object]:
        """The shift that is under way, with its parts by recipe."""
        shift = self.shift
        return {
            "name": shift.name,
            "since": datetime.fromtimestamp(shift.since, UTC).astimezone().isoformat(timespec="seconds"),
            "until": datetime.fromtimestamp(shift.until, UTC).astimezone().isoformat(timespec="seconds"),
            "recipes": {name: parts.totals() for name, parts in self._of_shift.items()},
        }

    def reset(self, recipe: str | None) -> None:
        """Begin again from zero for one recipe, or for all; the shift's figures go on."""
        for name, counters in self._recipes.items():
            if recipe in {None, name}:
                counters.parts = Parts()
                counters.since = datetime.now(UTC)

    def drift(self, recipe: str, calibration: Sequence[float]) -> float | None:
        """Kolmogorov-Smirnov distance in [0, 1] of the newest scores from calibration's good parts.

        0: same distribution, 1: no overlap. None while there are too few of either. Defects are scores too: a rising
        share of them shows as well.
        """
        counters = self._recipes.get(recipe)
        if counters is None or len(counters.recent) < _ENOUGH or not calibration:
            return None
        recent, reference = np.sort(counters.recent), np.sort(calibration)
        at = np.concatenate((recent, reference))
        share_recent = np.searchsorted(recent, at, side="right") / len(recent)
        share_reference = np.searchsorted(reference, at, side="right") / len(reference)
        return float(np.abs(share_recent - share_reference).max())
