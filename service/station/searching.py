"""Which records a question is about, and what is shown of them. Newest first, in the order in which they came.

With a time range the answer still comes in that order: where the clock was set, times do not.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from itertools import islice
from typing import Any

from service.station.matching import EFFORT, Effort, matching, of_beginning, of_times, span
from service.station.search import Search

_SHOWN = (
    "i.rowid, i.time, i.reply, i.camera_id, i.lot_id, i.metadata, i.layout, i.image_sha256, i.map_sha256, i.open, "
    "i.review"
)
_MOST_AT_ONCE = 2000
_REVIEW = "review_id, inspection_id, time, by, before, after, defect_type, note, boxes, mask IS NOT NULL"


def find(
    connection: sqlite3.Connection, search: Search, *, limit: int, cursor: int | None = None, effort: Effort = EFFORT
) -> list[dict[str, Any]]:
    """What was found after the row `cursor`, each with its `row`."""
    found = matching(connection, search, cursor, effort)
    wheres = " AND ".join(["i.rowid IN (SELECT value FROM json_each(?))", *(where for where, _ in found.conditions)])
    values = [value for _, own in found.conditions for value in own]
    rows: list[dict[str, Any]] = []
    looked_at = limit
    while len(rows) < limit and (some := list(islice(found.rows, looked_at))):
        # The sign keeps SQLite from walking through all rows in their order instead.
        rows += map(
            shown,
            connection.execute(
                f"SELECT {_SHOWN} FROM inspections AS i NOT INDEXED WHERE {wheres} ORDER BY +i.rowid DESC LIMIT ?",  # noqa: S608
                [json.dumps(some), *values, limit - len(rows)],
            ),
        )
        looked_at = min(_MOST_AT_ONCE, 2 * looked_at)
    return rows


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
    wheres, values = _conditions(search)
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


def _conditions(search: Search) -> tuple[list[str], list[str | float]]:
    """What a row `i` has to be, with the values."""
    pieces = of_times(search)
    equal = {"camera_id": search.camera, "recipe": search.recipe, "version": search.version}
    for column, value in (equal | {"part_id": search.part_id, "lot_id": search.lot}).items():
        if value is None:
            continue
        if column in {"part_id", "lot_id"} and value.endswith("*"):
            pieces.append(of_beginning(column, span(value)))
        else:
            pieces.append((f"i.{column} = ?", (value,)))
    if search.verdicts:
        places = ", ".join("?" * len(search.verdicts))
        pieces.append((f"i.verdict IN ({places})", tuple(map(str, search.verdicts))))
    for item in search.metadata.items():
        pieces.append(("EXISTS (SELECT 1 FROM metadata WHERE name = ? AND value = ? AND inspection = i.rowid)", item))
    if search.reviewed is not None:
        pieces.append((f"i.review IS {'NOT ' if search.reviewed else ''}NULL", ()))
    if search.open is not None:
        pieces.append(("i.open = 1" if search.open else "i.open IS NULL", ()))
    return [where for where, _ in pieces], [value for _, values in pieces for value in values]
