"""The rows that a search leaves, newest first, from indexes alone.

Each thing that is asked for is a list of rows in their order, which an index has; SQLite merges the lists for as long
as somebody reads on. What no index has in this order is asked of each row: see `Matching.conditions`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge

from service.station.rows import QUARTER_S
from service.station.search import Search
from service.station.verdicts import Verdict

_WITHOUT_END = 1 << 62

Value = str | float
# A condition of a row `i`, with its values.
Condition = tuple[str, tuple[Value, ...]]
Bounds = tuple[int, int]


@dataclass(frozen=True)
class Effort:
    """Rows that share a beginning of their names: of so many it is found out where they are, and so few are put in
    order, unless of those between them this share has it: then it is quicker to look at each.
    """

    many: int = 100_000
    few: int = 20_000
    dense: float = 0.25


EFFORT = Effort()


@dataclass(frozen=True)
class Matching:
    """Rows, newest first, and what is still to be asked of each."""

    rows: Iterator[int]
    conditions: Sequence[Condition]


@dataclass(frozen=True)
class _List:
    """Rows that have something in common: the column `row` of `source`."""

    source: str
    values: tuple[Value, ...] = ()
    row: str = "rowid"

    def within(self, bounds: Bounds) -> tuple[str, tuple[Value, ...]]:
        return f"SELECT {self.row} FROM {self.source} AND {self.row} BETWEEN ? AND ?", (*self.values, *bounds)  # noqa: S608


def matching(connection: sqlite3.Connection, search: Search, cursor: int | None, effort: Effort) -> Matching:
    """Rows after the row `cursor` that may be what is asked for; all others are not."""
    bounds = _of_times(connection, search, (0, _WITHOUT_END if cursor is None else cursor - 1))
    few, conditions = [*_named(search), *_marked(search)], of_times(search)
    bounds = _ends(connection, few, bounds)
    for column, value in (("part_id", search.part_id), ("lot_id", search.lot)):
        if value is not None and value.endswith("*"):
            bounds, rows = _beginning(connection, column, span(value), bounds, effort)
            if rows is None:
                conditions.append(of_beginning(column, span(value)))
            else:
                few.append(_List("json_each(?) WHERE true", (json.dumps(rows),), "value"))
    verdicts: Sequence[Verdict | None] = search.verdicts or (None,)
    if few and Verdict.OK in search.verdicts:
        # Most parts are OK: of a few it is quicker to look at each.
        places = ", ".join("?" * len(search.verdicts))
        conditions.append((f"i.verdict IN ({places})", tuple(map(str, search.verdicts))))
        verdicts = (None,)
    each = (_of_verdict(connection, search, verdict, few, bounds) for verdict in verdicts)
    return Matching(merge(*each, reverse=True), conditions)


def of_times(search: Search) -> list[Condition]:
    bounds = ((search.after, ">="), (search.before, "<"))
    return [(f"i.time {sign} ?", (bound,)) for bound, sign in bounds if bound is not None]


def of_beginning(column: str, values: tuple[str, str]) -> Condition:
    return f"i.{column} >= ? AND i.{column} < ?", values


def span(beginning: str) -> tuple[str, str]:
    """All names that begin so, from `SN-47*`: up to the greatest character that UTF-8 has."""
    return beginning[:-1], beginning[:-1] + "\U0010ffff"


def _having(column: str, index: str) -> str:
    return f"inspections INDEXED BY {index} WHERE {column}"


_EVERY = _List("inspections NOT INDEXED WHERE true")
_REVIEWED = _List(_having("(review IS NOT NULL) = 1 AND review IS NOT NULL", "by_reviewed"))
_OPEN = _List(_having("open = 1", "by_open"))


def _equal(column: str, index: str, value: str) -> _List:
    return _List(f"{_having(column, index)} = ?", (value,))


def _beginning(
    connection: sqlite3.Connection, column: str, values: tuple[str, str], bounds: Bounds, effort: Effort
) -> tuple[Bounds, list[int] | None]:
    """Between which rows those lie whose names begin so, and all of these rows, or None where each has to be asked."""
    if bounds[1] - bounds[0] <= effort.few:
        return bounds, None
    index = "by_" + column.removesuffix("_id")
    statement, own = _List(f"{_having(column, index)} >= ? AND {column} < ?", values).within(bounds)
    ends = f"SELECT count(*), min(rowid), max(rowid) FROM ({statement} LIMIT ?)"  # noqa: S608
    count, first, last = connection.execute(ends, (*own, effort.many + 1)).fetchone()
    if not count:
        return (1, 0), []
    if count > effort.many:
        return bounds, None
    if count > effort.few or count > effort.dense * (last - first):
        return (first, last), None
    return (first, last), [row for (row,) in connection.execute(statement, own)]


def _named(search: Search) -> list[_List]:
    """Lists of names, which few rows share."""
    exact = (("part_id", "by_part", search.part_id), ("lot_id", "by_lot", search.lot))
    lists = [
        _equal(column, index, value) for column, index, value in exact if value is not None and not value.endswith("*")
    ]
    return lists + [
        _List("metadata WHERE name = ? AND value = ?", item, "inspection") for item in search.metadata.items()
    ]


def _marked(search: Search) -> list[_List]:
    """Lists of what people did, or shall do."""
    return [one for wanted, one in ((search.reviewed, _REVIEWED), (search.open, _OPEN)) if wanted]


def _of_verdict(
    connection: sqlite3.Connection, search: Search, verdict: Verdict | None, few: Sequence[_List], bounds: Bounds
) -> Iterator[int]:
    bounds = _of_kinds(connection, search, verdict, bounds)
    shared = (
        ("camera_id", "by_camera", search.camera),
        ("recipe", "by_recipe", search.recipe),
        ("version", "by_version", search.version),
    )
    lists = [*few, *(_equal(column, index, value) for column, index, value in shared if value is not None)]
    if verdict is not None:
        # Few are not OK: of two lists the second is read as far as the first goes.
        lists.insert(len(lists) if verdict is Verdict.OK else 0, _equal("verdict", "by_verdict", str(verdict)))
    bounds = _ends(connection, lists, bounds)
    if bounds[0] > bounds[1]:
        return
    statements = [("INTERSECT", one.within(bounds)) for one in lists or [_EVERY]]
    left_out = ((search.reviewed, _REVIEWED), (search.open, _OPEN))
    statements += [("EXCEPT", one.within(bounds)) for wanted, one in left_out if wanted is False]
    text = " ".join(f"{word} {statement}" for word, (statement, _) in statements).removeprefix("INTERSECT ")
    values = [value for _, (_, own) in statements for value in own]
    for row in connection.execute(f"{text} ORDER BY 1 DESC", values):
        yield row[0]


def _ends(connection: sqlite3.Connection, lists: Iterable[_List], bounds: Bounds) -> Bounds:
    """Rows between which all lists have some: what one of them has beyond need not be read."""
    for one in lists:
        if one.row == "value":
            continue
        statement, values = one.within(bounds)
        oldest, newest = (
            connection.execute(f"{statement} ORDER BY 1 {way} LIMIT 1", values).fetchone() for way in ("ASC", "DESC")
        )
        if oldest is None:
            return 1, 0
        bounds = oldest[0], newest[0]
    return bounds


def _of_kinds(connection: sqlite3.Connection, search: Search, verdict: Verdict | None, bounds: Bounds) -> Bounds:
    """Rows between which all lie that have this recipe, camera, version and verdict at once."""
    shared = {"recipe": search.recipe, "camera": search.camera, "version": search.version, "verdict": verdict}
    wheres = {f"{name} = ?": str(value) for name, value in shared.items() if value is not None}
    if not wheres:
        return bounds
    return _within(connection, bounds, f"kinds WHERE {' AND '.join(wheres)}", tuple(wheres.values()))


def _of_times(connection: sqlite3.Connection, search: Search, bounds: Bounds) -> Bounds:
    """Rows between which all of a time range lie."""
    if search.after is None and search.before is None:
        return bounds
    after, before = search.after or 0.0, 1e12 if search.before is None else search.before
    quarters = int(after // QUARTER_S), int(before // QUARTER_S)
    return _within(connection, bounds, "spans WHERE quarter BETWEEN ? AND ?", quarters)


def _within(connection: sqlite3.Connection, bounds: Bounds, source: str, values: tuple[Value, ...]) -> Bounds:
    first, last = connection.execute(f"SELECT min(first), max(last) FROM {source}", values).fetchone()  # noqa: S608
    return (1, 0) if first is None else (max(bounds[0], first), min(bounds[1], last))
