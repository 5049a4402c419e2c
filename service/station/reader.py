"""The records of a folder as commands read them: nothing is written, and a service may go on writing meanwhile."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from service.station.database import RecordsError
from service.station.schema import VERSION
from service.station.search import Search
from service.station.searching import find, find_one

T = TypeVar("T")

FILE = "inspections.sqlite"
IMAGES = "images"


_AWAY = "who runs this must be able to write its folder: SQLite keeps a log there"
_REMEDIES = {
    sqlite3.SQLITE_CORRUPT: "what it holds is as it was: set the folder aside, go on with a backup",
    sqlite3.SQLITE_NOTADB: "what it holds is as it was: set the folder aside, go on with a backup",
    sqlite3.SQLITE_BUSY: "another process holds it: run this again once that has ended",
    sqlite3.SQLITE_FULL: "make room, then run this again",
    sqlite3.SQLITE_CANTOPEN: _AWAY,
    sqlite3.SQLITE_READONLY: _AWAY,
    sqlite3.SQLITE_IOERR: "look at the disk, then run this again",
}


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """SQLite does not say of which file it speaks: raises RecordsError with `file` and the remedy."""
    try:
        yield
    except sqlite3.Error as error:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        remedy = _REMEDIES.get(code, "is it a file that the service wrote?")
        raise RecordsError(f"{file}: {error}: {remedy}") from error
    except json.JSONDecodeError as error:
        raise RecordsError(f"{file}: a row was changed ({error}): python -m service records verify names it") from error


def open_to_read(file: Path) -> sqlite3.Connection:
    """A connection that writes nothing; raises RecordsError where the file is no database."""
    address = f"{file.absolute().as_uri()}?mode=ro"
    log = file.with_name(f"{file.name}-wal")
    with naming(file):
        connection = sqlite3.connect(address, uri=True, timeout=60)
        try:
            connection.execute("PRAGMA user_version")
        except sqlite3.OperationalError as error:
            connection.close()
            # On a medium that nobody can write, a log could not be made; without one the file says all.
            if error.sqlite_errorcode != sqlite3.SQLITE_CANTOPEN or log.exists():
                raise
            connection = sqlite3.connect(f"{address}&immutable=1", uri=True)
        return connection


class Reader:
    """Opened read-only; raises ValueError for a file of another version, RecordsError for one that cannot be read."""

    def __init__(self, folder: Path) -> None:
        self._images = folder / IMAGES
        self._file = folder / FILE
        self._connection = open_to_read(self._file)
        with naming(self._file):
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            self.close()
            remedy = "start the service on it once" if version < VERSION else "use the service that wrote it"
            raise ValueError(f"{self._file}: of version {version} of the records, this is {VERSION}: {remedy}")

    def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        with naming(self._file):
            return question(self._connection)

    def search(self, search: Search, *, limit: int, cursor: int | None = None) -> list[dict[str, Any]]:
        return self.ask(lambda connection: find(connection, search, limit=limit, cursor=cursor))

    def find(self, inspection_id: str) -> dict[str, Any] | None:
        return self.ask(lambda connection: find_one(connection, inspection_id))

    def image(self, inspection_id: str) -> bytes | None:
        """The bytes that were inspected, where they are kept."""
        return self._picture(inspection_id, "image_sha256")

    def map(self, inspection_id: str) -> bytes | None:
        return self._picture(inspection_id, "map_sha256")

    def close(self) -> None:
        self._connection.close()

    def _picture(self, inspection_id: str, column: str) -> bytes | None:
        row = self.ask(
            lambda connection: connection.execute(
                f"SELECT {column} FROM inspections WHERE inspection_id = ?",  # noqa: S608
                (inspection_id,),
            ).fetchone()
        )
        if row is None or row[0] is None:
            return None
        name = str(row[0])
        try:
            return (self._images / name[:2] / name).read_bytes()
        except FileNotFoundError:
            return None
