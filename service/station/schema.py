"""What the file of the records holds, and how files of earlier versions become one of today, in place.

    inspections   a row for each part: the reply as it was sent, columns to search by, `open` while it waits for review
    metadata      free names and values that came with a part (X-Meta-*)
    reviews       what a person said of a part; rows are added, never changed
    chain         a link for each row above and for each deletion: see service.station.chain
    counted       parts by recipe, verdict and reason since the last reset of the recipe
    tallies       the same by quarter of an hour, camera and version, with sums of score, brightness and sharpness
    spans         the first and the last row of each quarter of an hour
    kinds         the first and the last row of each recipe, camera, version and verdict that came together
    triggers, distrusted, eras, clock: see triggers.py and calendar.py

`training collect` reads inspections and reviews.
"""

from __future__ import annotations

import json
import sqlite3

from service.station import calendar
from service.station.chain import Entry, append

# A file that says more was written by a later version of the service.
VERSION = 4
_TABLES = """
CREATE TABLE IF NOT EXISTS inspections (
    inspection_id TEXT PRIMARY KEY,
    time REAL NOT NULL,
    era INTEGER NOT NULL DEFAULT 0,
    recipe TEXT NOT NULL,
    verdict TEXT NOT NULL,
    part_id TEXT,
    camera_id TEXT,
    lot_id TEXT,
    version TEXT,
    score REAL,
    brightness REAL,
    sharpness REAL,
    metadata TEXT,
    layout TEXT,
    image_sha256 TEXT,
    map_sha256 TEXT,
    open INTEGER,
    review TEXT,
    link INTEGER,
    reply TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS metadata (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    inspection INTEGER NOT NULL,
    PRIMARY KEY (name, value, inspection)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reviews (
    review_id TEXT PRIMARY KEY,
    inspection_id TEXT NOT NULL,
    time REAL NOT NULL,
    by TEXT NOT NULL,
    before TEXT NOT NULL,
    after TEXT NOT NULL,
    defect_type TEXT,
    note TEXT,
    boxes TEXT NOT NULL,
    mask BLOB,
    link INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS reviews_by_inspection ON reviews (inspection_id);
CREATE TABLE IF NOT EXISTS chain (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    content BLOB NOT NULL,
    hash BLOB NOT NULL,
    body TEXT
);
CREATE INDEX IF NOT EXISTS chain_beside_rows ON chain (kind, id) WHERE kind <> 'inspection';
CREATE TABLE IF NOT EXISTS anchor (id INTEGER PRIMARY KEY CHECK (id = 0), seq INTEGER NOT NULL, hash BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS counted (
    recipe TEXT NOT NULL,
    verdict TEXT NOT NULL,
    reason TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (recipe, verdict, reason)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counted_since (recipe TEXT PRIMARY KEY, time REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tallies (
    quarter INTEGER NOT NULL,
    recipe TEXT NOT NULL,
    camera TEXT NOT NULL,
    version TEXT NOT NULL,
    verdict TEXT NOT NULL,
    reason TEXT NOT NULL,
    count INTEGER NOT NULL,
    scored INTEGER NOT NULL,
    score REAL NOT NULL,
    measured INTEGER NOT NULL,
    brightness REAL NOT NULL,
    sharpness REAL NOT NULL,
    PRIMARY KEY (quarter, recipe, camera, version, verdict, reason)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spans (quarter INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS kinds (
    recipe TEXT NOT NULL,
    camera TEXT NOT NULL,
    version TEXT NOT NULL,
    verdict TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (recipe, camera, version, verdict)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS triggers (
    recipe TEXT NOT NULL,
    trigger_id TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    inspection_id TEXT NOT NULL,
    PRIMARY KEY (recipe, trigger_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS triggers_by_inspection ON triggers (inspection_id);
CREATE TABLE IF NOT EXISTS distrusted (
    recipe TEXT PRIMARY KEY,
    time REAL NOT NULL,
    era INTEGER NOT NULL
) WITHOUT ROWID;
"""
# Of `inspections`, in files of earlier versions.
_ADDED = {
    "era": "INTEGER NOT NULL DEFAULT 0",
    **dict.fromkeys(("camera_id", "lot_id", "version", "metadata", "layout", "map_sha256", "review"), "TEXT"),
    **dict.fromkeys(("score", "brightness", "sharpness"), "REAL"),
    **dict.fromkeys(("open", "link"), "INTEGER"),
}
# Of earlier versions, under names that say something else today.
_DROPPED = ("by_recipe", "by_camera", "by_version", "by_open", "by_review")
# Each also gives the order in which the rows came, which searches need: of one column, not more. The last one answers
# what Quality asks without a look at the rows.
_INDEXES = """
CREATE INDEX IF NOT EXISTS by_time ON inspections (time);
CREATE INDEX IF NOT EXISTS by_age ON inspections (era, time);
CREATE INDEX IF NOT EXISTS by_verdict ON inspections (verdict);
CREATE INDEX IF NOT EXISTS by_recipe ON inspections (recipe);
CREATE INDEX IF NOT EXISTS by_camera ON inspections (camera_id) WHERE camera_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_version ON inspections (version) WHERE version IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_part ON inspections (part_id) WHERE part_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_lot ON inspections (lot_id) WHERE lot_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_image ON inspections (image_sha256) WHERE image_sha256 IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_map ON inspections (map_sha256) WHERE map_sha256 IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_open ON inspections (open) WHERE open IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_reviewed ON inspections (review IS NOT NULL) WHERE review IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_link ON inspections (link) WHERE link IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_score ON inspections (recipe, version, time, score, verdict, review, camera_id);
"""


