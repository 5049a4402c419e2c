"""What is deleted: rows for their age, images for the disk budget; each deletion is a link of the chain."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Mapping, Sequence

from service.station.chain import Entry, append, prune, writing
from service.station.kept_images import KeptImages, forget

log = logging.getLogger("draem_inspect")

# Rows that are deleted in one commit: those who write wait for no more.
_ROWS = 500
_FROM_OLD = "FROM inspections WHERE era = ? AND time < ?"


def keep_image(
    connection: sqlite3.Connection,
    pictures: KeptImages,
    inspection_id: str,
    contents: Sequence[bytes],
    key: bytes | None,
) -> None:
    """Write the image of a committed row, and its map where there is one, then say so in the row; raises OSError."""
    kept = pictures.write(contents)
    columns = dict(zip(("image", "map"), kept, strict=False))
    going = pictures.excess(kept, connection)
    with writing(connection):
        link = connection.execute("SELECT link FROM inspections WHERE inspection_id = ?", (inspection_id,)).fetchone()
        # The row may be too old already.
        if link is not None:
            body = json.dumps({"inspection": link[0], **columns})
            append(connection, [Entry("image", inspection_id, body, body)], key)
            connection.execute(
                "UPDATE inspections SET image_sha256 = ?, map_sha256 = ? WHERE inspection_id = ?",
                (columns["image"], columns.get("map"), inspection_id),
            )
        _forget(connection, going, key)
    pictures.drop(going, connection)


def free(connection: sqlite3.Connection, pictures: KeptImages, key: bytes | None) -> int:
    """Delete the oldest images where they are over their budget; how many."""
    going = pictures.excess((), connection)
    with writing(connection):
        _forget(connection, going, key)
    pictures.drop(going, connection)
    return len(going)


def count_old(connection: sqlite3.Connection, limits: Mapping[int, float]) -> dict[float, int]:
    """Rows that are too old, by the time before which they are so; `limits` by era."""
    return {
        oldest: connection.execute(f"SELECT count(*) {_FROM_OLD}", (era, oldest)).fetchone()[0]
        for era, oldest in limits.items()
    }


def delete_old(
    connection: sqlite3.Connection, pictures: KeptImages, limits: Mapping[int, float], key: bytes | None
) -> int:
    """Delete some of the rows that are too old, with all that hangs on them; how many, 0 where there are no more."""
    for era, oldest in limits.items():
        rows = connection.execute(
            f"SELECT inspection_id, rowid, image_sha256, map_sha256, link {_FROM_OLD} ORDER BY time LIMIT ?",
            (era, oldest, _ROWS),
        ).fetchall()
        if not rows:
            continue
        ids = [(row[0],) for row in rows]
        with writing(connection):
            metadata = connection.execute("SELECT 1 FROM metadata LIMIT 1").fetchone()
            if metadata is not None:
                connection.executemany(
                    "DELETE FROM metadata WHERE (name, value, inspection) IN (SELECT key, value, ?1 FROM json_each("
                    "(SELECT metadata FROM inspections WHERE rowid = ?1)))",
                    [(row[1],) for row in rows],
                )
            for table in ("triggers", "reviews", "inspections"):
                connection.executemany(f"DELETE FROM {table} WHERE inspection_id = ?", ids)  # noqa: S608
            prune(connection, [row[4] for row in rows if row[4] is not None], key)
        pictures.drop({sha256 for row in rows for sha256 in row[2:4] if sha256 is not None}, connection)
        return len(rows)
    return 0


def _forget(connection: sqlite3.Connection, pictures: Sequence[str], key: bytes | None) -> None:
    if named := forget(pictures, connection):
        body = json.dumps({"pictures": named})
        append(connection, [Entry("drop", "", body, body)], key)
