"""Every refused part leaves a record, a log line and a count by code; a flood of them is bounded."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import gray, make_bundle, png, wait_until_loaded
from fakes import FakeClock, wait_for
from fastapi.testclient import TestClient
from httpx2 import Response
from replies import post
from stations import after_inspection
from tensors import INFER, bytes_input

from service.app import create_app
from service.http.access import new_key
from service.settings import Settings
from service.station.counters import Counters
from service.station.records import Records
from service.station.refusals import Refusal, Refusals
from service.station.search import Search

GOOD = png(gray(51))
NAMES = {"X-Part-Id": "Geh\u00e4use-17".encode(), "X-Camera-Id": "left", "X-Request-Id": "line-4.17"}


def _client(models: Path, folder: Path, **more: object) -> TestClient:
    settings = Settings(models_dir=models, records_dir=folder, max_upload_bytes=20_000, **more)  # type: ignore[arg-type]
    return TestClient(create_app(settings), raise_server_exceptions=False)


def _inspect(data: bytes, media_type: str = "image/png", **params: str) -> Callable[[TestClient], Response]:
    return lambda client: post(client, data, media_type, headers=NAMES, params=params)


CASES: list[tuple[Callable[[TestClient], Response], str, str | None]] = [
    (_inspect(b""), "empty_image", None),
    (_inspect(b"text"), "unsupported_image", None),
    (_inspect(GOOD[:-30], recipe="part"), "corrupt_image", "part"),
    (_inspect(bytes(20_001)), "body_too_large", None),
    (_inspect(GOOD, "text/plain"), "unsupported_media_type", None),
    (_inspect(GOOD, recipe="bottle"), "unknown_recipe", "bottle"),
    (_inspect(GOOD, recipe="refused"), "recipe_not_ready", "refused"),
    (_inspect(GOOD, recipy="part"), "invalid_request", None),
    (_inspect(GOOD, heatmap="jpg"), "invalid_request", None),
    (_inspect(GOOD, recipe="x" * 300), "unknown_recipe", "x" * 128),
    (lambda client: client.post(INFER, json=bytes_input([b"text"]), headers=NAMES), "unsupported_image", "part"),
    (lambda client: client.post(INFER, content=b"{", headers=NAMES), "invalid_request", "part"),
    (lambda client: client.post("/v2/models/none/infer", content=b"{", headers=NAMES), "unknown_recipe", "none"),
]


def test_every_refusal_leaves_a_record_a_line_and_a_count(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_bundle(models, "refused", golden_shift=0.1)
    with _client(models, tmp_path / "records", default_recipe="part") as client:
        wait_until_loaded(client)
        for number, (ask, code, recipe) in enumerate(CASES, 1):
            caplog.clear()
            problem = ask(client).json()
            assert problem["code"] == code
            wait_for(lambda number=number: len(client.get("/inspections").json()) == number)
            row = client.get("/inspections").json()[0]
            detail = problem["detail"][:500]
            expected = {
                "verdict": "NOT_INSPECTED",
                "code": code,
                "detail": detail,
                "recipe": recipe,
                "part_id": "Geh\u00e4use-17",
                "camera_id": "left",
                "request_id": "line-4.17",
                "status": problem["status"],
            }
            assert {name: row[name] for name in expected} == expected
            assert client.get(f"/inspections/{row['inspection_id']}").json()["code"] == code
            (line,) = [line for line in caplog.records if line.message == "not inspected"]
            assert {name: getattr(line, name) for name in ("code", "detail", "recipe")} == {
                "code": code,
                "detail": detail,
                "recipe": recipe,
            }
        counted = client.get("/counters").json()
        assert sum(sum(counts["not_inspected"].values()) for counts in counted.values()) == len(CASES)
        assert counted["part"]["not_inspected"]["unsupported_media_type"] == 1
        assert counted["refused"]["not_inspected"] == {"recipe_not_ready": 1}
        # Names that somebody made up are counted together.
        assert counted[""]["not_inspected"] == {"unknown_recipe": 3}
        assert 'inspect_not_inspected_total{code="unknown_recipe",recipe=""} 3.0' in client.get("/metrics").text


def test_a_part_of_a_batch_a_bug_and_a_passed_deadline_leave_one_too(models: Path, tmp_path: Path) -> None:
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        files = [("image", GOOD), ("image", b"text"), ("image", b"")]
        client.post("/inspect/batch", files=files, headers={"X-Part-Id": "7"})
        post(client, GOOD, headers={"X-Deadline-Ms": "1"})

        def bug() -> None:
            raise RuntimeError("secret of the implementation")

        with after_inspection(client, bug):
            post(client, GOOD)
        # What was decided and never said is no record of its own.
        wait_for(lambda: len(client.get("/inspections").json()) == 5)
        rows = client.get("/inspections?verdict=NOT_INSPECTED").json()
        codes = [row["code"] for row in rows]
        assert codes[0] == "internal_error"
        assert codes[1] in {"deadline_passed", "overloaded"}
        assert sorted(codes[2:]) == ["empty_image", "unsupported_image"]
        assert [row["part_id"] for row in rows] == [None, None, "7", "7"]
        assert "secret" not in str(rows)


def test_only_requests_for_inspection_are_of_a_part(models: Path, tmp_path: Path) -> None:
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        client.get("/nothing")
        client.get("/inspect")
        client.get("/inspections?part=7")
        client.post("/recipes/none/verify")
        assert client.get("/counters").json() == {}
        assert client.get("/inspections").json() == []


def test_strangers_leave_a_line_and_no_record(models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key, line = new_key("inspect", "camera 4")
    (tmp_path / "keys").write_text(line)
    with _client(models, tmp_path / "records", api_keys_file=tmp_path / "keys") as client:
        own = {"X-API-Key": key}
        wait_until_loaded(client)
        for _ in range(60):
            assert post(client, GOOD).status_code == 401
            assert post(client, GOOD, params={"recipy": "part"}).status_code in {401, 422}
        post(client, b"text", headers=own)
        wait_for(lambda: client.get("/inspections", headers=own).json())
        assert [row["code"] for row in client.get("/inspections", headers=own).json()] == ["unsupported_image"]
    lines = [line.message for line in caplog.records if line.message.startswith("not inspected")]
    assert 10 < lines.count("not inspected") < 60
    assert "unauthorized" in lines[-1]


def _refusal(code: str, detail: str = "why") -> Refusal:
    return Refusal(code, 429, detail, "part", None, None, "id")


def test_a_flood_is_bounded_in_records_and_lines_and_summed_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, counters = FakeClock(), Counters()
    records = Records(tmp_path, image_budget_bytes=1)

    async def flood() -> None:
        refusals = Refusals(records, counters, lambda name: name or "", clock=clock)
        with caplog.at_level(logging.WARNING):
            for number in range(5000):
                refusals.note(_refusal("overloaded" if number % 5 else "deadline_passed", "x" * 9000), may_inspect=True)
                clock.now += 0.001
            refusals.sum_up()
            # After a pause each has its own again.
            clock.now += 60
            refusals.note(_refusal("draining"), may_inspect=True)
            refusals.sum_up()

    asyncio.run(flood())
    records.close(wait_s=600)
    rows = records.search(Search(), limit=1000)
    assert 500 <= len(rows) <= 560
    (summed,) = [row for row in rows if row["code"] == "refusals_summed"]
    own = [row for row in rows if row["code"] not in {"refusals_summed", "draining"}]
    assert sum(summed["counts"].values()) + len(own) == 5000
    assert max(len(row["detail"]) for row in rows) <= 500
    assert len(caplog.records) == len(rows)
    assert counters.totals()["part"]["not_inspected"] == {"overloaded": 4000, "deadline_passed": 1000, "draining": 1}


def test_the_sum_comes_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def flood() -> None:
        refusals = Refusals(None, Counters(), lambda name: "", clock=FakeClock(), sum_every_s=0.01)
        for _ in range(600):
            refusals.note(_refusal("overloaded"), may_inspect=True)
        while not any("overloaded 100" in line.message for line in caplog.records):
            await asyncio.sleep(0.01)

    asyncio.run(flood())
