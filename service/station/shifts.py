"""Shifts of the line: A, B, C … in the order of the day, each until the next begins, by the clock of the station."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta

_QUARTER_MINUTES = 15


@dataclass(frozen=True)
class Shift:
    """A shift with its beginning and its end, Unix seconds."""

    name: str
    since: float
    until: float


def read_shifts(text: str) -> tuple[time, ...]:
    """Beginnings of shifts, from `06:00,14:00,22:00`; raises ValueError."""
    try:
        begins = tuple(time.fromisoformat(part.strip()) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is no list of times such as 06:00,14:00,22:00") from None
    if any(one.minute % _QUARTER_MINUTES or one.second or one.microsecond or one.tzinfo for one in begins):
        raise ValueError("a shift begins on a quarter of an hour, such as 06:15, by the clock of the station")
    if list(begins) != sorted(set(begins)) or len(begins) > len(string.ascii_uppercase):
        raise ValueError("shifts come in the order of the day, each once, and at most 26")
    return begins


def shift_at(now: float, begins: Sequence[time]) -> Shift:
    """The shift that is under way at `now`, Unix seconds."""
    today = datetime.fromtimestamp(now)
    # Two before, for a place that changes its side of the date line has a day that is not there.
    days = (today.date() + timedelta(days=offset) for offset in (-2, -1, 0, 1))
    starts = sorted(
        (datetime.combine(day, begin).timestamp(), name)
        for day in days
        for begin, name in zip(begins, string.ascii_uppercase, strict=False)
    )
    current = max(index for index, (start, _) in enumerate(starts) if start <= now)
    return Shift(starts[current][1], starts[current][0], starts[current + 1][0])
