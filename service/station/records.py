"""What was inspected: one SQLite file (WAL) and the pictures beside it, kept for a time and under a disk budget.

Written by one thread from a queue that is bounded in records and in bytes, so that a slow or full disk never delays a
verdict; what could not be written is counted. Rows are committed before pictures are written, normally within
milliseconds of the reply, which does not wait for it. What is committed survives kill -9, and a loss of power but for
the last moments (`synchronous = NORMAL`).
"""

from __future__ import annotations

import json
import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.images.decoding import Pixels, encode
from service.station.calendar import Calendar
from service.station.database import Database, RecordsError
from service.station.pictures import Pictures

log = logging.getLogger("draem_inspect")

_QUEUE_SIZE = 2000
_MAX_ROWS = 200
# Seconds between two looks for records that are too old, and between two batches of them.
_EXPIRE_EVERY_S, _EXPIRE_PAUSE_S = 600.0, 0.1
_EXPIRED_ROWS = 500
# Most records that one look deletes: more than any line makes meanwhile, and not all there are.
_EXPIRED_MOST = 100_000


@dataclass(frozen=True)
class Trigger:
    """What a line asks about: recipe, the line's own name for the part, sha256 of the picture as it was sent."""

    recipe: str
    trigger_id: str
    sha256: str


@dataclass(frozen=True)
class Answer:
    """What a trigger got, at `given` (calendar.steady), for the picture of `sha256`."""

    sha256: str
    given: float
    reply: dict[str, Any]


@dataclass(frozen=True)
class Record:
    """One finished inspection: the reply as it was sent (without picture), and the picture where it is to be kept.

    `image` is encoded bytes, or RGB uint8 `(H, W, 3)` that is encoded by the thread that writes.
    """

    reply: dict[str, Any]
    time: float
    trigger: Trigger | None
    image: bytes | Pixels | None

    @property
    def inspection_id(self) -> str:
        return str(self.reply["inspection_id"])


