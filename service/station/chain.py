"""The chain: a link for each inspection, kept image, review and deletion, each vouching for all links before it.

    hash = SHA-256(hash of the link before | kind | id | SHA-256(content))        with INSPECT_SEAL_KEY: HMAC-SHA-256

    inspection   its row, as it was written: columns of COVERED
    image        sha256 of the image and of the map that were kept
    review       its row
    drop         images and maps that went for the disk budget
    prune        links of inspections that were deleted for their age
    upgrade      rows of an earlier version of the service, which have no link

A row that was changed, added or taken away afterwards contradicts its link, and a link that was contradicts the next.
Links of deleted rows stay until all before them are deleted too; then the anchor has the last hash of those that went.
Without a key who may write the file can also write the whole chain anew: a head that was noted elsewhere (the log has
one whenever the service ends) proves that this did not happen.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["inspection", "image", "review", "drop", "prune", "upgrade"]

# What nobody changes once an inspection was written.
COVERED = (
    *("inspection_id", "time", "era", "recipe", "verdict", "part_id", "camera_id", "lot_id", "version", "score"),
    *("brightness", "sharpness", "metadata", "layout", "reply"),
)
REVIEW_COLUMNS = (
    *("review_id", "inspection_id", "time", "by", "before", "after", "defect_type", "note", "boxes", "mask"),
)
_START = bytes(32)


@dataclass(frozen=True)
class Entry:
    """What a link is to be made of; `body` is what the chain itself keeps, for kinds without a row elsewhere."""

    kind: Kind
    id: str
    content: str
    body: str | None = None


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """A transaction in which nobody else writes: the head of the chain stays what it is."""
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        yield connection


def append(connection: sqlite3.Connection, entries: Sequence[Entry], key: bytes | None = None) -> int:
    """Add links, within `writing`; the number of the first."""
    seq, before = head(connection)
    rows = []
    for number, entry in enumerate(entries, start=seq + 1):
        content = hashlib.sha256(entry.content.encode()).digest()
        before = link_hash(before, entry.kind, entry.id, content, key)
        rows.append((number, entry.kind, entry.id, content, before, entry.body))
    connection.executemany("INSERT INTO chain VALUES (?, ?, ?, ?, ?, ?)", rows)
    return seq + 1


def head(connection: sqlite3.Connection) -> tuple[int, bytes]:
    """Number and hash of the newest link."""
    row = connection.execute("SELECT seq, hash FROM chain ORDER BY seq DESC LIMIT 1").fetchone()
    return row or anchor(connection)


def anchor(connection: sqlite3.Connection) -> tuple[int, bytes]:
    """Number and hash of the newest link that was deleted with all before it."""
    return connection.execute("SELECT seq, hash FROM anchor").fetchone() or (0, _START)


def link_hash(before: bytes, kind: str, id_: str, content: bytes, key: bytes | None) -> bytes:
    message = b"".join((before, kind.encode(), b"\0", id_.encode(), b"\0", content))
    return hashlib.sha256(message).digest() if key is None else hmac.digest(key, message, "sha256")


def fits(connection: sqlite3.Connection, key: bytes | None) -> bool:
    """Whether the newest link was made with `key`, so that another one with it can follow."""
    newest = connection.execute("SELECT kind, id, content, hash FROM chain ORDER BY seq DESC LIMIT 2").fetchall()
    if not newest:
        return True
    kind, id_, content, link = newest[0]
    before = newest[1][3] if len(newest) > 1 else anchor(connection)[1]
    return bool(link_hash(before, kind, id_, content, key) == link)


def change_of_secret(connection: sqlite3.Connection, key: bytes | None) -> str | None:
    """What is to be known where links with `key`, or without one, are about to follow links that are made otherwise."""
    if fits(connection, key):
        return None
    newest, link = head(connection)
    here = newest + 1
    if key is None:
        return (
            f"the chain is made with a secret, and without one from link {here} on: set INSPECT_SEAL_KEY again, or "
            "python -m service records verify finds it changed there"
        )
    return (
        f"the chain is made without this secret, and with it from link {here} on: note that number and the newest link "
        f"now, {link.hex()}, python -m service records verify asks for both (--sealed-from, --head)"
    )


def row_text(row: Sequence[Any]) -> str:
    """What the link of a row is of: its columns, in the order of COVERED or REVIEW_COLUMNS."""
    return json.dumps([hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value for value in row])


def prune(connection: sqlite3.Connection, links: Sequence[int], key: bytes | None) -> None:
    """Note that the rows of these `links` are deleted, within `writing`, and forget the links before all that is kept.

    What hung on the deleted inspections, reviews and images, is to be deleted already.
    """
    body = json.dumps({"inspections": _ranges(sorted(links))})
    append(connection, [Entry("prune", "", body, body)], key)
    first = connection.execute("SELECT link FROM inspections ORDER BY rowid LIMIT 1").fetchone()
    if first == (None,):
        # One of an earlier version: the link that speaks of those stays.
        return
    oldest = connection.execute("SELECT min(link) FROM inspections WHERE link IS NOT NULL").fetchone()[0]
    # The newest link stays: it is the head.
    last = head(connection)[0] - 1 if oldest is None else oldest - 1
    if row := connection.execute(
        "SELECT seq, hash FROM chain WHERE seq <= ? ORDER BY seq DESC LIMIT 1", (last,)
    ).fetchone():
        connection.execute("INSERT OR REPLACE INTO anchor VALUES (0, ?, ?)", row)
        connection.execute("DELETE FROM chain WHERE seq <= ?", (row[0],))


def _ranges(numbers: Sequence[int]) -> list[list[int]]:
    """First and last of each run of whole numbers."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return runs
