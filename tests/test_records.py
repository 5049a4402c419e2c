import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from conftest import gray, png, wait_until_loaded
from fastapi.testclient import TestClient
from test_inspect import assert_problem
from test_server import running_service

from service.app import create_app
from service.records import Record, Records, RecordsError
from service.settings import Settings

HEADERS = {"Content-Type": "image/png"}
GOOD, BAD = png(gray(51)), png(gray(204))


def _record(number: int, image: bytes | None = None) -> Record:
    reply = {"inspection_id": f"id-{number}", "recipe": "part", "verdict": "OK", "part_id": None}
    return Record(reply, time=float(number), trigger_id=None, image=None if image is None else lambda: image)


def _client(models: Path, folder: Path, **more: object) -> TestClient:
    settings = Settings(models_dir=models, records_dir=folder, **more)  # type: ignore[arg-type]
    return TestClient(create_app(settings))


def _wait_for(condition: object) -> None:
    for _ in range(2000):
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.005)
    raise AssertionError("the records were never written")


def test_records_are_listed_newest_first_filtered_and_paged(tmp_path: Path) -> None:
    records = Records(tmp_path, image_budget_bytes=10_000)
    for number in range(10):
        records.add(_record(number))
    records.close()

    def listed(**query: object) -> list[str]:
        options = {"limit": 3, "before": 1e9, "recipe": None, "verdict": None, **query}
        return [reply["inspection_id"] for reply in records.latest(**options)]  # type: ignore[arg-type]

    assert listed() == ["id-9", "id-8", "id-7"]
    assert listed(before=7.0) == ["id-6", "id-5", "id-4"]
    assert listed(recipe="other") == listed(verdict="NG") == []
    found = records.find(inspection_id="id-4")
    assert found is not None
    assert found["recipe"] == "part"


def test_pictures_stay_under_their_budget_and_the_oldest_go(tmp_path: Path) -> None:
    records = Records(tmp_path, image_budget_bytes=10_000)
    for number in range(30):
        records.add(_record(number, image=bytes([number]) * 1000))
    records.close()
    assert sum(path.stat().st_size for path in (tmp_path / "images").glob("*/*")) <= 10_000
    assert records.image("id-29") == bytes([29]) * 1000
    assert records.image("id-0") is None
    assert records.find(inspection_id="id-0") is not None


def test_a_failing_disk_counts_losses_and_recovers(tmp_path: Path) -> None:
    lost: list[int] = []
    records = Records(tmp_path, image_budget_bytes=10_000, on_lost=lost.append)
    blocker = sqlite3.connect(tmp_path / "inspections.sqlite")
    blocker.execute("ALTER TABLE inspections RENAME TO hidden")
    blocker.commit()
    records.add(_record(1))
    _wait_for(lambda: lost)
    blocker.execute("ALTER TABLE hidden RENAME TO inspections")
    blocker.commit()
    blocker.close()
    records.add(_record(2))
    records.close()
    assert sum(lost) == 1
    assert records.find(inspection_id="id-2") is not None


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecordsError, match="INSPECT_RECORDS_DIR"):
        Records(tmp_path / "file", image_budget_bytes=1)


def test_inspections_can_be_looked_up_with_their_picture(models: Path, tmp_path: Path) -> None:
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        good = client.post("/inspect", content=GOOD, headers=HEADERS).json()
        bad = client.post("/inspect", params={"heatmap": "overlay"}, content=BAD, headers=HEADERS).json()
        _wait_for(lambda: len(client.get("/inspections").json()) == 2)
        newest, oldest = client.get("/inspections").json()
        assert (newest["inspection_id"], oldest["inspection_id"]) == (bad["inspection_id"], good["inspection_id"])
        assert newest["time"] >= oldest["time"]
        assert [reply["verdict"] for reply in client.get("/inspections?verdict=NG").json()] == ["NG"]
        stored = client.get(f"/inspections/{bad['inspection_id']}").json()
        assert stored == {**bad, "heatmap": None}
        assert client.get(f"/inspections/{bad['inspection_id']}/image").content == BAD
        assert_problem(client.get(f"/inspections/{good['inspection_id']}/image"), 404, "not_found")
        assert_problem(client.get("/inspections/none"), 404, "not_found")


def test_the_same_trigger_gives_the_same_answer_even_after_a_restart(models: Path, tmp_path: Path) -> None:
    headers = {**HEADERS, "X-Trigger-Id": "part 17"}
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        assert_problem(client.post("/inspect", content=b"broken", headers=headers), 400, "unsupported_image")
        first = client.post("/inspect", content=BAD, headers=headers)
        again = client.post("/inspect", content=GOOD, headers=headers)
        assert again.json() == first.json()
        assert ("x-replayed" in first.headers, again.headers["x-replayed"]) == (False, "true")
        assert "inspect_verdicts_total" in client.get("/metrics").text
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        assert client.post("/inspect", content=GOOD, headers=headers).json() == first.json()


@pytest.mark.slow
def test_two_requests_with_one_trigger_at_the_same_moment_are_one_inspection(models: Path, tmp_path: Path) -> None:
    replies = []
    with running_service(models, tmp_path / "log") as (_, client):

        def work(value: int) -> None:
            headers = {**HEADERS, "X-Trigger-Id": "once"}
            replies.append(client.post("/inspect", content=png(gray(value, 800)), headers=headers).json())

        threads = [threading.Thread(target=work, args=(60 + value,)) for value in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({reply["inspection_id"] for reply in replies}) == 1


@pytest.mark.slow
def test_kill_minus_nine_keeps_what_was_recorded_and_the_next_start_works(models: Path, tmp_path: Path) -> None:
    with running_service(models, tmp_path / "log") as (process, client):
        ids = [client.post("/inspect", content=BAD, headers=HEADERS).json()["inspection_id"] for _ in range(40)]
        _wait_for(lambda: len(client.get("/inspections").json()) == 40)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with running_service(models, tmp_path / "log2") as (_, client):
        kept = {reply["inspection_id"] for reply in client.get("/inspections").json()}
        assert kept == set(ids)
        assert client.get(f"/inspections/{ids[0]}/image").content == BAD
