"""What is said of a shift or a lot at its end: parts by verdict, why some were not inspected, and what people found."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from service.station.record import Record
from service.station.verdicts import Verdict

_NOT = str(Verdict.NOT_INSPECTED)


@dataclass(frozen=True)
class Span:
    """All parts from `since` until `until`, Unix seconds, or of them those of a lot."""

    since: float
    until: float
    lot: str | None = None


def report(connection: sqlite3.Connection, span: Span) -> dict[str, Any]:
    """Figures of all parts of the span."""
    index, lot = ("by_time", "") if span.lot is None else ("by_lot", " AND lot_id = ?")
    where = f"FROM inspections INDEXED BY {index} WHERE time >= ? AND time < ?{lot}"
    values = (span.since, span.until, *([] if span.lot is None else [span.lot]))
    parts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    people: Counter[str] = Counter()
    times: list[float] = []
    rows = connection.execute(
        "SELECT recipe, coalesce(version, ''), verdict, review, open IS NOT NULL, count(*), min(time), max(time) "
        f"{where} GROUP BY 1, 2, 3, 4, 5",
        values,
    )
    for recipe, version, verdict, review, waits, count, oldest, newest in rows:
        times += oldest, newest
        if verdict != _NOT:
            parts[recipe, version][verdict] += count
        people["waiting"] += count if waits else 0
        people["reviewed"] += count if review is not None else 0
        people["passed_defects"] += count if (verdict, review) == (Verdict.OK, "defect") else 0
        people["rejected_good"] += count if (verdict, review) == (Verdict.NG, "good") else 0
    reasons: Counter[str] = Counter()
    for reply, version in connection.execute(
        f"SELECT reply, coalesce(version, '') {where} AND verdict = ?",
        (*values, _NOT),
    ):
        # Of refusals that were summed up there are several in one record.
        for recipe, found in Record(json.loads(reply), 0.0, None, None).reasons.items():
            reasons.update(found)
            parts[recipe, version][_NOT] += sum(found.values())
    return {
        "first": min(times, default=None),
        "last": max(times, default=None),
        "parts": [
            {"recipe": recipe, "version": version, "total": counts.total()}
            | {str(verdict): counts[verdict] for verdict in Verdict}
            for (recipe, version), counts in sorted(parts.items())
        ],
        "not_inspected": dict(reasons.most_common()),
        "reviews": {name: people[name] for name in ("reviewed", "waiting", "rejected_good", "passed_defects")},
    }
