"""What was inspected: one SQLite file (WAL) and the pictures beside it, kept under a disk budget.

Written by one thread from a bounded queue, so that a slow or full disk never delays a verdict; what could not be
written is counted. A record survives kill -9 as soon as it is committed, normally within milliseconds of its verdict.
"""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger("draem_inspect")

_QUEUE_SIZE = 2000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS inspections (
    inspection_id TEXT PRIMARY KEY,
    time REAL NOT NULL,
    recipe TEXT NOT NULL,
    verdict TEXT NOT NULL,
    trigger_id TEXT UNIQUE,
    part_id TEXT,
    image_sha256 TEXT,
    reply TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_time ON inspections (time);
"""


class RecordsError(Exception):
    """The records cannot be opened; the message names the file."""


@dataclass(frozen=True)
class Record:
    """One finished inspection: the reply as it was sent (without picture), and what gives the bytes to keep.

    `image` is called by the thread that writes, so that no verdict waits for an encoder.
    """

    reply: dict[str, Any]
    time: float
    trigger_id: str | None
    image: Callable[[], bytes] | None

    @property
    def inspection_id(self) -> str:
        return str(self.reply["inspection_id"])


class Records:
    """Store of records in `folder`; pictures take at most `image_budget_bytes`, oldest go first."""

    def __init__(
        self,
        folder: Path,
        *,
        image_budget_bytes: int,
        on_lost: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._images = folder / "images"
        self._file = folder / "inspections.sqlite"
        self._budget = image_budget_bytes
        self._on_lost = on_lost
        self._queue: queue.Queue[Record | None] = queue.Queue(_QUEUE_SIZE)
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
        """Queue a record; never waits. A record that finds the queue full is lost and counted."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._on_lost(1)

    def find(self, *, inspection_id: str | None = None, trigger_id: str | None = None) -> dict[str, Any] | None:
        """The stored reply of an inspection, by either id."""
        with closing(self._connect()) as connection:
            row = connection.execute(
                "SELECT reply FROM inspections WHERE inspection_id = ? OR trigger_id = ?", (inspection_id, trigger_id)
            ).fetchone()
        return None if row is None else json.loads(row[0])

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
        path = self._path(row[0]) if row and row[0] else None
        return path.read_bytes() if path and path.is_file() else None

    def close(self) -> None:
        """Write what is queued, then stop the thread."""
        self._queue.put(None)
        self._thread.join()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, timeout=5)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _write_all(self) -> None:
        connection = self._connect()
        closing = False
        while not closing:
            batch, closing = self._take()
            try:
                self._write(connection, batch)
            except (OSError, ValueError, sqlite3.Error) as error:
                connection.rollback()
                self._on_lost(len(batch))
                log.error("%d records could not be written to %s: %s", len(batch), self._file, error)
        connection.close()

    def _take(self) -> tuple[list[Record], bool]:
        """Everything that is queued, at least one entry; and whether the queue was closed."""
        batch = [self._queue.get()]
        while not self._queue.empty() and len(batch) < 200:
            batch.append(self._queue.get())
        return [record for record in batch if record is not None], None in batch

    def _write(self, connection: sqlite3.Connection, batch: list[Record]) -> None:
        rows = []
        for record in batch:
            sha256 = None if record.image is None else self._keep_image(record.image())
            reply = record.reply
            ids = (record.trigger_id, reply.get("part_id"), sha256)
            row = (record.inspection_id, record.time, reply["recipe"], reply["verdict"], *ids, json.dumps(reply))
            rows.append(row)
        # A trigger that was answered twice at the same moment keeps its first answer.
        connection.executemany("INSERT OR IGNORE INTO inspections VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.commit()

    def _keep_image(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._path(sha256)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_suffix(".new")
            temporary.write_bytes(data)
            temporary.replace(path)
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

    def _path(self, sha256: str) -> Path:
        return self._images / sha256[:2] / sha256
