"""What the records know of many parts at once: counts, rates over time, histograms of scores, and what other thresholds
would have done.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.station.record import Record
from service.station.rows import QUARTER_S, sums
from service.station.verdicts import Verdict

By = Literal["hour", "camera", "recipe"]

BINS = 50
# The newest scores that a histogram is made of.
_MOST_SCORES = 100_000
# Standard deviations between the centre of a p-chart and its limits.
_SIGMAS = 3.0
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Counted:
    """Parts of one recipe with one verdict for one reason; `since` when they are counted, Unix seconds."""

    recipe: str
    verdict: Verdict
    reason: str
    count: int
    since: float


@dataclass(frozen=True)
class Selection:
    """Which parts a figure is of; None is all. Times are Unix seconds; what comes after `now` is in no figure."""

    recipe: str | None = None
    camera: str | None = None
    version: str | None = None
    after: float = 0.0
    before: float = 4e9
    now: float = 4e9


@dataclass(frozen=True)
class Group:
    """Figures of an hour, a camera or a recipe; means are None where nothing was measured."""

    group: str
    time: float | None
    counts: Mapping[Verdict, int]
    score: float | None
    brightness: float | None
    sharpness: float | None

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def counted(connection: sqlite3.Connection) -> list[Counted]:
    """Parts since the last reset of their recipe; a recipe that was reset and has none since comes with 0."""
    rows = connection.execute(
        "SELECT recipe, coalesce(verdict, 'OK'), coalesce(reason, ''), coalesce(count, 0), time FROM counted_since "
        "LEFT JOIN counted USING (recipe)"
    )
    return [Counted(recipe, Verdict(verdict), reason, count, since) for recipe, verdict, reason, count, since in rows]


def counted_since(connection: sqlite3.Connection, since: float, until: float) -> list[Counted]:
    """Parts of whole quarters of an hour; `until` is now, for a clock that was ahead left parts of times to come."""
    ahead = _ahead(connection, until)
    rows = connection.execute(
        "SELECT recipe, verdict, reason, sum(count) FROM tallies WHERE quarter BETWEEN ? AND ? GROUP BY 1, 2, 3",
        (int(since // QUARTER_S), int(until // QUARTER_S)),
    )
    found = {(recipe, verdict, reason): count for recipe, verdict, reason, count in rows}
    for (_, recipe, _, _, verdict, reason), values in ahead.items():
        found[recipe, verdict, reason] -= int(values[0])
    return [
        Counted(recipe, Verdict(verdict), reason, count, since) for (recipe, verdict, reason), count in found.items()
    ]


def grouped(connection: sqlite3.Connection, selection: Selection, by: By) -> list[Group]:
    """Figures by hour, camera or recipe, of whole quarters of an hour."""
    ahead = _ahead(connection, selection.now)
    column = {"hour": f"quarter / {3600 // QUARTER_S}", "camera": "camera", "recipe": "recipe"}[by]
    where, values = _where(selection)
    rows = connection.execute(
        f"SELECT {column}, verdict, sum(count), sum(scored), sum(score), sum(measured), sum(brightness), "  # noqa: S608
        f"sum(sharpness) FROM tallies WHERE {where} GROUP BY 1, 2 ORDER BY 1",
        values,
    )
    found: dict[str | int, dict[Verdict, list[float]]] = {}
    for name, verdict, *figures in rows:
        found.setdefault(name, {})[Verdict(verdict)] = figures
    for (quarter, recipe, camera, version, verdict, _), less in ahead.items():
        name = {"hour": int(quarter) * QUARTER_S // 3600, "camera": camera, "recipe": recipe}[by]
        kind = (selection.recipe, recipe), (selection.camera, camera), (selection.version, version)
        figures = found.get(name, {}).get(Verdict(str(verdict)))
        if (
            figures is None
            or int(quarter) not in _quarters(selection)
            or any(wanted not in {None, one} for wanted, one in kind)
        ):
            continue
        figures[:] = [all_of_it - one for all_of_it, one in zip(figures, less, strict=True)]
    groups = [_group(name, figures, by) for name, figures in found.items()]
    return [group for group in groups if group.total]


def _ahead(connection: sqlite3.Connection, now: float) -> dict[tuple[int | str, ...], list[float]]:
    """What `tallies` has, of the quarter of an hour that is under way, of parts of times to come, by its key.

    To be asked first: parts go on coming, and what is taken off must have been counted.
    """
    rows = connection.execute(
        "SELECT reply, time, brightness, sharpness FROM inspections INDEXED BY by_time WHERE time >= ? AND time < ?",
        (now, (now // QUARTER_S + 1) * QUARTER_S),
    )
    found: dict[tuple[int | str, ...], list[float]] = {}
    for reply, when, *light in rows:
        record = Record(json.loads(reply), when, None, None, brightness=light[0], sharpness=light[1])
        for key, values in sums([record]).items():
            counted_as = key if _has(connection, key) else (key[0], "", *key[2:])
            before = found.setdefault(counted_as, [0.0] * len(values))
            before[:] = [one + other for one, other in zip(before, values, strict=True)]
    return found


def _has(connection: sqlite3.Connection, key: tuple[int | str, ...]) -> bool:
    """Whether such parts were counted; those of a recipe that nobody knew were counted under no name."""
    return (
        connection.execute(
            "SELECT 1 FROM tallies WHERE quarter = ? AND recipe = ? AND camera = ? AND version = ? AND verdict = ? AND "
            "reason = ?",
            key,
        ).fetchone()
        is not None
    )


def p_chart(groups: Sequence[Group], verdict: Verdict) -> dict[str, Any]:
    """The rate of a verdict in each group, with the limits that chance stays within at the group's own size."""
    total = sum(group.total for group in groups)
    centre = sum(group.counts.get(verdict, 0) for group in groups) / total if total else 0.0
    points = []
    for group in groups:
        spread = _SIGMAS * math.sqrt(centre * (1 - centre) / group.total)
        low, high = max(0.0, centre - spread), min(1.0, centre + spread)
        rate = group.counts.get(verdict, 0) / group.total
        outside = not low - _ROUNDING <= rate <= high + _ROUNDING
        points.append({"group": group.group, "rate": rate, "low": low, "high": high, "outside": outside})
    return {"centre": centre, "points": points}


