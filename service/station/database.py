"""The SQLite file (WAL) of the records: made where it is missing, brought up to date, set aside where it is damaged."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from service.station.claim import Claim
from service.station.schema import VERSION, upgrade

log = logging.getLogger("draem_inspect")

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class RecordsError(Exception):
    """The records cannot be opened or read; the message names the file."""


class Database:
    """Connections to `file`: one that is kept for the thread that writes, short ones for those that read."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.claim = Claim(file.parent)
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
            # The deleted log is still open here; beside a reader, the end of a connection would not save it.
            with suppress(sqlite3.Error):
                self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
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
        try:
            self._set_aside(f"damaged ({error})")
        except OSError as failed:
            log.error("%s is damaged (%s), and cannot be put aside: %s", self._file, error, failed)
            return False
        return True

    def _connect(self) -> sqlite3.Connection:
        if not self._file.exists():
            self._heal()
        connection = sqlite3.connect(self._file, timeout=5)
        # A file without tables: who reads came between a damaged one's going and a new one's making, or the disk was
        # full in the middle of that.
        if not connection.execute("PRAGMA user_version").fetchone()[0]:
            self._heal()
        connection.execute("PRAGMA journal_mode = WAL")
        # A commit is on the disk when it is done: what was written before a loss of power is there after it.
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _heal(self) -> None:
        """Make the folder, the file and what is missing in it; a damaged file goes aside. Raises RecordsError for one
        of a later version.
        """
        with self._making:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            try:
                version = self._prepare()
            except sqlite3.DatabaseError as error:
                if not self.set_aside_if_damaged(error):
                    raise
                version = self._prepare()
            if version > VERSION:
                raise RecordsError(
                    f"{self._file}: of a later version of the service ({version}, this one knows {VERSION}): start "
                    "that one, or give this one a folder of its own with INSPECT_RECORDS_DIR"
                )

    def _prepare(self) -> int:
        """Bring the file to the schema of today, unless it is beyond that; the version that it had."""
        with closing(sqlite3.connect(self._file, timeout=5)) as connection:
            return upgrade(connection)

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