def upgrade(connection: sqlite3.Connection) -> int:
    """Bring the file to the schema of today, unless it is beyond that; the version that it had."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version >= VERSION:
        return version
    connection.execute("PRAGMA journal_mode = WAL")
    # In one step: after a power cut the file is of the earlier version or of this one.
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        for statement in (_TABLES + calendar.SCHEMA).split(";"):
            connection.execute(statement)
        if version < 3:
            _add_columns(connection, version)
        connection.execute(
            "INSERT INTO kinds SELECT recipe, coalesce(camera_id, ''), coalesce(version, ''), verdict, min(rowid), "
            "max(rowid) FROM inspections GROUP BY 1, 2, 3, 4"
        )
        for name in _DROPPED:
            connection.execute(f"DROP INDEX IF EXISTS {name}")
        for statement in _INDEXES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
    return version


def _add_columns(connection: sqlite3.Connection, version: int) -> None:
    """What files of version 2 and before had in their replies alone, or not at all."""
    columns = {row[1] for row in connection.execute("PRAGMA table_info(inspections)")}
    for name in _ADDED.keys() - columns:
        connection.execute(f"ALTER TABLE inspections ADD COLUMN {name} {_ADDED[name]}")
    connection.execute(
        "UPDATE inspections SET camera_id = json_extract(reply, '$.camera_id'), version = json_extract(reply, "
        "'$.version'), score = json_extract(reply, '$.score') WHERE json_valid(reply)"
    )
    connection.execute(
        "INSERT INTO tallies SELECT cast(time / 900 AS INTEGER), recipe, coalesce(camera_id, ''), "
        "coalesce(version, ''), verdict, '', count(*), count(score), total(score), 0, 0, 0 FROM inspections "
        "GROUP BY 1, 2, 3, 4, 5"
    )
    connection.execute(
        "INSERT INTO spans SELECT cast(time / 900 AS INTEGER), min(rowid), max(rowid) FROM inspections GROUP BY 1"
    )
    earlier = connection.execute("SELECT count(*) FROM inspections").fetchone()[0]
    if earlier:
        body = json.dumps({"version": version, "rows": earlier})
        append(connection, [Entry("upgrade", "", body, body)])