def scores(connection: sqlite3.Connection, selection: Selection) -> tuple[NDArray[np.float64], list[str | None]]:
    """The newest scores of a recipe's version, of parts that were judged, with the newest review of each."""
    rows = connection.execute(
        "SELECT score, review FROM inspections INDEXED BY by_score WHERE recipe = ?1 AND version = ?2 AND time >= ?3 "
        "AND time < ?4 AND score IS NOT NULL AND verdict <> 'NOT_INSPECTED' AND (?5 IS NULL OR camera_id = ?5) "
        "ORDER BY time DESC LIMIT ?6",
        (selection.recipe, selection.version, selection.after, selection.before, selection.camera, _MOST_SCORES),
    ).fetchall()
    return np.array([row[0] for row in rows], np.float64), [row[1] for row in rows]


def histogram(values: NDArray[np.float64], edges: NDArray[np.float64]) -> list[int]:
    return [int(count) for count in np.histogram(values, edges)[0]]


def bin_edges(values: NDArray[np.float64], *thresholds: float) -> NDArray[np.float64]:
    """Edges of bins from 0 to beyond the largest of all."""
    largest = max([*thresholds, float(values.max()) if len(values) else 0.0])
    return np.linspace(0.0, min(1.0, max(0.01, 1.05 * largest)), BINS + 1)


def what_if(
    found: tuple[NDArray[np.float64], list[str | None]], now: tuple[float, float], then: tuple[float, float]
) -> dict[str, Any]:
    """What thresholds `then` (review, reject) would have said of recorded scores, beside those of `now`."""
    values, reviews = found
    good = values[np.array([review == "good" for review in reviews], np.bool_)]
    defects = values[np.array([review == "defect" for review in reviews], np.bool_)]
    edges = bin_edges(values, *now, *then)
    return {
        "parts": len(values),
        "now": _bands(values, *now),
        "then": _bands(values, *then),
        "reviewed": {
            "defects": len(defects),
            "escapes_now": int((defects < now[0]).sum()),
            "escapes_then": int((defects < then[0]).sum()),
            "good": len(good),
            "rejects_now": int((good >= now[1]).sum()),
            "rejects_then": int((good >= then[1]).sum()),
        },
        "histogram": {
            "edges": edges.tolist(),
            "counts": histogram(values, edges),
            "good": histogram(good, edges),
            "defects": histogram(defects, edges),
        },
    }


def _bands(values: NDArray[np.float64], review: float, reject: float) -> dict[str, int]:
    rejected, doubtful = int((values >= reject).sum()), int(((values >= review) & (values < reject)).sum())
    return {"OK": len(values) - rejected - doubtful, "REVIEW": doubtful, "NG": rejected}


def _group(name: str | int, figures: Mapping[Verdict, Sequence[float]], by: By) -> Group:
    counts = {verdict: int(values[0]) for verdict, values in figures.items()}
    columns = list(zip(*figures.values(), strict=True))[1:]
    scored, score, measured, brightness, sharpness = (sum(column) for column in columns)
    when = 3600.0 * int(name) if by == "hour" else None
    return Group(
        group=str(name) if when is None else datetime.fromtimestamp(when, UTC).isoformat(),
        time=when,
        counts=counts,
        score=score / scored if scored else None,
        brightness=brightness / measured if measured else None,
        sharpness=sharpness / measured if measured else None,
    )


def _quarters(selection: Selection) -> range:
    return range(int(selection.after // QUARTER_S), math.ceil(selection.before / QUARTER_S))


def _where(selection: Selection) -> tuple[str, list[str | int]]:
    quarters = _quarters(selection)
    wheres, values = ["quarter >= ? AND quarter < ?"], list[str | int]((quarters.start, quarters.stop))
    for column in ("recipe", "camera", "version"):
        if (value := getattr(selection, column)) is not None:
            wheres.append(f"{column} = ?")
            values.append(value)
    return " AND ".join(wheres), values
