"""Which records a question is about, and what is shown of them. Newest first, in the order in which they came.

With a time range the answer still comes in that order: where the clock was set, times do not.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from typing import Any

from service.station.rows import QUARTER_S
from service.station.verdicts import Verdict

_SHOWN = (
    "i.rowid, i.time, i.reply, i.camera_id, i.lot_id, i.metadata, i.layout, i.image_sha256, i.map_sha256, i.open, "
    "i.review"
)
# Rows that are looked at one by one.
_FEW = 2000
_REVIEW = "review_id, inspection_id, time, by, before, after, defect_type, note, boxes, mask IS NOT NULL"


@dataclass(frozen=True)
class Search:
    """What is asked for; None and empty ask for nothing. A name that ends in `*` is a beginning."""

    part_id: str | None = None
    camera: str | None = None
    recipe: str | None = None
    version: str | None = None
    verdicts: Sequence[Verdict] = ()
    lot: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    reviewed: bool | None = None
    open: bool | None = None
    after: float | None = None
    before: float | None = None


def find(
    connection: sqlite3.Connection, search: Search, *, limit: int, cursor: int | None = None
) -> list[dict[str, Any]]:
    """What was found after the row `cursor`, each with its `row`."""
    first, last = _row_range(connection, search)
    if cursor is not None:
        last = min(last, cursor - 1)
    if first > last:
        return []
    few = _few(connection, search)
    # One verdict at a time: an index gives each in order.
    found = merge(
        *(
            _of_verdict(connection, search, verdict, (first, last), limit, few)
            for verdict in search.verdicts or Verdict
        ),
        key=lambda row: -row[0],
    )
    return [shown(row) for row in islice(found, limit)]


def find_one(connection: sqlite3.Connection, inspection_id: str) -> dict[str, Any] | None:
    """One inspection with all of its reviews."""
    row = connection.execute(
        f"SELECT {_SHOWN} FROM inspections AS i WHERE inspection_id = ?",  # noqa: S608
        (inspection_id,),
    ).fetchone()
    if row is None:
        return None
    return shown(row) | {"reviews": reviews_of(connection, inspection_id)}


def reviews_of(connection: sqlite3.Connection, inspection_id: str) -> list[dict[str, Any]]:
    """The reviews of an inspection, oldest first."""
    rows = connection.execute(
        f"SELECT {_REVIEW} FROM reviews WHERE inspection_id = ? ORDER BY rowid",  # noqa: S608
        (inspection_id,),
    )
    return [shown_review(row) for row in rows]


def latest_reviews(
    connection: sqlite3.Connection, *, search: Search, limit: int, cursor: int | None
) -> list[tuple[int, dict[str, Any]]]:
    """Reviews of the parts that are asked for, newest first, each with its row."""
    wheres, values = _conditions(search, None)
    if search.verdicts:
        wheres.append(f"i.verdict IN ({', '.join('?' * len(search.verdicts))})")
        values += [str(verdict) for verdict in search.verdicts]
    columns = ", ".join(f"r.{name}" for name in _REVIEW.split(", "))
    rows = connection.execute(
        f"SELECT r.rowid, {columns} FROM reviews AS r JOIN inspections AS i USING (inspection_id) WHERE "  # noqa: S608
        f"{' AND '.join(['r.rowid < ?', *wheres])} ORDER BY r.rowid DESC LIMIT ?",
        [1 << 62 if cursor is None else cursor, *values, limit],
    )
    return [(row[0], shown_review(row[1:])) for row in rows]


def shown(row: Sequence[Any]) -> dict[str, Any]:
    """A row as it is answered; `row` pages on."""
    number, time, reply, camera, lot, metadata, layout, image, anomaly_map, waits, review = row
    return {
        "time": time,
        **json.loads(reply),
        "camera_id": camera,
        "lot_id": lot,
        "metadata": json.loads(metadata or "{}"),
        "layout": None if layout is None else json.loads(layout),
        "image": image is not None,
        "map": anomaly_map is not None,
        "open": bool(waits),
        "review": review,
        "row": number,
    }


def shown_review(row: Sequence[Any]) -> dict[str, Any]:
    names = ("review_id", "inspection_id", "time", "by", "before", "after", "defect_type", "note")
    return dict(zip(names, row, strict=False)) | {"boxes": json.loads(row[8]), "mask": bool(row[9])}


def _of_verdict(
    connection: sqlite3.Connection,
    search: Search,
    verdict: Verdict,
    rows: tuple[int, int],
    limit: int,
    few: Sequence[int] | None,
) -> list[tuple[Any, ...]]:
    wheres, values = _conditions(search, verdict)
    if few is None:
        source, among = f"INDEXED BY {_index(search)}", []
    else:
        # The sign keeps SQLite from walking through all rows in their order instead.
        source, among = "NOT INDEXED", [json.dumps(few)]
        wheres = ["i.rowid IN (SELECT value FROM json_each(?))", *wheres]
    order = "i.rowid" if few is None else "+i.rowid"
    return connection.execute(
        f"SELECT {_SHOWN} FROM inspections AS i {source} WHERE "  # noqa: S608
        f"{' AND '.join([*wheres, f'{order} BETWEEN ? AND ?'])} ORDER BY {order} DESC LIMIT ?",
        [*among, *values, *rows, limit],
    ).fetchall()


def _few(connection: sqlite3.Connection, search: Search) -> list[int] | None:
    """The rows that one of the questions leaves, where they are few enough to look at each."""
    questions: list[tuple[str, tuple[str, ...]]] = [
        (f"SELECT rowid FROM inspections INDEXED BY {index} WHERE {column} >= ? AND {column} < ?", _span(value))  # noqa: S608
        for index, column, value in (("by_part", "part_id", search.part_id), ("by_lot", "lot_id", search.lot))
        if value is not None and value.endswith("*")
    ]
    questions += [
        ("SELECT inspection FROM metadata WHERE name = ? AND value = ?", item) for item in search.metadata.items()
    ]
    if search.reviewed:
        questions.append(("SELECT rowid FROM inspections INDEXED BY by_review WHERE review IS NOT NULL", ()))
    for question, values in questions:
        found = connection.execute(f"{question} LIMIT ?", (*values, _FEW + 1)).fetchall()
        if len(found) <= _FEW:
            return [row[0] for row in found]
    return None


def _span(beginning: str) -> tuple[str, str]:
    """All that begin so: up to the greatest character that UTF-8 has."""
    return beginning[:-1], beginning[:-1] + "\U0010ffff"


def _index(search: Search) -> str:
    """The index that leaves the fewest rows to look at; SQLite has no figures of how many each one leaves."""
    exact = {"by_part": search.part_id, "by_lot": search.lot}
    for name, value in exact.items():
        if value is not None and not value.endswith("*"):
            return name
    given = {"by_open": search.open or None, "by_version": search.version, "by_camera": search.camera}
    given["by_recipe"] = search.recipe
    return next((name for name, value in given.items() if value is not None), "by_verdict")


def _conditions(search: Search, verdict: Verdict | None) -> tuple[list[str], list[str | float]]:
    """What a row `i` has to be, with the values."""
    wheres: list[str] = []
    values: list[str | float] = []
    equal = {"camera_id": search.camera, "recipe": search.recipe, "version": search.version, "verdict": verdict}
    for column, value in (equal | {"part_id": search.part_id, "lot_id": search.lot}).items():
        if value is None:
            continue
        if column in {"part_id", "lot_id"} and value.endswith("*"):
            wheres.append(f"i.{column} >= ? AND i.{column} < ?")
            values += _span(value)
        else:
            wheres.append(f"i.{column} = ?")
            values.append(str(value))
    for bound, sign in ((search.after, ">="), (search.before, "<")):
        if bound is not None:
            wheres.append(f"i.time {sign} ?")
            values.append(bound)
    for name, value in search.metadata.items():
        wheres.append("EXISTS (SELECT 1 FROM metadata WHERE name = ? AND value = ? AND inspection = i.rowid)")
        values += [name, value]
    if search.reviewed is not None:
        wheres.append(f"i.review IS {'NOT ' if search.reviewed else ''}NULL")
    if search.open is not None:
        wheres.append("i.open = 1" if search.open else "i.open IS NULL")
    return wheres, values


def _row_range(connection: sqlite3.Connection, search: Search) -> tuple[int, int]:
    """Rows between which all of a time range lie."""
    if search.after is None and search.before is None:
        return 0, 1 << 62
    after, before = search.after or 0.0, 1e12 if search.before is None else search.before
    first, last = connection.execute(
        "SELECT min(first), max(last) FROM spans WHERE quarter BETWEEN ? AND ?",
        (int(after // QUARTER_S), int(before // QUARTER_S)),
    ).fetchone()
    return (1, 0) if first is None else (first, last)
