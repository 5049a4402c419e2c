"""What is away for a while, damaged or deleted: inspections go on, what was lost is counted, and it heals by itself."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from bundles import gray, png, wait_until_loaded
from fakes import wait_for
from fastapi.testclient import TestClient
from replies import assert_problem, post
from stations import OFTEN, station

from service.app import create_app
from service.settings import Settings
from service.station.database import RecordsError
from service.station.record import Record
from service.station.records import Records

GOOD, BAD = png(gray(51)), png(gray(204))


def _client(models: Path, records: Path) -> TestClient:
    settings = Settings(models_dir=models, records_dir=records, backend="ort-cpu")
    return TestClient(create_app(settings), base_url="http://localhost", client=("127.0.0.1", 50000))


def _inspect(client: TestClient, image: bytes = BAD, **headers: str) -> str:
    reply = post(client, image, headers=headers)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["inspection_id"])


def _garble(folder: Path) -> None:
    """Every page of the file, and no log that could repair it."""
    file = folder / "inspections.sqlite"
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.write(b"x" * size)
        stream.flush()
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def _without_tables(folder: Path) -> None:
    """As where who reads makes the file, between a damaged one's going and a new one's making."""
    for suffix in ("", "-wal", "-shm"):
        (folder / f"inspections.sqlite{suffix}").unlink(missing_ok=True)
    with closing(sqlite3.connect(folder / "inspections.sqlite")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


@pytest.mark.parametrize("damage", [shutil.rmtree, _garble, _without_tables], ids=["deleted", "damaged", "no tables"])
def test_records_heal_while_inspections_go_on(models: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "records"
    with _client(models, folder) as client:
        wait_until_loaded(client)
        first = _inspect(client)
        wait_for(lambda: client.get(f"/inspections/{first}/image").content == BAD)
        damage(folder)
        second = _inspect(client, **{"X-Trigger-Id": "T 17"})
        wait_for(lambda: client.get(f"/inspections/{second}/image").content == BAD)
        assert _inspect(client, **{"X-Trigger-Id": "T 17"}) == second
        assert client.get("/readyz").json() == {"status": "ready", "reason": None, "troubles": []}
        assert "inspect_records_lost_total 0.0" in client.get("/metrics").text


def test_a_folder_that_is_away_for_a_while_costs_no_record_and_no_verdict(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "records"
    with _client(models, folder) as client:
        wait_until_loaded(client)
        folder.rename(tmp_path / "away")
        folder.touch()
        waiting = _inspect(client, **{"X-Trigger-Id": "T 17"})
        detail = assert_problem(client.get("/inspections"), 503, "records_unavailable")["detail"]
        assert str(folder / "inspections.sqlite") in str(detail)
        wait_for(lambda: "records wait to be written" in str(client.get("/readyz").json()["troubles"]))
        assert "records wait to be written" in str(client.get("/state").json()["troubles"])
        folder.unlink()
        (tmp_path / "away").rename(folder)
        for kept in (_inspect(client), waiting):
            wait_for(lambda kept=kept: client.get(f"/inspections/{kept}").status_code == 200)
        assert "inspect_records_lost_total 0.0" in client.get("/metrics").text
        # A moment after the record is there.
        wait_for(lambda: client.get("/readyz").json()["troubles"] == [])


def test_a_station_that_had_records_starts_without_them(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "records"
    Records(folder, image_budget_bytes=1000).close(wait_s=600)
    with closing(sqlite3.connect(folder / "inspections.sqlite")) as blocker:
        blocker.execute("ALTER TABLE inspections RENAME TO hidden")
        blocker.commit()
        with _client(models, folder) as client:
            wait_until_loaded(client)
            assert "inspections go on, their records are lost until it can" in caplog.text
            _inspect(client)
            assert_problem(client.get("/inspections"), 503, "records_unavailable")
            blocker.execute("ALTER TABLE hidden RENAME TO inspections")
            blocker.commit()
            kept = _inspect(client)
            wait_for(lambda: client.get(f"/inspections/{kept}").status_code == 200)


def _later(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "inspections.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.commit()


def test_a_file_of_a_later_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    Records(tmp_path, image_budget_bytes=1000).close(wait_s=600)
    _later(tmp_path)
    kept = (tmp_path / "inspections.sqlite").read_bytes()
    with pytest.raises(RecordsError, match=r"of a later version .* INSPECT_RECORDS_DIR"):
        Records(tmp_path, image_budget_bytes=1000)
    assert (tmp_path / "inspections.sqlite").read_bytes() == kept


def test_a_damaged_file_is_set_aside_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        records = Records(tmp_path, image_budget_bytes=1000)
        records.add(Record({"inspection_id": name, "recipe": "part", "verdict": "OK"}, 1.0, None, None))
        records.close(wait_s=600)
        kept = (tmp_path / "inspections.sqlite").read_bytes()
        _garble(tmp_path)
    records = Records(tmp_path, image_budget_bytes=1000)
    assert records.find("b") is None
    records.close(wait_s=600)
    assert caplog.text.count("is damaged (file is not a database)") == 2
    assert len((tmp_path / "inspections.sqlite.2").read_bytes()) == len(kept)
    assert (tmp_path / "inspections.sqlite.1").exists()


def test_a_damaged_file_that_cannot_be_put_aside_is_named_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def rename(path: Path, target: Path) -> Path:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    lost: list[int] = []
    records = Records(tmp_path, image_budget_bytes=1000, on_lost=lost.append, retry_s=(0.01,))
    records.add(Record({"inspection_id": "a", "recipe": "part", "verdict": "OK"}, 1.0, None, None))
    wait_for(lambda: _is_found(records, "a"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        _garble(tmp_path)
        records.add(Record({"inspection_id": "b", "recipe": "part", "verdict": "OK"}, 2.0, None, None))
        wait_for(lambda: sum(lost) == 1)
        assert "records are lost" in str(records.troubles())
    records.add(Record({"inspection_id": "c", "recipe": "part", "verdict": "OK"}, 3.0, None, None))
    wait_for(lambda: _is_found(records, "c"))
    records.close(wait_s=600)
    assert "cannot be put aside: [Errno 30] Read-only file system" in caplog.text
    assert records.troubles() == []
    assert (tmp_path / "inspections.sqlite.1").exists()


def test_an_image_whose_row_cannot_be_written_waits_and_is_said_to(tmp_path: Path) -> None:
    records = Records(tmp_path, image_budget_bytes=1000, retry_s=(0.01,))
    with closing(sqlite3.connect(tmp_path / "inspections.sqlite")) as connection:
        # No row may name an image: what it would set off is not there.
        connection.execute("CREATE TRIGGER away AFTER UPDATE ON inspections BEGIN INSERT INTO missing VALUES (1); END")
        connection.commit()
        records.add(Record({"inspection_id": "a", "recipe": "part", "verdict": "OK"}, 1.0, None, BAD))
        wait_for(lambda: "images wait to be written" in str(records.troubles()))
        assert records.image("a") is None
        connection.execute("DROP TRIGGER away")
        connection.commit()
    wait_for(lambda: records.image("a") is not None)
    records.close(wait_s=600)
    assert records.troubles() == []


def _is_found(records: Records, name: str) -> bool:
    # Readers are told so while the log is away; the thread that writes finds out at its next row.
    with suppress(RecordsError):
        return records.find(name) is not None
    return False


def test_a_log_that_was_deleted_takes_no_later_row(tmp_path: Path) -> None:
    records = Records(tmp_path, image_budget_bytes=1000)
    for name in ("a", "b"):
        records.add(Record({"inspection_id": name, "recipe": "part", "verdict": "OK"}, 1.0, None, None))
        wait_for(lambda name=name: _is_found(records, name))
        (tmp_path / "inspections.sqlite-wal").unlink()
    records.close(wait_s=600)
    with closing(sqlite3.connect(tmp_path / "inspections.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM inspections").fetchone() == (2,)


def test_recipes_serve_on_while_their_folder_is_away(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with station(models, OFTEN, backend="ort-cpu", golden_check_hours=1e-9) as client:
        models.rename(tmp_path / "away")
        wait_for(lambda: client.get("/readyz").json()["troubles"])
        assert "recipe part: the golden images cannot be read now" in client.get("/readyz").json()["troubles"][0]
        assert post(client, GOOD).json()["verdict"] == "OK"
        (tmp_path / "away").rename(models)
        wait_for(lambda: client.get("/readyz").json() == {"status": "ready", "reason": None, "troubles": []})
        assert post(client, GOOD).json()["verdict"] == "OK"
    assert caplog.text.count("serves on, unchecked") == 1
    assert "can be read again" in caplog.text


def test_a_new_station_is_told_of_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecordsError, match="INSPECT_RECORDS_DIR"):
        Records(tmp_path / "file" / "records", image_budget_bytes=1)
