"""What a line lead looks at: parts by verdict since the last reset, and whether scores drift from calibration's."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from service.station.verdicts import Verdict

# The newest scores that drift is judged by, and how many it takes to say anything.
_WINDOW, _ENOUGH = 500, 50


@dataclass
class RecipeCounters:
    """Parts of one recipe since `since`, those without inspection by the reason; `recent`: scores of `version`."""

    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    not_inspected: Counter[str] = field(default_factory=Counter)
    version: str = ""
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))


class Counters:
    """Used from the event loop only; `on_not_inspected` is told recipe and reason of each part without inspection."""

    def __init__(self, on_not_inspected: Callable[[str, str], None] = lambda recipe, code: None) -> None:
        self._recipes: dict[str, RecipeCounters] = {}
        self._on_not_inspected = on_not_inspected

    def add(self, recipe: str, version: str, verdict: Verdict, score: float, faults: Sequence[str] = ()) -> None:
        """Count an answered picture; one that was not fit is counted by its first fault."""
        counters = self._recipes.setdefault(recipe, RecipeCounters())
        if counters.version != version:
            # Scores of another network are no sign of drift.
            counters.version = version
            counters.recent.clear()
        counters.verdicts[verdict] += 1
        # The score of a picture that was not judged says nothing about the parts.
        if verdict is not Verdict.NOT_INSPECTED:
            counters.recent.append(score)
        else:
            self._count_reason(counters, recipe, faults[0].split(":")[0] if faults else "unfit")

    def refuse(self, recipe: str, code: str) -> None:
        """Count a request that ended in a problem: a part without inspection."""
        counters = self._recipes.setdefault(recipe, RecipeCounters())
        counters.verdicts[Verdict.NOT_INSPECTED] += 1
        self._count_reason(counters, recipe, code)

    def _count_reason(self, counters: RecipeCounters, recipe: str, code: str) -> None:
        counters.not_inspected[code] += 1
        self._on_not_inspected(recipe, code)

    def totals(self) -> dict[str, dict[str, int | str | dict[str, int]]]:
        """Recipe -> count of every verdict, their total, since when, and why parts were not inspected."""
        return {
            name: {
                "since": counters.since.isoformat(timespec="seconds"),
                "total": counters.verdicts.total(),
                **{str(verdict): counters.verdicts[verdict] for verdict in Verdict},
                "not_inspected": dict(counters.not_inspected),
            }
            for name, counters in self._recipes.items()
        }

    def reset(self, recipe: str | None) -> None:
        """Begin again from zero for one recipe, or for all."""
        for name, counters in self._recipes.items():
            if recipe in {None, name}:
                counters.verdicts.clear()
                counters.not_inspected.clear()
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
