"""The records of a folder as commands read them: nothing is written, and a service may go on writing meanwhile."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from service.station.schema import VERSION
from service.station.search import Search
from service.station.searching import find, find_one

T = TypeVar("T")

FILE = "inspections.sqlite"
IMAGES = "images"


class Reader:
    """Opened read-only; raises ValueError for a file of another version."""

    def __init__(self, folder: Path) -> None:
        self._images = folder / IMAGES
        self._connection = sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True, timeout=60)
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            remedy = "start the service on it once" if version < VERSION else "use the service that wrote it"
            raise ValueError(f"{folder / FILE}: of version {version} of the records, this is {VERSION}: {remedy}")

    def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        return question(self._connection)

    def search(self, search: Search, *, limit: int, cursor: int | None = None) -> list[dict[str, Any]]:
        return find(self._connection, search, limit=limit, cursor=cursor)

    def find(self, inspection_id: str) -> dict[str, Any] | None:
        return find_one(self._connection, inspection_id)

    def image(self, inspection_id: str) -> bytes | None:
        """The bytes that were inspected, where they are kept."""
        return self._picture(inspection_id, "image_sha256")

    def map(self, inspection_id: str) -> bytes | None:
        return self._picture(inspection_id, "map_sha256")

    def close(self) -> None:
        self._connection.close()

    def _picture(self, inspection_id: str, column: str) -> bytes | None:
        row = self._connection.execute(
            f"SELECT {column} FROM inspections WHERE inspection_id = ?",  # noqa: S608
            (inspection_id,),
        ).fetchone()
        if row is None or row[0] is None:
            return None
        name = str(row[0])
        try:
            return (self._images / name[:2] / name).read_bytes()
        except FileNotFoundError:
            return None
