"""Counts, rates and histograms come from the records, so they survive a restart and a kill -9."""

import math
import sqlite3
import time as clock
from collections.abc import Iterator
from datetime import UTC, datetime, time
from functools import partial
from pathlib import Path

import pytest
from bundles import gray, png, wait_until_loaded
from fakes import wait_for
from fastapi.testclient import TestClient
from replies import assert_problem, post

from service.app import create_app
from service.settings import Settings
from service.station.counters import Counters
from service.station.record import Record
from service.station.records import Records
from service.station.shifts import read_shifts, shift_at
from service.station.tallies import By, Counted, Group, Selection, counted, counted_since, grouped, p_chart
from service.station.verdicts import Verdict

GOOD, DOUBTFUL, BAD = (png(gray(value)) for value in (51, 102, 204))
LOCAL = ("127.0.0.1", 50000)


def _app(models: Path, folder: Path) -> TestClient:
    app = create_app(Settings(records_dir=folder, models_dir=models, backend="ort-cpu"))
    return TestClient(app, base_url="http://localhost", client=LOCAL, raise_server_exceptions=False)


@pytest.fixture
def station(models: Path, tmp_path: Path) -> Iterator[TestClient]:
    with _app(models, tmp_path / "records") as running:
        wait_until_loaded(running)
        yield running


def _known(client: TestClient, count: int) -> None:
    wait_for(lambda: len(client.get("/inspections?limit=1000").json()) == count)


