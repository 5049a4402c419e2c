"""How soon the drift alarm speaks, and how often for nothing, over 100,000 simulated parts a row:

PYTHONPATH=. python tests/support/measure_drift.py

The alarm is that of docker/prometheus/rules.yaml: the distance above 0.3 for 30 minutes. Parts come once a second, the
distance is read every 15 s. Good scores follow a beta distribution whose median is 0.03.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.station.counters import Counters
from service.station.verdicts import Verdict

PARTS, CHANGE_AT, SCRAPE = 100_000, 50_000, 15
THRESHOLD, FOR_S = 0.3, 1800
SPREAD = 0.02  # about one standard deviation of good scores

Scores = NDArray[np.float64]
Change = Callable[[Scores, np.random.Generator], Scores]


@dataclass(frozen=True)
class Alarms:
    """Alarms before the change, and parts from the change to the next one; None: there was none."""

    false: int
    delay: int | None


def good(rng: np.random.Generator, count: int) -> Scores:
    return rng.beta(2.5, 70, count)


def shifted(deviations: float) -> Change:
    return lambda scores, rng: np.clip(scores + deviations * SPREAD, 0, 1)


def ageing(deviations: float, parts: int) -> Change:
    """Scores that rise slowly, as with a lamp that ages."""
    return lambda scores, rng: np.clip(
        scores + deviations * SPREAD * np.minimum(1, np.arange(len(scores)) / parts), 0, 1
    )


def defective(share: float) -> Change:
    return lambda scores, rng: np.where(rng.random(len(scores)) < share, rng.uniform(0.3, 1, len(scores)), scores)


def measure(
    change: Change | None, *, calibration: int, seed: int, parts: int = PARTS, change_at: int = CHANGE_AT
) -> Alarms:
    """What the alarm makes of one simulated line."""
    rng = np.random.default_rng(seed)
    reference = good(rng, calibration).tolist()
    scores = good(rng, parts)
    if change is not None:
        scores[change_at:] = change(scores[change_at:], rng)
    counters = Counters()
    since: int | None = None
    speaks, false = False, 0
    for at, score in enumerate(scores.tolist(), 1):
        counters.add("part", "1", Verdict.REVIEW, score)
        if at % SCRAPE:
            continue
        above = (counters.drift("part", reference) or 0.0) > THRESHOLD
        since = (at if since is None else since) if above else None
        spoke, speaks = speaks, since is not None and at - since >= FOR_S
        if speaks and not spoke:
            if change is not None and at > change_at:
                return Alarms(false, at - change_at)
            false += 1
    return Alarms(false, None)


CHANGES: dict[str, Change | None] = {
    "none": None,
    "scores rise by 0.5 deviations": shifted(0.5),
    "scores rise by 1 deviation": shifted(1.0),
    "scores rise by 2 deviations": shifted(2.0),
    "scores rise by 2 deviations over 30,000 parts": ageing(2.0, 30_000),
    "10 % defects": defective(0.1),
    "40 % defects": defective(0.4),
}


def main() -> None:
    print("| change after 50,000 parts | photos that calibrated | false alarms | parts until the alarm |")
    print("|---|---|---|---|")
    for name, change in CHANGES.items():
        for calibration in (31, 100):
            found = [measure(change, calibration=calibration, seed=seed) for seed in range(2)]
            delays = ", ".join("none" if one.delay is None else f"{one.delay:,}" for one in found)
            false = ", ".join(str(one.false) for one in found)
            print(f"| {name} | {calibration} | {false} | {delays if change else ''} |", flush=True)


if __name__ == "__main__":
    main()
