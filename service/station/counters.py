"""What a line lead looks at: parts by verdict since the last reset, and whether scores drift from calibration's."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from service.station.verdicts import Verdict

# The newest scores that drift is judged by, and how many it takes to say anything.
_WINDOW, _ENOUGH = 500, 50


@dataclass
class RecipeCounters:
    """Inspections of one recipe since `since`; `recent` holds the newest scores of version `version`."""

    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    version: str = ""
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))


class Counters:
    """Used from the event loop only."""

    def __init__(self) -> None:
        self._recipes: dict[str, RecipeCounters] = {}

    def add(self, recipe: str, version: str, verdict: Verdict, score: float) -> None:
        counters = self._recipes.setdefault(recipe, RecipeCounters())
        if counters.version != version:
            # Scores of another network are no sign of drift.
            counters.version = version
            counters.recent.clear()
        counters.verdicts[verdict] += 1
        # The score of a picture that was not judged says nothing about the parts.
        if verdict is not Verdict.NOT_INSPECTED:
            counters.recent.append(score)

    def totals(self) -> dict[str, dict[str, int | str]]:
        """Recipe -> count of every verdict, their total, and since when."""
        return {
            name: {
                "since": counters.since.isoformat(timespec="seconds"),
                "total": counters.verdicts.total(),
                **{str(verdict): counters.verdicts[verdict] for verdict in Verdict},
            }
            for name, counters in self._recipes.items()
        }

    def reset(self, recipe: str | None) -> None:
        """Begin again from zero for one recipe, or for all."""
        for name, counters in self._recipes.items():
            if recipe in {None, name}:
                counters.verdicts.clear()
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