def test_counters_and_shift_figures_survive_a_restart(models: Path, tmp_path: Path) -> None:
    with _app(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        for image in (GOOD, GOOD, BAD, png(gray(0)), b"text"):
            post(client, image)
        before, shift = client.get("/counters").json(), client.get("/shift").json()
    with _app(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        after = client.get("/counters").json()
        assert after["part"] | {"since": 0} == before["part"] | {"since": 0}
        assert after["part"]["not_inspected"] == {"too dark": 1, "unsupported_image": 1}
        again = client.get("/shift").json()
        assert (again["recipes"], again["open_reviews"]) == (shift["recipes"], 3)
        assert client.post("/counters/reset?recipe=part").json()["part"]["total"] == 0
        post(client, BAD)
        assert client.get("/shift").json()["recipes"]["part"]["total"] == 6
    with _app(models, tmp_path / "records") as client:
        counted = client.get("/counters").json()["part"]
        assert (counted["total"], counted["NG"], counted["not_inspected"]) == (1, 1, {})
        assert client.get("/shift").json()["recipes"]["part"]["total"] == 6


def test_a_reset_is_of_its_recipe(tmp_path: Path) -> None:
    records = Records(tmp_path, image_budget_bytes=1000)
    for number, recipe in enumerate(("a", "b", "a")):
        reply = {"inspection_id": f"{number}", "recipe": recipe, "verdict": "OK"}
        records.add(Record(reply, clock.time(), None, None))
    records.reset("a")
    records.add(Record({"inspection_id": "3", "recipe": "a", "verdict": "NG"}, clock.time(), None, None))
    records.close(wait_s=600)
    found = {(one.recipe, one.verdict): one.count for one in records.ask(counted)}
    assert found == {("a", Verdict.NG): 1, ("b", Verdict.OK): 1}


@pytest.mark.parametrize(
    ("hour", "name"), [(0, "C"), (5.99, "C"), (6, "A"), (13.99, "A"), (14, "B"), (21.99, "B"), (22, "C"), (23.99, "C")]
)
def test_a_shift_lasts_until_the_next_one(hour: float, name: str) -> None:
    now = datetime.combine(datetime(2026, 1, 15), time()).timestamp() + 3600 * hour
    shift = shift_at(now, read_shifts("06:00,14:00,22:00"))
    assert (shift.name, shift.until - shift.since) == (name, 8 * 3600)
    assert shift.since <= now < shift.until


@pytest.mark.parametrize("text", ["", "6", "06:00,05:00", "06:00,06:00", "06:10", "25:00"])
def test_shifts_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as|order of the day"):
        read_shifts(text)


def test_a_new_shift_counts_anew() -> None:
    now = datetime(2026, 1, 15, 13, 59, tzinfo=UTC).astimezone().replace(hour=13).timestamp()
    clock = [now]
    counters = Counters(begins=read_shifts("06:00,14:00,22:00"), clock=lambda: clock[0])
    counters.add("part", "1", Verdict.OK, 0.1)
    assert (counters.shift_totals()["name"], counters.shift_totals()["recipes"]["part"]["OK"]) == ("A", 1)  # type: ignore[index]
    clock[0] += 3600
    assert (counters.shift_totals()["name"], counters.shift_totals()["recipes"]) == ("B", {})
    assert counters.totals()["part"]["OK"] == 1


def test_statistics_show_rates_scores_and_light(station: TestClient) -> None:
    for image, camera in ((GOOD, "left"), (GOOD, "right"), (DOUBTFUL, "left"), (BAD, "right"), (png(gray(0)), "right")):
        post(station, image, headers={"X-Camera-Id": camera})
    _known(station, 5)
    found = station.get("/statistics?recipe=part&by=camera").json()
    left, right = found["groups"]
    assert (left["group"], left["total"], left["OK"], left["REVIEW"]) == ("left", 2, 1, 1)
    assert (right["group"], right["NG"], right["NOT_INSPECTED"]) == ("right", 1, 1)
    assert left["score"] == pytest.approx((51 + 102) / 2 / 255, abs=1e-3)
    assert left["brightness"] == pytest.approx((51 + 102) / 2, abs=0.5)
    assert found["p_chart"]["NG"]["centre"] == pytest.approx(0.2)
    histogram = found["histogram"]
    assert (sum(histogram["counts"]), histogram["of"], len(histogram["edges"])) == (4, 4, 51)
    assert histogram["thresholds"] == {"review": 0.3, "reject": 0.6}
    (hour,) = station.get("/statistics").json()["groups"]
    assert (hour["total"], hour["time"] % 3600) == (5, 0)
    assert station.get("/statistics?recipe=other").json()["groups"] == []
    assert_problem(station.get("/statistics?after=2026-01-02&before=2026-01-01"), 422, "invalid_request")


def test_what_a_clock_that_was_ahead_left_is_in_no_figure(models: Path, tmp_path: Path) -> None:
    folder, tomorrow = tmp_path / "records", clock.time() + 86_400
    records = Records(folder, image_budget_bytes=1_000_000)
    for name, when in (("now", clock.time()), ("ahead", tomorrow)):
        reply = {"inspection_id": name, "recipe": "part", "version": "1", "verdict": "NG", "score": 0.7}
        records.add(Record(reply, when, None, None))
    wait_for(lambda: records.find("ahead"))
    records.close(wait_s=600)
    with _app(models, folder) as client:
        wait_until_loaded(client)
        assert client.get("/shift").json()["recipes"]["part"]["total"] == 1
        for query in ("", f"&before={tomorrow + 9}"):
            found = client.get(f"/statistics?recipe=part{query}").json()
            assert [group["total"] for group in found["groups"]] == [1]
            assert found["histogram"]["of"] == 1
            assert client.get(f"/recipes/part/what-if?{query[1:]}").json()["parts"] == 1
        assert_problem(client.get(f"/statistics?after={tomorrow}"), 422, "invalid_request")


@pytest.mark.parametrize("name", ["part", "nobody knows it"])
def test_of_the_quarter_that_is_under_way_what_is_ahead_of_now_is_in_no_figure(tmp_path: Path, name: str) -> None:
    now = 1_800_000_000.0 + 300
    records = Records(tmp_path, image_budget_bytes=1_000_000)
    for number, when in enumerate((now - 200, now - 100, now + 1, now + 500, now + 900)):
        reply = {"inspection_id": f"{number}", "recipe": name, "version": "1", "verdict": "NG", "score": when - now}
        known = name if name == "part" else ""
        light = (when - now) / 10
        records.add(Record(reply, when, None, None, counted_as=known, brightness=light, sharpness=1.0))
    records.close(wait_s=600)
    groupings: tuple[By, ...] = ("hour", "camera", "recipe")
    for by in groupings:
        (group,) = records.ask(partial(grouped, selection=Selection(after=now - 900, before=now, now=now), by=by))
        assert (group.total, group.counts, group.score, group.brightness) == (2, {Verdict.NG: 2}, -150.0, -15.0)
    found = records.ask(lambda connection: counted_since(connection, now - 900, now))
    assert [(one.recipe, one.count) for one in found] == [(name if name == "part" else "", 2)]
    nothing_yet = Selection(after=now - 900, before=now, now=now - 250)
    assert records.ask(lambda connection: grouped(connection, nothing_yet, "camera")) == []


@pytest.mark.parametrize("recipe", ["part", "new"])
def test_a_part_that_comes_while_figures_are_read_takes_nothing_off_them(tmp_path: Path, recipe: str) -> None:
    now = 1_800_000_000.0 + 300
    records = Records(tmp_path, image_budget_bytes=1_000_000)

    def come(name: str, of: str, when: float) -> None:
        reply = {"inspection_id": name, "recipe": of, "version": "1", "verdict": "NG"}
        records.add(Record(reply, when, None, None, counted_as=of))
        wait_for(lambda: records.find(name))

    def read(connection: sqlite3.Connection) -> tuple[list[Counted], list[Group]]:
        questions: list[str] = []

        def begin(question: str) -> None:
            questions.append(question)
            if len(questions) % 2 == 0 and len(questions) < 5:
                come(f"late {len(questions)}", recipe, now + 1)

        connection.set_trace_callback(begin)
        parts = counted_since(connection, now - 900, now)
        questions.clear()
        return parts, grouped(connection, Selection(after=now - 900, before=now, now=now), "camera")

    come("early", "part", now - 1)
    parts, groups = records.ask(read)
    assert sum(one.count for one in parts) >= 1
    assert [group.total >= 1 for group in groups] == [True]
    records.close(wait_s=600)


def test_other_thresholds_are_tried_on_what_was_recorded(station: TestClient) -> None:
    names = [post(station, image).json()["inspection_id"] for image in (GOOD, GOOD, DOUBTFUL, BAD)]
    _known(station, 4)
    for name, verdict in zip(names[1:], ("good", "defect", "defect"), strict=True):
        station.post(f"/inspections/{name}/reviews", json={"verdict": verdict})
    found = station.get("/recipes/part/what-if?review=0.5&reject=0.9").json()
    assert (found["now"], found["then"]) == ({"OK": 2, "REVIEW": 1, "NG": 1}, {"OK": 3, "REVIEW": 1, "NG": 0})
    reviewed = found["reviewed"]
    assert (reviewed["defects"], reviewed["escapes_now"], reviewed["escapes_then"]) == (2, 0, 1)
    strict = station.get("/recipes/part/what-if?review=0.1&reject=0.15").json()
    assert (strict["reviewed"]["good"], strict["reviewed"]["rejects_now"], strict["reviewed"]["rejects_then"]) == (
        1,
        0,
        1,
    )
    assert (sum(found["histogram"]["good"]), sum(found["histogram"]["defects"])) == (1, 2)
    assert_problem(station.get("/recipes/part/what-if?review=0.9&reject=0.2"), 422, "invalid_request")
    assert_problem(station.get("/recipes/other/what-if"), 404, "unknown_recipe")


def test_limits_of_a_p_chart_are_three_standard_deviations_of_its_centre() -> None:
    groups = [
        Group("a", None, {Verdict.OK: 95, Verdict.NG: 5}, None, None, None),
        Group("b", None, {Verdict.OK: 370, Verdict.NG: 30}, None, None, None),
        Group("c", None, {Verdict.OK: 80, Verdict.NG: 20}, None, None, None),
    ]
    chart = p_chart(groups, Verdict.NG)
    centre = 55 / 600
    assert chart["centre"] == pytest.approx(centre)
    assert [point["outside"] for point in chart["points"]] == [False, False, True]
    assert chart["points"][1]["high"] == pytest.approx(centre + 3 * math.sqrt(centre * (1 - centre) / 400))
    assert p_chart([], Verdict.NG) == {"centre": 0.0, "points": []}
