"""The SQLite file (WAL) of the records: made where it is missing, set aside where it is damaged."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from service.station import calendar

log = logging.getLogger("draem_inspect")

# A file that says more was written by a later version of the service.
_VERSION = 2
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
CREATE INDEX IF NOT EXISTS by_image ON inspections (image_sha256) WHERE image_sha256 IS NOT NULL;
CREATE TABLE IF NOT EXISTS triggers (
    recipe TEXT NOT NULL,
    trigger_id TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    inspection_id TEXT NOT NULL,
    PRIMARY KEY (recipe, trigger_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS triggers_by_inspection ON triggers (inspection_id);
CREATE TABLE IF NOT EXISTS distrusted (
    recipe TEXT PRIMARY KEY,
    time REAL NOT NULL,
    era INTEGER NOT NULL
) WITHOUT ROWID;
"""
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class RecordsError(Exception):
    """The records cannot be opened or read; the message names the file."""


class Database:
    """Connections to `file`: one that is kept for the thread that writes, short ones for those that read."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._making = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._inodes: tuple[int, int] = (0, 0)
        # A station goes on without its records; one that never had any shall not find that out later.
        before = file.exists()
        try:
            self._heal()
            with closing(self._connect()) as connection:
                connection.execute("SELECT 1 FROM inspections LIMIT 1")
        except (OSError, sqlite3.Error) as error:
            message = f"{file}: cannot be opened ({error}): set INSPECT_RECORDS_DIR"
            if not before:
                raise RecordsError(message) from error
            log.error("%s: inspections go on, their records are lost until it can", message)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to read from; raises RecordsError."""
        try:
            with closing(self._connect()) as connection:
                yield connection
        except (OSError, sqlite3.Error) as error:
            raise RecordsError(f"{self._file}: the records cannot be read now: {error}") from error

    def writer(self) -> sqlite3.Connection:
        """The connection of the thread that writes, to the file that is there: a deleted one would take every row."""
        if self._writer is not None and self._find_inodes() != self._inodes:
            log.error(
                "%s was moved or deleted: what it had is gone from the records, new ones go to a new file", self._file
            )
            self.disconnect()
        if self._writer is None:
            self._writer = self._connect()
            # The file of the log is there from the first look on.
            self._writer.execute("SELECT 1 FROM inspections LIMIT 1").fetchone()
            self._inodes = self._find_inodes()
        return self._writer

    def disconnect(self) -> None:
        """End the connection of the thread that writes; the next one is a new one."""
        if self._writer is not None:
            with suppress(sqlite3.Error):
                self._writer.close()
            self._writer = None

    def set_aside_if_damaged(self, error: Exception) -> bool:
        """Give a file that SQLite calls damaged another name; True where the next connection finds a new one."""
        if not isinstance(error, sqlite3.DatabaseError) or getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGED:
            return False
        self.disconnect()
        self._set_aside(f"damaged ({error})")
        return True

    def _connect(self) -> sqlite3.Connection:
        if not self._file.exists():
            self._heal()
        connection = sqlite3.connect(self._file, timeout=5)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _heal(self) -> None:
        """Make the folder, the file and what is missing in it; a file that is of no use goes aside."""
        with self._making:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            try:
                version = self._prepare()
            except sqlite3.DatabaseError as error:
                if not self.set_aside_if_damaged(error):
                    raise
                version = self._prepare()
            if version > _VERSION:
                self._set_aside(f"of a later version of the service ({version}, this one knows {_VERSION})")
                self._prepare()

    def _prepare(self) -> int:
        """Bring the file to the schema of today, unless it is beyond that; the version that it had."""
        with closing(sqlite3.connect(self._file, timeout=5)) as connection:
            version: int = connection.execute("PRAGMA user_version").fetchone()[0]
            if version < _VERSION:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_SCHEMA + calendar.SCHEMA)
                columns = {row[1] for row in connection.execute("PRAGMA table_info(inspections)")}
                if "era" not in columns:
                    connection.execute("ALTER TABLE inspections ADD COLUMN era INTEGER NOT NULL DEFAULT 0")
                connection.execute("CREATE INDEX IF NOT EXISTS by_age ON inspections (era, time)")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
                connection.commit()
        return version

    def _set_aside(self, why: str) -> None:
        number = 1
        while (aside := self._file.with_name(f"{self._file.name}.{number}")).exists():
            number += 1
        for suffix in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                self._file.with_name(self._file.name + suffix).rename(aside.with_name(aside.name + suffix))
        log.error("%s is %s: it is kept as %s, records go on in a new file", self._file, why, aside)

    def _find_inodes(self) -> tuple[int, int]:
        return _inode(self._file), _inode(self._file.with_name(self._file.name + "-wal"))


def _inode(file: Path) -> int:
    try:
        return file.stat().st_ino
    except FileNotFoundError:
        return 0