class Records:
    """Store of records in `folder`, kept for `days` (0: for ever).

    Pictures take at most `image_budget_bytes` there, oldest go first, and `waiting_bytes` in memory before they are
    written. A commit that fails is tried again after each of the pauses `retry_s` (seconds).
    """

    def __init__(
        self,
        folder: Path,
        *,
        image_budget_bytes: int,
        days: int = 0,
        waiting_bytes: int = 256_000_000,
        retry_s: Sequence[float] = (0.2, 1.0, 5.0),
        on_lost: Callable[[int], None] = lambda count: None,
        on_image_lost: Callable[[], None] = lambda: None,
        calendar: Calendar | None = None,
    ) -> None:
        self._file = folder / "inspections.sqlite"
        self._days = days
        self._calendar = calendar or Calendar()
        self._retry_s = retry_s
        self._on_lost = on_lost
        self._on_image_lost = on_image_lost
        # Each with the era in which it came.
        self._queue: queue.Queue[tuple[Record, int] | None] = queue.Queue(_QUEUE_SIZE)
        self._lock = threading.Lock()
        self._room = waiting_bytes
        self._closing = threading.Event()
        self._waiting: deque[tuple[str, bytes | Pixels]] = deque()  # of committed rows
        self._written = 0  # commits and pictures, tried to the end
        self._expired = 0  # rows, in the look that is under way
        self._failing: dict[str, str] = {}
        self._database = Database(self._file)
        self._pictures = Pictures(folder / "images", image_budget_bytes)
        with suppress(RecordsError), self._database.reading() as connection:
            self._calendar.open(connection)
        self._thread = threading.Thread(target=self._write_all, name="records", daemon=True)
        self._thread.start()

    def add(self, record: Record) -> None:
        """Queue a record; never waits. One that finds the queue full is lost, a picture that finds no room in memory
        is left out of its record; both are counted.
        """
        if not self._take_room(_size(record.image)):
            self._lose_image(record.inspection_id, "too many pictures wait for the disk")
            record = replace(record, image=None)
        try:
            self._queue.put_nowait((record, self._calendar.stamp()))
        except queue.Full:
            self._on_lost(1)
            self._give_room(_size(record.image))

    def find(self, inspection_id: str) -> dict[str, Any] | None:
        """The stored reply of an inspection; raises RecordsError."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT reply FROM inspections WHERE inspection_id = ?", (inspection_id,)
            ).fetchone()
        return None if row is None else json.loads(row[0])

    def answer_to(self, recipe: str, trigger_id: str) -> Answer | None:
        """The newest answer that a trigger got, for whatever picture; raises RecordsError."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT sha256, era, time, reply FROM triggers JOIN inspections USING (inspection_id) "
                "WHERE triggers.recipe = ? AND triggers.trigger_id = ?",
                (recipe, trigger_id),
            ).fetchone()
        if row is None:
            return None
        sha256, era, written, reply = row
        return Answer(sha256, self._calendar.moment(era, written), json.loads(reply))

    def distrust(self, recipe: str) -> None:
        """Remember that what a recipe said until now is not to be said again. Waits for the disk."""
        era = self._calendar.stamp()
        try:
            with self._database.reading() as connection, connection:
                connection.execute("INSERT OR REPLACE INTO distrusted VALUES (?, ?, ?)", (recipe, time.time(), era))
        except RecordsError:
            log.exception("that recipe %s failed its golden images is not on record", recipe)

    def distrusted(self) -> dict[str, float]:
        """Every recipe that failed its golden images, with the moment of the last failure (calendar.steady)."""
        with suppress(RecordsError), self._database.reading() as connection:
            rows = connection.execute("SELECT recipe, time, era FROM distrusted").fetchall()
            return {recipe: self._calendar.moment(era, written) for recipe, written, era in rows}
        return {}

    def latest(
        self,
        *,
        limit: int,
        before: float | None = None,
        before_id: str | None = None,
        recipe: str | None,
        verdict: str | None,
    ) -> list[dict[str, Any]]:
        """Stored replies, newest first, each with its `time`: all, those dated `before` (Unix seconds), or those that
        came before the inspection `before_id`. Raises RecordsError.

        The order is that in which they came, whatever the clock said, or of the clock where its time is asked for.
        """
        order = "rowid DESC" if before is None else "time DESC, rowid DESC"
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT time, reply FROM inspections WHERE (:before IS NULL OR time < :before) AND (:before_id IS NULL "  # noqa: S608
                "OR rowid < (SELECT rowid FROM inspections WHERE inspection_id = :before_id)) AND (:recipe IS NULL OR "
                f"recipe = :recipe) AND (:verdict IS NULL OR verdict = :verdict) ORDER BY {order} LIMIT :limit",
                {"before": before, "before_id": before_id, "recipe": recipe, "verdict": verdict, "limit": limit},
            ).fetchall()
        return [{"time": when, **json.loads(reply)} for when, reply in rows]

    def image(self, inspection_id: str) -> bytes | None:
        """The bytes that were inspected, if they were kept and are not yet over budget; raises RecordsError."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT image_sha256 FROM inspections WHERE inspection_id = ?", (inspection_id,)
            ).fetchone()
            return None if row is None or row[0] is None else self._pictures.read(row[0])

    def troubles(self) -> list[str]:
        """What is wrong with the records now, though inspections go on."""
        doubt = self._calendar.doubt() if self._days else None
        return [*self._failing.values(), *([doubt] if doubt else [])]

    def close(self, wait_s: float = 5.0) -> None:
        """Write what is queued and stop the thread; where the disk takes nothing for `wait_s`, the rest is lost and
        counted.
        """
        self._closing.set()
        # Wakes a thread that waits; none waits before a full queue.
        with suppress(queue.Full):
            self._queue.put_nowait(None)
        before = -1
        while self._thread.is_alive() and self._written > before:
            before = self._written
            self._thread.join(wait_s)
        if self._thread.is_alive():
            self._give_up()

    def _give_up(self) -> None:
        left: list[tuple[Record, int] | None] = []
        with suppress(queue.Empty):
            while True:
                left.append(self._queue.get_nowait())
        lost = sum(record is not None for record in left)
        self._on_lost(lost)
        for inspection_id, _ in tuple(self._waiting):
            self._lose_image(inspection_id, "the service ended before the disk took it")
        log.error("%s takes nothing more: %d records are lost", self._file, lost)

    def _write_all(self) -> None:
        expiry = time.monotonic()
        while True:
            try:
                # Rows go first: at most one picture is written between two looks at the queue.
                ending = self._closing.is_set()
                batch = self._take(0.0 if self._waiting or ending else max(0.0, expiry - time.monotonic()))
                if ending and not batch and not self._waiting:
                    break
                if batch and self._commit(batch):
                    self._waiting.extend(
                        (record.inspection_id, record.image) for record, _ in batch if record.image is not None
                    )
                if self._waiting:
                    self._keep_image(*self._waiting.popleft())
                if time.monotonic() >= expiry:
                    expiry = time.monotonic() + _EXPIRE_EVERY_S
                    if self._expire():
                        expiry = time.monotonic() + _EXPIRE_PAUSE_S
                    else:
                        self._expired = 0
            # Records must not end with one that cannot be written.
            except Exception:
                log.exception("%s: writing records failed and goes on", self._file)
        with suppress(OSError, sqlite3.Error), self._database.writer() as connection:
            self._calendar.save(connection, sign_of_life=True)
        self._database.disconnect()

    def _take(self, wait_s: float) -> list[tuple[Record, int]]:
        """What is queued, up to a limit; waits for the first."""
        batch: list[tuple[Record, int] | None] = []
        with suppress(queue.Empty):
            batch.append(self._queue.get(timeout=wait_s))
            while len(batch) < _MAX_ROWS:
                batch.append(self._queue.get_nowait())
        return [record for record in batch if record is not None]

    def _commit(self, batch: list[tuple[Record, int]]) -> bool:
        """Commit the rows of a batch; False where every try failed and the batch is lost."""
        for pause in (0.0, *self._retry_s, None):
            try:
                self._insert(batch)
                self._written += 1
                self._failing.pop("rows", None)
                return True
            except Exception as error:
                reason = f"{self._file}: {error}"
                log.warning("%d records could not be written to %s: %r", len(batch), self._file, error)
                if not self._database.set_aside_if_damaged(error):
                    self._database.disconnect()
            if pause is not None:
                self._closing.wait(pause)
        self._failing["rows"] = f"records are lost: {reason}"
        self._give_room(sum(_size(record.image) for record, _ in batch))
        self._on_lost(len(batch))
        log.error("%d records are lost: make room on the disk of %s, or end what locks it", len(batch), self._file)
        return False

    def _insert(self, batch: list[tuple[Record, int]]) -> None:
        rows, triggers = [], []
        for record, era in batch:
            reply, trigger = record.reply, record.trigger
            row = (
                record.inspection_id,
                record.time,
                era,
                reply["recipe"] or "",
                reply["verdict"],
                reply.get("part_id"),
            )
            rows.append((*row, json.dumps(reply)))
            if trigger is not None:
                triggers.append((trigger.recipe, trigger.trigger_id, trigger.sha256, record.inspection_id))
        with self._database.writer() as connection:
            # Files of earlier versions have a column more; a commit that failed may be there all the same.
            connection.executemany(
                "INSERT OR IGNORE INTO inspections (inspection_id, time, era, recipe, verdict, part_id, reply) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            connection.executemany("INSERT OR REPLACE INTO triggers VALUES (?, ?, ?, ?)", triggers)
            self._calendar.save(connection, sign_of_life=False)

    def _keep_image(self, inspection_id: str, image: bytes | Pixels) -> None:
        """Write the picture of a committed record, then say so in its row."""
        try:
            data = image if isinstance(image, bytes) else encode(image, ".png")
            with self._database.writer() as connection:
                sha256 = self._pictures.write(data, connection)
                connection.execute(
                    "UPDATE inspections SET image_sha256 = ? WHERE inspection_id = ?", (sha256, inspection_id)
                )
            self._failing.pop("pictures", None)
        except Exception as error:
            self._failing["pictures"] = f"pictures are lost: {error}"
            self._lose_image(inspection_id, repr(error))
        finally:
            self._written += 1
            self._give_room(_size(image))

    def _expire(self) -> bool:
        """Delete some of the records that are too old, with their pictures; True where there may be more."""
        with self._database.writer() as connection:
            self._calendar.save(connection, sign_of_life=True)
        limits = self._calendar.limits(self._days) if self._days else {}
        if not self._expired:
            self._announce(limits)
        for era, oldest in limits.items():
            with self._database.writer() as connection:
                rows = connection.execute(
                    "SELECT inspection_id, image_sha256 FROM inspections WHERE era = ? AND time < ? ORDER BY time "
                    "LIMIT ?",
                    (era, oldest, _EXPIRED_ROWS),
                ).fetchall()
                ids = [(inspection_id,) for inspection_id, _ in rows]
                connection.executemany("DELETE FROM triggers WHERE inspection_id = ?", ids)
                connection.executemany("DELETE FROM inspections WHERE inspection_id = ?", ids)
            self._pictures.drop({sha256 for _, sha256 in rows if sha256 is not None}, connection)
            self._expired += len(rows)
            if rows:
                return self._expired < _EXPIRED_MOST
        return False

    def _announce(self, limits: dict[int, float]) -> None:
        """Say what is about to be deleted, and why."""
        count = "SELECT count(*) FROM inspections WHERE era = ? AND time < ?"
        connection = self._database.writer()
        due = {oldest: connection.execute(count, (era, oldest)).fetchone()[0] for era, oldest in limits.items()}
        if number := sum(due.values()):
            before = datetime.fromtimestamp(max(oldest for oldest, rows in due.items() if rows), UTC)
            log.warning(
                "%d records from before %s are deleted, %d of them now: they are older than INSPECT_RECORDS_DAYS=%d",
                *(number, before.isoformat(timespec="seconds"), min(number, _EXPIRED_MOST), self._days),
            )

    def _lose_image(self, inspection_id: str, reason: str) -> None:
        self._on_image_lost()
        log.error("the picture of inspection %s is not kept: %s", inspection_id, reason)

    def _take_room(self, size: int) -> bool:
        with self._lock:
            if size > self._room:
                return False
            self._room -= size
            return True

    def _give_room(self, size: int) -> None:
        with self._lock:
            self._room += size


def _size(image: bytes | Pixels | None) -> int:
    if image is None:
        return 0
    return len(image) if isinstance(image, bytes) else image.nbytes
