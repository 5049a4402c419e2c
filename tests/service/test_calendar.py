"""Records keep their age whatever the clock does, and none is deleted because a clock was wrong."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from fakes import FakeClock, wait_for

from service.station.calendar import Calendar
from service.station.record import Record, Trigger
from service.station.records import Records
from service.station.search import Search

NOW = 1_790_000_000.0
HOUR, DAY, YEAR = 3600.0, 86_400.0, 365 * 86_400.0


class Machine:
    """A clock that may be set, beside one that may not."""

    def __init__(self, now: float = NOW) -> None:
        self.steady = FakeClock()
        self.ahead = now - self.steady.now

    def wall(self) -> float:
        return self.steady.now + self.ahead

    def boot(self, folder: Path, *, days: int = 90) -> Records:
        return Records(folder, image_budget_bytes=2_500, days=days, calendar=Calendar(self.wall, self.steady))


def _inspect(records: Records, machine: Machine, name: str, image: bytes | None = None) -> None:
    reply = {"inspection_id": name, "recipe": "part", "verdict": "OK"}
    records.add(Record(reply, machine.wall(), Trigger("part", f"T {name}", name), image))
    wait_for(lambda: records.find(name) and (image is None or records.image(name)))


def _kept(records: Records) -> list[str]:
    return [reply["inspection_id"] for reply in records.search(Search(), limit=100)]


def _run(folder: Path, machine: Machine, name: str, *, until: list[str] | None = None) -> list[str]:
    """One run of the service, in which one part is inspected, `until` these are left; what was kept when it ended."""
    records = machine.boot(folder)
    _inspect(records, machine, name)
    wait_for(lambda: until is None or _kept(records) == until)
    records.close(wait_s=600)
    return _kept(records)


def test_a_start_with_the_clock_far_ahead_deletes_nothing_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine()
    _run(tmp_path, machine, "a")
    machine.ahead += 100 * DAY
    assert _run(tmp_path, machine, "b") == ["b", "a"]
    assert "set the clock where that is wrong; no record is deleted" in caplog.text
    records = machine.boot(tmp_path)
    assert "no record is deleted for its age in the next 24 h" in str(records.troubles())
    # Put right: as before, at once.
    machine.ahead -= 100 * DAY
    _inspect(records, machine, "c")
    assert records.troubles() == []
    records.close(wait_s=600)
    machine.steady.now += 80 * DAY
    machine.boot(tmp_path).close(wait_s=600)
    assert _run(tmp_path, machine, "d") == ["d", "c", "b", "a"]


def test_a_clock_that_stays_ahead_is_believed_after_a_day_of_work(tmp_path: Path) -> None:
    machine = Machine()
    _run(tmp_path, machine, "a")
    machine.steady.now += 100 * DAY
    assert _run(tmp_path, machine, "b") == ["b", "a"]
    for _ in range(2):
        records = machine.boot(tmp_path)
        machine.steady.now += 13 * HOUR
        records.close(wait_s=600)
    assert _run(tmp_path, machine, "c", until=["c", "b"]) == ["c", "b"]


def test_records_of_a_boot_in_the_past_are_as_young_as_they_are(tmp_path: Path) -> None:
    machine = Machine(NOW - 5 * YEAR)
    assert _run(tmp_path, machine, "a") == ["a"]
    records = machine.boot(tmp_path)
    _inspect(records, machine, "b")
    # The network's time arrives.
    machine.ahead += 5 * YEAR
    _inspect(records, machine, "c")
    records.close(wait_s=600)
    assert _run(tmp_path, machine, "d") == ["d", "c", "b", "a"]
    machine.steady.now += 91 * DAY
    machine.boot(tmp_path).close(wait_s=600)
    records = machine.boot(tmp_path)
    machine.steady.now += 25 * HOUR
    records.close(wait_s=600)
    assert _run(tmp_path, machine, "e", until=["e"]) == ["e"]


def test_records_of_a_run_in_the_past_that_ended_there_are_dated_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(NOW - 10 * YEAR)
    _run(tmp_path, machine, "a")
    machine.ahead += 10 * YEAR
    assert _run(tmp_path, machine, "b") == ["b", "a"]
    assert "they are dated anew" in caplog.text
    machine.steady.now += 10 * HOUR
    assert _run(tmp_path, machine, "c") == ["c", "b", "a"]


def test_what_is_deleted_is_announced_with_count_and_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    _run(tmp_path, machine, "a")
    for _ in range(91):
        machine.steady.now += DAY - 60
        machine.boot(tmp_path, days=0).close(wait_s=600)
    caplog.clear()
    assert _run(tmp_path, machine, "b", until=["b"]) == ["b"]
    (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told.startswith("1 records from before 20")
    assert "INSPECT_RECORDS_DAYS=90" in told


def test_a_clock_set_wrongly_in_mid_run_costs_no_record_of_earlier_runs(tmp_path: Path) -> None:
    machine = Machine()
    _run(tmp_path, machine, "a")
    machine.steady.now += 3 * DAY
    records = machine.boot(tmp_path)
    machine.steady.now += 25 * HOUR
    records.close(wait_s=600)
    records = machine.boot(tmp_path)
    machine.ahead += 100 * DAY
    _inspect(records, machine, "b")
    records.close(wait_s=600)
    assert _run(tmp_path, machine, "c") == ["c", "b", "a"]


@pytest.mark.parametrize("step", [-2 * DAY, 2 * DAY, -3 * YEAR])
def test_a_trigger_is_as_old_as_it_is(tmp_path: Path, step: float) -> None:
    machine = Machine()
    records = machine.boot(tmp_path)
    _inspect(records, machine, "a")
    machine.ahead += step
    machine.steady.now += HOUR
    before = records.answer_to("part", "T a")
    assert before is not None
    _inspect(records, machine, "b")
    after = records.answer_to("part", "T b")
    assert after is not None
    assert after.given - before.given == pytest.approx(HOUR, abs=60)
    records.close(wait_s=600)


def test_the_newest_come_first_and_pages_are_whole_where_the_clock_went_back(tmp_path: Path) -> None:
    machine = Machine()
    records = machine.boot(tmp_path)
    for number in range(6):
        machine.ahead -= HOUR * (number == 3)
        _inspect(records, machine, f"{number}", bytes([number]) * 500)
    assert _kept(records) == ["5", "4", "3", "2", "1", "0"]
    pages, last = [], None
    while page := records.search(Search(), limit=2, cursor=last):
        pages += [reply["inspection_id"] for reply in page]
        last = page[-1]["row"]
    assert pages == ["5", "4", "3", "2", "1", "0"]
    # The budget is that of five images: the first went, whatever the dates are.
    assert [name for name in sorted(pages) if records.image(name)] == ["1", "2", "3", "4", "5"] or [
        name for name in sorted(pages) if records.image(name)
    ] == ["2", "3", "4", "5"]
    records.close(wait_s=600)
