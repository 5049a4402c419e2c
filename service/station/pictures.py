"""The pictures of the records: files named by their content, under a disk budget; the oldest go first.

How old a picture is the rows say, by the order in which they came: files have the dates of a clock that may be set.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


class Pictures:
    """Written by one thread, read by any."""

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._budget = budget_bytes
        self._bytes = sum(_sizes(folder).values())

    def write(self, data: bytes, connection: sqlite3.Connection) -> str:
        """Keep a picture; its sha256. Raises OSError."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._path(sha256)
        if path.exists():
            return sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError:
            # Half a picture must not fill a disk that is full already.
            temporary.unlink(missing_ok=True)
            raise
        self._bytes += len(data)
        if self._bytes > self._budget:
            self._free(path, connection)
        return sha256

    def read(self, sha256: str) -> bytes | None:
        """The picture, if it is still there."""
        try:
            return self._path(sha256).read_bytes()
        except FileNotFoundError:
            return None

    def drop(self, pictures: Iterable[str], connection: sqlite3.Connection) -> None:
        """Delete those of `pictures` that no row has any more."""
        for sha256 in pictures:
            if _newest_row(sha256, connection) is None:
                path = self._path(sha256)
                with suppress(FileNotFoundError):
                    size = path.stat().st_size
                    path.unlink()
                    self._bytes -= size

    def _free(self, newest: Path, connection: sqlite3.Connection) -> None:
        """Delete the oldest pictures until a tenth of the budget is free again; `newest` has no row yet."""
        sizes = _sizes(self._folder)
        self._bytes = sum(sizes.values())
        sizes.pop(newest, None)
        for path in sorted(sizes, key=lambda path: _newest_row(path.name, connection) or 0):
            if self._bytes <= 0.9 * self._budget:
                break
            path.unlink(missing_ok=True)
            self._bytes -= sizes[path]

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256


def _sizes(folder: Path) -> dict[Path, int]:
    sizes = {}
    for path in folder.glob("*/*"):
        with suppress(FileNotFoundError):
            sizes[path] = path.stat().st_size
    return sizes


def _newest_row(sha256: str, connection: sqlite3.Connection) -> int | None:
    found: int | None = connection.execute(
        "SELECT max(rowid) FROM inspections WHERE image_sha256 = ?", (sha256,)
    ).fetchone()[0]
    return found
