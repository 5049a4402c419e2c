"""What was inspected: one SQLite file (WAL) and the pictures beside it, kept for a time and under a disk budget.

Written by one thread from a queue that is bounded in records and in bytes, so that a slow or full disk never delays a
verdict; what could not be written is counted. Rows are committed before pictures are written, normally within
milliseconds of the reply, which does not wait for it. What is committed survives kill -9, and a loss of power but for
the last moments (`synchronous = NORMAL`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service.images.decoding import Pixels, encode

log = logging.getLogger("draem_inspect")

_QUEUE_SIZE = 2000
_MAX_ROWS = 200
# Seconds between two looks for records that are too old, and between two batches of them.
_EXPIRE_EVERY_S, _EXPIRE_PAUSE_S = 600.0, 0.1
_EXPIRED_ROWS = 500
# Seconds by which the file of a picture may be younger than its record.
_WRITTEN_WITHIN_S = 3600.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS inspections (
    inspection_id TEXT PRIMARY KEY,
    time REAL NOT NULL,
    recipe TEXT NOT NULL,
    verdict TEXT NOT NULL,
    part_id TEXT,
    image_sha256 TEXT,
    reply TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_time ON inspections (time);
CREATE TABLE IF NOT EXISTS triggers (
    recipe TEXT NOT NULL,
    trigger_id TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    inspection_id TEXT NOT NULL,
    PRIMARY KEY (recipe, trigger_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS triggers_by_inspection ON triggers (inspection_id);
CREATE TABLE IF NOT EXISTS distrusted (recipe TEXT PRIMARY KEY, time REAL NOT NULL) WITHOUT ROWID;
"""


class RecordsError(Exception):
    """The records cannot be opened; the message names the file."""


@dataclass(frozen=True)
class Trigger:
    """What a line asks about: recipe, the line's own name for the part, sha256 of the picture as it was sent."""

    recipe: str
    trigger_id: str
    sha256: str


