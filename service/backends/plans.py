"""How a CPU shares its threads among images: which plans there are, and which of those that were timed is best.

An image that is alone gets all threads in every plan: it is back soonest. Under load, two runs side by side get more
done than one (service.backends.lanes); how many more a machine can use, or whether a batch is faster there, depends on
its cores, the network and the runtime. So it is measured (service.backends.planning), and chosen here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MOST_LANES = 8
_BATCH = 4
# What a plan must gain over the rule's: less is what two measurements of one plan differ by.
_GAIN = 1.15
# Times as long as alone that an image may take under full load. So eight runs side by side come into question where
# they get twice as much done as one, and four always.
_SLOWEST = 4.0

# By hand: runs side by side x images in one of them.
PlanChoice = Annotated[str, StringConstraints(pattern=r"^(auto|[1-8]x1|1x[1-8])$")]


class Plan(BaseModel):
    """Runs side by side, and most images in one of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lanes: int = Field(ge=1, le=MOST_LANES)
    batch: int = Field(ge=1)

    def __str__(self) -> str:
        return f"{self.lanes}x{self.batch}"

    @classmethod
    def read(cls, text: str) -> Plan:
        lanes, batch = text.split("x")
        return cls(lanes=int(lanes), batch=int(batch))

    @classmethod
    def by_rule(cls, threads: int) -> Plan:
        """What is good on most machines: two runs side by side, where there are two threads."""
        return cls(lanes=min(2, threads), batch=1)


class Timed(BaseModel):
    """Images a second under full load, or why this plan does not come into question."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: Plan
    per_s: float | None = None
    refused: str | None = None

    def __str__(self) -> str:
        return f"{self.plan} {self.per_s:.1f}/s" if self.per_s is not None else f"{self.plan} refused ({self.refused})"


def others(threads: int, max_batch: int) -> list[list[Plan]]:
    """What is tried beside the rule's plan: one run, also with a batch where it may be so large, then 4 and 8 side by
    side, as far as there are threads. Those of one list run on a backend that is opened for its last.
    """
    one = [Plan(lanes=1, batch=batch) for batch in (1, _BATCH) if batch <= max_batch]
    more = [[Plan(lanes=lanes, batch=1)] for lanes in (4, MOST_LANES) if lanes <= threads]
    return [plans for plans in ([plan for plan in one if plan != Plan.by_rule(threads)], *more) if plans]


def choose(rule: Timed, tried: Sequence[Timed], alone_s: float) -> Plan:
    """The plan of most images a second that keeps none of them too long; the rule's where no other is clearly better.

    `alone_s`: what one image takes that has all threads.
    """
    if rule.per_s is None:
        return rule.plan
    best = rule
    for one in tried:
        if one.per_s is None or one.per_s < max(_GAIN * rule.per_s, best.per_s or 0.0):
            continue
        # So many images are under way, and each leaves after as many others as came before it.
        takes_s = one.plan.lanes * one.plan.batch / one.per_s
        if takes_s <= _SLOWEST * alone_s:
            best = one
    return best.plan
