"""What people say of parts: good or defect, where and of which kind. A review is added, never changed."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from service.station.chain import Entry, append, row_text, writing
from service.station.searching import shown_review

Opinion = Literal["good", "defect"]


@dataclass(frozen=True)
class Box:
    """Where a defect is, in pixels of the image that was sent."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Review:
    """What somebody says of a part; `mask` is a PNG of one channel, 128 and more is the defect."""

    verdict: Opinion
    by: str
    defect_type: str | None = None
    note: str | None = None
    boxes: Sequence[Box] = ()
    mask: bytes | None = None


def add_review(
    connection: sqlite3.Connection, inspection_id: str, review: Review, key: bytes | None
) -> tuple[dict[str, Any], bool] | None:
    """Write a review to the disk: what it says, and whether the part waited for it; None for an unknown part.

    Once this returns it survives a loss of power.
    """
    with writing(connection):
        found = connection.execute(
            "SELECT coalesce(review, verdict), open, link FROM inspections WHERE inspection_id = ?", (inspection_id,)
        ).fetchone()
        if found is None:
            return None
        before, waited, link = found
        boxes = json.dumps([asdict(box) for box in review.boxes])
        row = (
            *(str(uuid.uuid4()), inspection_id, time.time(), review.by, before, review.verdict),
            *(review.defect_type, review.note, boxes, review.mask),
        )
        body = json.dumps({"inspection": link})
        seq = append(connection, [Entry("review", row[0], row_text(row) + body, body)], key)
        connection.execute("INSERT INTO reviews VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, seq))
        connection.execute(
            "UPDATE inspections SET review = ?, open = NULL WHERE inspection_id = ?", (review.verdict, inspection_id)
        )
    return shown_review((*row[:9], review.mask is not None)), bool(waited)


def mask_of(connection: sqlite3.Connection, review_id: str) -> bytes | None:
    row = connection.execute("SELECT mask FROM reviews WHERE review_id = ?", (review_id,)).fetchone()
    return None if row is None else row[0]


def defect_types(connection: sqlite3.Connection, recipe: str | None) -> list[str]:
    """Kinds of defects that were named so far, the most frequent first."""
    rows = connection.execute(
        "SELECT defect_type FROM reviews JOIN inspections USING (inspection_id) WHERE defect_type IS NOT NULL AND "
        "(?1 IS NULL OR recipe = ?1) GROUP BY defect_type ORDER BY count(*) DESC, defect_type",
        (recipe,),
    )
    return [row[0] for row in rows]