@dataclass(frozen=True)
class Answer:
    """What a trigger got, at `time` (Unix seconds), for the picture of `sha256`."""

    sha256: str
    time: float
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
    ) -> None:
        self._images = folder / "images"
        self._file = folder / "inspections.sqlite"
        self._budget = image_budget_bytes
        self._days = days
        self._retry_s = retry_s
        self._on_lost = on_lost
        self._on_image_lost = on_image_lost
        self._queue: queue.Queue[Record | None] = queue.Queue(_QUEUE_SIZE)
        self._lock = threading.Lock()
        self._room = waiting_bytes
        self._closing = threading.Event()
        self._pictures: deque[tuple[str, bytes | Pixels]] = deque()  # of committed rows
        self._written = 0  # commits and pictures, tried to the end
        self._writer: sqlite3.Connection | None = None
        self._inode = 0
        try:
            self._images.mkdir(parents=True, exist_ok=True)
            with closing(self._connect()) as connection:
                connection.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise RecordsError(f"{self._file}: cannot be opened ({error}): set INSPECT_RECORDS_DIR") from error
        self._image_bytes = sum(path.stat().st_size for path in self._images.glob("*/*"))
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
            self._queue.put_nowait(record)
        except queue.Full:
            self._on_lost(1)
            self._give_room(_size(record.image))

    def find(self, inspection_id: str) -> dict[str, Any] | None:
        """The stored reply of an inspection."""
        with closing(self._connect()) as connection:
            row = connection.execute(
                "SELECT reply FROM inspections WHERE inspection_id = ?", (inspection_id,)
            ).fetchone()
        return None if row is None else json.loads(row[0])

    def answer_to(self, recipe: str, trigger_id: str) -> Answer | None:
        """The newest answer that a trigger got, for whatever picture."""
        with closing(self._connect()) as connection:
            row = connection.execute(
                "SELECT sha256, time, reply FROM triggers JOIN inspections USING (inspection_id) "
                "WHERE triggers.recipe = ? AND triggers.trigger_id = ?",
                (recipe, trigger_id),
            ).fetchone()
        return None if row is None else Answer(row[0], row[1], json.loads(row[2]))

    def distrust(self, recipe: str, when: float) -> None:
        """Remember that what a recipe said until `when` (Unix seconds) is not to be said again. Waits for the disk."""
        try:
            with closing(self._connect()) as connection, connection:
                connection.execute("INSERT OR REPLACE INTO distrusted VALUES (?, ?)", (recipe, when))
        except (OSError, sqlite3.Error):
            log.exception("%s: that recipe %s failed its golden images is not on record", self._file, recipe)

    def distrusted(self) -> dict[str, float]:
        """Every recipe that failed its golden images, with the time of the last failure."""
        with closing(self._connect()) as connection:
            return dict(connection.execute("SELECT recipe, time FROM distrusted").fetchall())

    def latest(self, *, limit: int, before: float, recipe: str | None, verdict: str | None) -> list[dict[str, Any]]:
        """Stored replies older than `before` (Unix seconds), newest first, each with its `time`."""
        with closing(self._connect()) as connection:
            rows = connection.execute(
                "SELECT time, reply FROM inspections WHERE time < ? AND (? IS NULL OR recipe = ?) "
                "AND (? IS NULL OR verdict = ?) ORDER BY time DESC LIMIT ?",
                (before, recipe, recipe, verdict, verdict, limit),
            ).fetchall()
        return [{"time": when, **json.loads(reply)} for when, reply in rows]

    def image(self, inspection_id: str) -> bytes | None:
        """The bytes that were inspected, if they were kept and are not yet over budget."""
        with closing(self._connect()) as connection:
            row = connection.execute(
                "SELECT image_sha256 FROM inspections WHERE inspection_id = ?", (inspection_id,)
            ).fetchone()
        if row is None or row[0] is None:
            return None
        try:
            return self._path(row[0]).read_bytes()
        except FileNotFoundError:
            return None

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
        left: list[Record | None] = []
        with suppress(queue.Empty):
            while True:
                left.append(self._queue.get_nowait())
        lost = sum(record is not None for record in left)
        self._on_lost(lost)
        for inspection_id, _ in tuple(self._pictures):
            self._lose_image(inspection_id, "the service ended before the disk took it")
        log.error("%s takes nothing more: %d records are lost", self._file, lost)

    def _connect(self) -> sqlite3.Connection:
        missing = not self._file.exists()
        connection = sqlite3.connect(self._file, timeout=5)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if missing:
            connection.executescript(_SCHEMA)
        return connection

    def _write_all(self) -> None:
        expiry = time.monotonic()
        while True:
            try:
                # Rows go first: at most one picture is written between two looks at the queue.
                ending = self._closing.is_set()
                batch = self._take(0.0 if self._pictures or ending else max(0.0, expiry - time.monotonic()))
                if ending and not batch and not self._pictures:
                    break
                if batch and self._commit(batch):
                    self._pictures.extend(
                        (record.inspection_id, record.image) for record in batch if record.image is not None
                    )
                if self._pictures:
                    self._keep_image(*self._pictures.popleft())
                if time.monotonic() >= expiry:
                    expiry = time.monotonic() + _EXPIRE_EVERY_S
                    if self._expire():
                        expiry = time.monotonic() + _EXPIRE_PAUSE_S
            # Records must not end with one that cannot be written.
            except Exception:
                log.exception("%s: writing records failed and goes on", self._file)
        self._disconnect()

    def _take(self, wait_s: float) -> list[Record]:
        """What is queued, up to a limit; waits for the first."""
        batch: list[Record | None] = []
        with suppress(queue.Empty):
            batch.append(self._queue.get(timeout=wait_s))
            while len(batch) < _MAX_ROWS:
                batch.append(self._queue.get_nowait())
        return [record for record in batch if record is not None]

    def _commit(self, batch: list[Record]) -> bool:
        """Commit the rows of a batch; False where every try failed and the batch is lost."""
        for pause in (*self._retry_s, None):
            try:
                self._insert(batch)
                self._written += 1
                return True
            except Exception as error:
                self._disconnect()
                log.warning("%d records could not be written to %s: %r", len(batch), self._file, error)
            if pause is not None:
                self._closing.wait(pause)
        self._give_room(sum(_size(record.image) for record in batch))
        self._on_lost(len(batch))
        log.error("%d records are lost: make room on the disk of %s, or end what locks it", len(batch), self._file)
        return False

    def _insert(self, batch: list[Record]) -> None:
        rows, triggers = [], []
        for record in batch:
            reply, trigger = record.reply, record.trigger
            row = (record.inspection_id, record.time, reply["recipe"], reply["verdict"], reply.get("part_id"))
            rows.append((*row, json.dumps(reply)))
            if trigger is not None:
                triggers.append((trigger.recipe, trigger.trigger_id, trigger.sha256, record.inspection_id))
        with self._connection() as connection:
            # Files of earlier versions have a column more; a commit that failed may be there all the same.
            connection.executemany(
                "INSERT OR IGNORE INTO inspections (inspection_id, time, recipe, verdict, part_id, reply) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                rows,
            )
            connection.executemany("INSERT OR REPLACE INTO triggers VALUES (?, ?, ?, ?)", triggers)

    def _keep_image(self, inspection_id: str, image: bytes | Pixels) -> None:
        """Write the picture of a committed record, then say so in its row."""
        try:
            sha256 = self._write_image(image if isinstance(image, bytes) else encode(image, ".png"))
            with self._connection() as connection:
                connection.execute(
                    "UPDATE inspections SET image_sha256 = ? WHERE inspection_id = ?", (sha256, inspection_id)
                )
        except Exception as error:
            self._lose_image(inspection_id, repr(error))
        finally:
            self._written += 1
            self._give_room(_size(image))

    def _write_image(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._path(sha256)
        if path.exists():
            # As young as the newest record that has it.
            path.touch()
            return sha256
        # Not the folder of the records: one that is away may be a disk that is.
        self._images.mkdir(exist_ok=True)
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".new")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError:
            # Half a picture must not fill a disk that is full already.
            temporary.unlink(missing_ok=True)
            raise
        self._image_bytes += len(data)
        if self._image_bytes > self._budget:
            self._free()
        return sha256

    def _free(self) -> None:
        """Delete the oldest pictures until a tenth of the budget is free again."""
        stats = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in self._images.glob("*/*"))
        self._image_bytes = sum(size for _, size, _ in stats)
        for _, size, path in stats:
            if self._image_bytes <= 0.9 * self._budget:
                break
            path.unlink(missing_ok=True)
            self._image_bytes -= size

    def _expire(self) -> bool:
        """Delete some of the records that are too old, with their pictures; True where there may be more."""
        if not self._days:
            return False
        oldest = time.time() - 86_400 * self._days
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT inspection_id, image_sha256 FROM inspections WHERE time < ? ORDER BY time LIMIT ?",
                (oldest, _EXPIRED_ROWS),
            ).fetchall()
            ids = [(inspection_id,) for inspection_id, _ in rows]
            connection.executemany("DELETE FROM triggers WHERE inspection_id = ?", ids)
            connection.executemany("DELETE FROM inspections WHERE inspection_id = ?", ids)
        for sha256 in {sha256 for _, sha256 in rows if sha256 is not None}:
            path = self._path(sha256)
            with suppress(FileNotFoundError):
                found = path.stat()
                # A younger one is the picture of a record that stays, too.
                if found.st_mtime < oldest + _WRITTEN_WITHIN_S:
                    path.unlink()
                    self._image_bytes -= found.st_size
        return len(rows) == _EXPIRED_ROWS

    def _connection(self) -> sqlite3.Connection:
        """The connection of the thread that writes, to the file that is there: a deleted one would take every row."""
        if self._writer is not None and self._file_inode() != self._inode:
            log.error(
                "%s was moved or deleted: what it had is gone from the records, new ones go to a new file", self._file
            )
            self._disconnect()
        if self._writer is None:
            self._writer = self._connect()
            self._inode = self._file_inode()
        return self._writer

    def _file_inode(self) -> int:
        try:
            return self._file.stat().st_ino
        except FileNotFoundError:
            return 0

    def _disconnect(self) -> None:
        if self._writer is not None:
            with suppress(sqlite3.Error):
                self._writer.close()
            self._writer = None

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

    def _path(self, sha256: str) -> Path:
        return self._images / sha256[:2] / sha256


def _size(image: bytes | Pixels | None) -> int:
    if image is None:
        return 0
    return len(image) if isinstance(image, bytes) else image.nbytes
