"""Searches find what they should, whichever index they begin with, and in files of earlier versions too."""

from __future__ import annotations

import random
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from service.station.calendar import Calendar
from service.station.chain import writing
from service.station.database import Database
from service.station.matching import Effort
from service.station.reader import FILE, Reader
from service.station.record import Record
from service.station.rows import write
from service.station.search import Search
from service.station.searching import find
from service.station.verdicts import Verdict

ROWS = 400
OK, NG, REVIEW = Verdict.OK, Verdict.NG, Verdict.REVIEW


def _record(number: int, rng: random.Random) -> Record:
    camera = rng.choice(["left", "right", None])
    reply = {
        "inspection_id": f"id {number}",
        "part_id": rng.choice([f"SN-{number:03d}", f"SM-{number:03d}", "the same", None]),
        "camera_id": camera,
        # The left camera sees one recipe alone.
        "recipe": "a" if camera == "left" else rng.choice("ab"),
        "version": "1" if number < ROWS // 2 else rng.choice(["1", "2", None]),
        "verdict": str(rng.choice([*Verdict, Verdict.OK, Verdict.OK])),
        "score": 0.5,
    }
    names = {"nest": str(number % 2), "mould": str(number % 4)} if number % 3 else {}
    lot = rng.choice([f"L-{number // 40}", "L-1", None])
    # A clock that jumps: times are not in the order of the rows.
    when = 1e9 + 100.0 * number - (20_000 if 150 < number < 200 else 0)
    return Record(reply, when, None, None, lot_id=lot, metadata=names, open=reply["verdict"] != "OK")


def _agrees(record: Record, search: Search, reviewed: bool) -> bool:
    def named(wanted: str | None, found: object) -> bool:
        if wanted is None:
            return True
        return str(found or "").startswith(wanted[:-1]) if wanted.endswith("*") else found == wanted

    reply = record.reply
    return (
        named(search.part_id, reply["part_id"])
        and named(search.lot, record.lot_id)
        and search.camera in {None, reply["camera_id"]}
        and search.recipe in {None, reply["recipe"]}
        and search.version in {None, reply["version"]}
        and (not search.verdicts or reply["verdict"] in search.verdicts)
        and search.metadata.items() <= record.metadata.items()
        and search.open in {None, record.open and not reviewed}
        and search.reviewed in {None, reviewed}
        and (search.after or 0) <= record.time < (search.before or 1e12)
    )


def _asked(rng: random.Random) -> Search:
    def sometimes(*values: Any) -> Any:
        return rng.choice(values) if rng.random() < 0.3 else None

    return Search(
        part_id=sometimes("SN-00*", "SN-*", "S*", "SM-1*", "the same", "SN-123", "none"),
        lot=sometimes("L-1", "L-*", "L-9*", "none*"),
        camera=sometimes("left", "right", "none"),
        recipe=sometimes("a", "b"),
        version=sometimes("1", "2"),
        verdicts=sometimes((Verdict.OK,), (Verdict.NG,), (Verdict.OK, Verdict.REVIEW), (Verdict.NG, Verdict.REVIEW))
        or (),
        metadata=sometimes({"nest": "1"}, {"nest": "1", "mould": "3"}, {"nest": "1", "mould": "2"}) or {},
        reviewed=sometimes(True, False),
        open=sometimes(True, False),
        after=sometimes(1e9 + 9000, 1e9 + 30_000),
        before=sometimes(1e9 + 15_050, 1e9 + 35_000),
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record], set[str]]:
    """A folder of records, these, and the ids of those that were reviewed."""
    folder, rng = tmp_path_factory.mktemp("records"), random.Random(7)  # noqa: S311
    records = [_record(number, rng) for number in range(ROWS)]
    reviewed = {record.inspection_id for record in records if record.open and rng.random() < 0.4}
    calendar = Calendar()
    with closing(Database(folder / FILE).writer()) as connection:
        calendar.open(connection)
        with writing(connection):
            for first in range(0, ROWS, 30):
                write(connection, [(one, 0) for one in records[first : first + 30]], calendar, key=None, again=False)
            connection.executemany(
                "UPDATE inspections SET review = ?, open = NULL WHERE inspection_id = ?",
                [(rng.choice(["good", "defect"]), name) for name in sorted(reviewed)],
            )
    return folder, records, reviewed


@pytest.mark.parametrize(("many", "few"), [(100_000, 20_000), (100_000, 5), (60, 5), (5, 5)])
def test_whatever_is_asked_for_all_of_it_is_found_in_order(
    recorded: tuple[Path, list[Record], set[str]], many: int, few: int
) -> None:
    folder, records, reviewed = recorded
    rng, hits = random.Random(many + few), 0  # noqa: S311
    with closing(Reader(folder)) as reader:
        for _ in range(150):
            search = _asked(rng)
            wanted = [one.inspection_id for one in records if _agrees(one, search, one.inspection_id in reviewed)][::-1]
            found, cursor = list[str](), None
            asked = partial(find, search=search, limit=7, effort=Effort(many, few))
            while page := reader.ask(partial(asked, cursor=cursor)):
                found += [one["inspection_id"] for one in page]
                cursor = page[-1]["row"]
                if len(found) > 40:
                    break
            assert found == wanted[: max(len(found), 1)], search
            assert len(found) > 40 or len(found) == len(wanted), search
            hits += bool(found)
    assert 30 < hits < 150


def test_a_file_of_version_3_is_searched_like_one_of_today(
    recorded: tuple[Path, list[Record], set[str]], tmp_path: Path
) -> None:
    folder, _, _ = recorded
    search = Search(recipe="b", camera="right", version="2", open=True)
    with closing(Reader(folder)) as reader:
        wanted = reader.search(search, limit=100)
    (tmp_path / FILE).write_bytes((folder / FILE).read_bytes())
    with closing(Database(tmp_path / FILE).writer()) as connection:
        connection.executescript(
            "DROP TABLE kinds; DROP INDEX by_camera; DROP INDEX by_open; DROP INDEX by_reviewed;"
            "CREATE INDEX by_camera ON inspections (camera_id, verdict) WHERE camera_id IS NOT NULL;"
            "CREATE INDEX by_open ON inspections (open, verdict) WHERE open IS NOT NULL;"
            "CREATE INDEX by_review ON inspections (review) WHERE review IS NOT NULL;"
            "PRAGMA user_version = 3;"
        )
    Database(tmp_path / FILE).disconnect()
    with closing(Reader(tmp_path)) as reader:
        assert reader.search(search, limit=100) == wanted != []
        names = {row[0] for row in reader.ask(lambda c: c.execute("SELECT name FROM sqlite_master").fetchall())}
    assert "by_review" not in names
