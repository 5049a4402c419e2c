"""The images of the records: files named by their content, under a disk budget; the oldest go first.

How old an image is the rows say, by the order in which they came: files have the dates of a clock that may be set.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path


class KeptImages:
    """Written by one thread, read by any."""

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.budget = budget_bytes
        self.bytes = sum(_sizes(folder).values())

    def write(self, contents: Sequence[bytes]) -> list[str]:
        """Keep images; the sha256 of each. Raises OSError."""
        return [self._write(data) for data in contents]

    def _write(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.path(sha256)
        with suppress(FileNotFoundError):
            # As new as its row: it is no stray of long ago.
            os.utime(path)
            return sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError:
            # Half an image must not fill a disk that is full already.
            temporary.unlink(missing_ok=True)
            raise
        self.bytes += len(data)
        return sha256

    def read(self, sha256: str) -> bytes | None:
        """The image, if it is still there."""
        try:
            return self.path(sha256).read_bytes()
        except FileNotFoundError:
            return None

    def drop(self, pictures: Iterable[str], connection: sqlite3.Connection) -> None:
        """Delete those of `pictures` that no row has any more."""
        for sha256 in pictures:
            if _newest_row(sha256, connection) is None:
                path = self.path(sha256)
                with suppress(FileNotFoundError):
                    size = path.stat().st_size
                    path.unlink()
                    self.bytes -= size

    def excess(self, newest: Iterable[str], connection: sqlite3.Connection) -> list[str]:
        """The oldest images, as many as must go for a tenth of the budget to be free again; none while all fit.

        `newest` stay: their rows do not name them yet.
        """
        if self.bytes <= self.budget:
            return []
        sizes = _sizes(self._folder)
        self.bytes = left = sum(sizes.values())
        # Another process may have deleted some.
        if left <= self.budget:
            return []
        for sha256 in newest:
            sizes.pop(self.path(sha256), None)
        going = []
        for path in sorted(sizes, key=lambda path: _newest_row(path.name, connection) or 0):
            if left <= 0.9 * self.budget:
                break
            going.append(path.name)
            left -= sizes[path]
        return going

    def drop_strays(self, before: float, connection: sqlite3.Connection) -> int:
        """Delete files of before that moment that no row has, which a kill between two steps leaves; how many."""
        dropped = 0
        for path in _sizes(self._folder):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before and _newest_row(path.name, connection) is None:
                    path.unlink()
                    dropped += 1
        return dropped

    def path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256


def forget(pictures: Sequence[str], connection: sqlite3.Connection) -> list[str]:
    """Let no row name `pictures` any more, within chain.writing; those that a row named."""
    named = [sha256 for sha256 in pictures if _newest_row(sha256, connection) is not None]
    for column in ("image_sha256", "map_sha256"):
        connection.executemany(
            f"UPDATE inspections SET {column} = NULL WHERE {column} = ?",  # noqa: S608
            [(sha256,) for sha256 in named],
        )
    return named


def _sizes(folder: Path) -> dict[Path, int]:
    sizes = {}
    for path in folder.glob("*/*"):
        with suppress(FileNotFoundError):
            sizes[path] = path.stat().st_size
    return sizes


def _newest_row(sha256: str, connection: sqlite3.Connection) -> int | None:
    found: int | None = connection.execute(
        "SELECT max(newest) FROM (SELECT max(rowid) AS newest FROM inspections WHERE image_sha256 = :sha256 UNION ALL "
        "SELECT max(rowid) FROM inspections WHERE map_sha256 = :sha256)",
        {"sha256": sha256},
    ).fetchone()[0]
    return found
