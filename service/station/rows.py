"""Records to rows: the inspection, its link of the chain, its metadata and trigger, and the counts, in one commit."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.station.calendar import Calendar
from service.station.chain import COVERED, Entry, append, row_text
from service.station.record import Record

# Seconds of one row of `tallies`: shifts begin on a quarter of an hour.
QUARTER_S = 900


@dataclass(frozen=True)
class Reset:
    """Count the parts of `recipe`, or of all, anew from `time` on."""

    recipe: str | None
    time: float


def write(
    connection: sqlite3.Connection,
    batch: Sequence[tuple[Record | Reset, int]],
    calendar: Calendar,
    *,
    key: bytes | None,
    again: bool,
) -> None:
    """Write what came, each with the era in which it came, in its order; within chain.writing.

    `again`: an earlier try failed, and may have been committed all the same.
    """
    records = [(one, era) for one, era in batch if isinstance(one, Record)]
    if again:
        known = _known(connection, [record.inspection_id for record, _ in records])
        records = [(record, era) for record, era in records if record.inspection_id not in known]
    _insert(connection, records, key)
    counted: list[Record] = []
    fresh = {id(record) for record, _ in records}
    for one, _ in batch:
        if isinstance(one, Record):
            counted += [one] if id(one) in fresh else []
            continue
        _count(connection, counted)
        counted = []
        _reset(connection, one)
    _count(connection, counted)
    _tally(connection, [record for record, _ in records])
    calendar.save(connection, sign_of_life=False)


def _insert(connection: sqlite3.Connection, records: Sequence[tuple[Record, int]], key: bytes | None) -> None:
    if not records:
        return
    covered = [_covered(record, era) for record, era in records]
    entries = [
        Entry("inspection", record.inspection_id, row_text(row))
        for (record, _), row in zip(records, covered, strict=True)
    ]
    first = append(connection, entries, key)
    newest = connection.execute("SELECT coalesce(max(rowid), 0) FROM inspections").fetchone()[0]
    names = ", ".join((*COVERED, "open", "link"))
    places = ", ".join("?" * (len(COVERED) + 2))
    connection.executemany(
        f"INSERT INTO inspections (rowid, {names}) VALUES (?, {places})",  # noqa: S608
        [
            (newest + 1 + number, *row, 1 if record.open else None, first + number)
            for number, ((record, _), row) in enumerate(zip(records, covered, strict=True))
        ],
    )
    numbered = list(enumerate((record for record, _ in records), start=newest + 1))
    connection.executemany(
        "INSERT OR IGNORE INTO metadata VALUES (?, ?, ?)",
        [(name, value, row) for row, record in numbered for name, value in record.metadata.items()],
    )
    connection.executemany(
        "INSERT INTO spans VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET first = min(first, excluded.first), "
        "last = max(last, excluded.last)",
        [(int(record.time // QUARTER_S), row, row) for row, record in numbered],
    )
    kinds: dict[tuple[object, ...], tuple[int, int]] = {}
    for row, record in numbered:
        reply = record.reply
        kind = record.recipe, reply.get("camera_id") or "", reply.get("version") or "", str(reply["verdict"])
        kinds[kind] = (kinds.get(kind, (row, row))[0], row)
    connection.executemany(
        "INSERT INTO kinds VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET first = min(first, excluded.first), "
        "last = max(last, excluded.last)",
        [(*kind, *rows) for kind, rows in kinds.items()],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO triggers VALUES (?, ?, ?, ?)",
        [
            (trigger.recipe, trigger.trigger_id, trigger.sha256, record.inspection_id)
            for record, _ in records
            if (trigger := record.trigger) is not None
        ],
    )


def _covered(record: Record, era: int) -> tuple[object, ...]:
    reply = record.reply
    score = reply.get("score")
    # Floats, as SQLite gives them back.
    return (
        record.inspection_id,
        float(record.time),
        era,
        record.recipe,
        reply["verdict"],
        reply.get("part_id"),
        reply.get("camera_id"),
        record.lot_id,
        reply.get("version"),
        None if score is None else float(score),
        None if record.brightness is None else float(record.brightness),
        None if record.sharpness is None else float(record.sharpness),
        json.dumps(dict(record.metadata)) if record.metadata else None,
        None if record.layout is None else json.dumps(dict(record.layout)),
        json.dumps(reply),
    )


def _known(connection: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
    places = ", ".join("?" * len(ids))
    found = connection.execute(f"SELECT inspection_id FROM inspections WHERE inspection_id IN ({places})", ids)  # noqa: S608
    return {row[0] for row in found}


def _count(connection: sqlite3.Connection, records: Iterable[Record]) -> None:
    counts: Counter[tuple[str, str, str]] = Counter()
    since: dict[str, float] = {}
    for record in records:
        for recipe, reasons in record.reasons.items():
            since.setdefault(recipe, float(record.time))
            for reason, count in reasons.items():
                counts[recipe, str(record.reply["verdict"]), reason] += count
    connection.executemany("INSERT OR IGNORE INTO counted_since VALUES (?, ?)", since.items())
    connection.executemany(
        "INSERT INTO counted VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
        [(*key, count) for key, count in counts.items()],
    )


def _reset(connection: sqlite3.Connection, reset: Reset) -> None:
    if reset.recipe is None:
        connection.execute("DELETE FROM counted")
        connection.execute("UPDATE counted_since SET time = ?", (reset.time,))
    else:
        connection.execute("DELETE FROM counted WHERE recipe = ?", (reset.recipe,))
        connection.execute("INSERT OR REPLACE INTO counted_since VALUES (?, ?)", (reset.recipe, reset.time))


def sums(records: Iterable[Record]) -> dict[tuple[int | str, ...], list[float]]:
    """What a row of `tallies` has, by its key."""
    found: dict[tuple[int | str, ...], list[float]] = {}
    for record in records:
        reply, quarter = record.reply, int(record.time // QUARTER_S)
        score = reply.get("score") if reply["verdict"] != "NOT_INSPECTED" else None
        for recipe, reasons in record.reasons.items():
            for reason, count in reasons.items():
                place = (reply.get("camera_id") or "", reply.get("version") or "", str(reply["verdict"]), reason)
                row = found.setdefault((quarter, recipe, *place), [0] * 6)
                measured = record.brightness is not None
                more = (
                    count,
                    score is not None,
                    score or 0.0,
                    measured,
                    record.brightness or 0.0,
                    record.sharpness or 0.0,
                )
                row[:] = [before + value for before, value in zip(row, more, strict=True)]
    return found


def _tally(connection: sqlite3.Connection, records: Iterable[Record]) -> None:
    connection.executemany(
        "INSERT INTO tallies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
        "count = count + excluded.count, scored = scored + excluded.scored, score = score + excluded.score, "
        "measured = measured + excluded.measured, brightness = brightness + excluded.brightness, "
        "sharpness = sharpness + excluded.sharpness",
        [(*key, *row) for key, row in sums(records).items()],
    )
