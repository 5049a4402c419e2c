"""How old a record is, whatever the clock of the machine has done since it was written.

A record has the time of the clock and an era. Where the clock is set, which a second clock that nobody sets gives away,
a new era begins, and those before it are shifted by what the clock moved: records of a machine that booted in 2021 are
as old as they are, not five years. Between two runs nothing tells a clock that was set from a station that was off:
after a day or more nothing counts as old for another day of work, in which the clock can be put right.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

log = logging.getLogger("draem_inspect")

SCHEMA = """
CREATE TABLE IF NOT EXISTS eras (era INTEGER PRIMARY KEY, shift REAL NOT NULL, linked INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS clock (
    id INTEGER PRIMARY KEY CHECK (id = 0),
    seen REAL NOT NULL,
    doubt_s REAL NOT NULL,
    ahead_s REAL NOT NULL
);
"""
# Seconds that the clock may differ from the steady one before it counts as set: less is a clock being disciplined.
STEP_S = 60.0
_AWAY_S = 86_400.0
_DOUBT_S = 86_400.0
# No station ran before.
_EARLIEST = datetime(2025, 1, 1, tzinfo=UTC).timestamp()


def steady() -> float:
    """Seconds that go on while the machine sleeps and that nobody can set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Calendar:
    """The eras of one file of records. `stamp` and `moment` may be called by any thread."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = steady) -> None:
        self._wall, self._steady = wall, steady
        self._offset = wall() - steady()
        self._lock = threading.Lock()
        self._shifts = {0: 0.0}
        # Eras whose clock is known to be that of today but for the shift.
        self._linked = {0}
        self._era = 0
        # Seconds of work in which nothing is deleted yet, and by which the clock is ahead of the runs before.
        self._doubt_s = 0.0
        self._ahead_s = 0.0
        self._counted = steady()
        self._saved: object = None
        self._opened = False

    def open(self, connection: sqlite3.Connection) -> None:
        """Take up the eras of a file, and look at what the clock did while nobody watched."""
        self._opened = True
        for era, shift, linked in connection.execute("SELECT era, shift, linked FROM eras"):
            self._shifts[era] = shift
            (self._linked.add if linked else self._linked.discard)(era)
        self._era = max(self._shifts)
        row = connection.execute("SELECT seen, doubt_s, ahead_s FROM clock").fetchone()
        newest = connection.execute("SELECT max(time) FROM inspections").fetchone()[0]
        seen, self._doubt_s, self._ahead_s = row or (newest, 0.0, 0.0)
        if seen is None:
            return
        now = self._wall()
        gap = now - seen
        if seen < _EARLIEST <= now:
            self._shift(gap)
            log.warning("the clock said %s when the records ended: they are dated anew", _date(seen))
        elif -STEP_S < gap < _AWAY_S:
            pass
        elif self._doubt_s and abs(self._ahead_s + gap) < _AWAY_S:
            self._settle()
        else:
            self._linked.clear()
            self._begin()
            self._doubt_s, self._ahead_s = _DOUBT_S, self._ahead_s + gap
            log.warning(
                "the clock says %s, the last run ended at %s: set the clock where that is wrong; no record is deleted "
                "for its age in the next 24 h of work",
                *(_date(now), _date(seen)),
            )

    def stamp(self) -> int:
        """The era of what is written now."""
        with self._lock:
            self._look()
            return self._era

    def moment(self, era: int, written: float) -> float:
        """When a record was written, on the steady clock; one with a date still to come comes out in the future."""
        with self._lock:
            self._look()
            return written + self._shifts.get(era, 0.0) - self._offset

    def limits(self, days: int) -> dict[int, float]:
        """By era the time before which its records are older than `days`; nothing while the clock is in doubt."""
        with self._lock:
            self._look()
            if self._doubt_s > 0:
                return {}
            oldest = self._wall() - 86_400 * days
            return {era: oldest - shift for era, shift in self._shifts.items()}

    def doubt(self) -> str | None:
        """Why nothing is deleted for its age, if that is so."""
        if self._doubt_s > 0:
            hours = self._doubt_s / 3600
            return f"the clock may be wrong: no record is deleted for its age in the next {hours:.0f} h of work"
        return None

    def save(self, connection: sqlite3.Connection, *, sign_of_life: bool) -> None:
        """Write what has changed, and with a `sign_of_life` the time, into a transaction that is under way."""
        if not self._opened:
            self.open(connection)
        with self._lock:
            self._look()
            now, eras = self._wall(), [(era, self._shifts[era], era in self._linked) for era in self._shifts]
            clock = now, self._doubt_s, self._ahead_s
        if sign_of_life or eras != self._saved:
            connection.executemany("INSERT OR REPLACE INTO eras VALUES (?, ?, ?)", eras)
            connection.execute("INSERT OR REPLACE INTO clock VALUES (0, ?, ?, ?)", clock)
            self._saved = eras

    def _look(self) -> None:
        """Notice that the clock was set; caller holds the lock."""
        now, steady_now = self._wall(), self._steady()
        if self._doubt_s:
            self._doubt_s -= steady_now - self._counted
            if self._doubt_s <= 0:
                self._settle()
        self._counted = steady_now
        step = now - steady_now - self._offset
        if abs(step) < STEP_S:
            return
        self._offset += step
        self._shift(step)
        self._begin()
        if self._doubt_s:
            self._ahead_s += step
            if abs(self._ahead_s) < _AWAY_S:
                self._settle()
        log.warning("the clock was set from %s to %s: records keep their age", _date(now - step), _date(now))

    def _settle(self) -> None:
        """Believe the clock: all eras are of one that goes like it, but for their shifts."""
        self._doubt_s = self._ahead_s = 0.0
        self._linked = set(self._shifts)

    def _shift(self, seconds: float) -> None:
        for era in self._linked:
            self._shifts[era] += seconds

    def _begin(self) -> None:
        self._era = max(self._shifts) + 1
        self._shifts[self._era] = 0.0
        self._linked.add(self._era)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
