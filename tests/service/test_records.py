import hashlib
import os
import shutil
import signal
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from bundles import gray, png, wait_until_loaded
from fakes import wait_for
from fastapi.testclient import TestClient
from processes import running_service
from replies import assert_problem

from service.app import create_app
from service.images.decoding import Pixels
from service.settings import Settings
from service.station.database import Database, RecordsError
from service.station.kept_images import KeptImages
from service.station.reader import FILE
from service.station.record import Record, Trigger
from service.station.records import Records
from service.station.search import Search
from service.station.verdicts import Verdict

HEADERS = {"Content-Type": "image/png"}
GOOD, BAD = png(gray(51)), png(gray(204))


def _record(number: int, image: bytes | Pixels | None = None, *, when: float | None = None) -> Record:
    reply = {"inspection_id": f"id-{number}", "recipe": "part", "verdict": "OK", "part_id": None}
    return Record(reply, float(number) if when is None else when, Trigger("part", f"T {number}", f"{number}"), image)


def _picture(folder: Path, image: bytes) -> Path:
    sha256 = hashlib.sha256(image).hexdigest()
    return folder / "images" / sha256[:2] / sha256


def _stall(folder: Path, image: bytes) -> Path:
    """Make the writing of this image hang until somebody reads from the path that is returned."""
    pipe = _picture(folder, image).with_suffix(".new")
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    return pipe


def _read(pipe: Path) -> bytes:
    """What the writer puts into the pipe; a failure where it never opens it."""
    found: list[bytes] = []
    reading = threading.Thread(target=lambda: found.append(pipe.read_bytes()), daemon=True)
    reading.start()
    reading.join(300)
    assert found, "nobody writes to the pipe"
    return found[0]


def _client(models: Path, folder: Path, **more: object) -> TestClient:
    settings = Settings(models_dir=models, records_dir=folder, **more)  # type: ignore[arg-type]
    return TestClient(create_app(settings))


def test_rows_that_follow_closely_share_a_commit_and_the_end_waits_for_no_pause(tmp_path: Path) -> None:
    records = Records(tmp_path, image_budget_bytes=10_000, commit_every_s=600)
    records.add(_record(0))
    wait_for(lambda: records.find("id-0"))
    records.add(_record(1))
    time.sleep(0.2)
    assert records.find("id-1") is None
    records.close(wait_s=600)
    assert records.find("id-1") is not None


def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    full = (2,)
    with closing(Database(tmp_path / FILE).writer()) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == full


def test_records_are_listed_newest_first_filtered_and_paged(tmp_path: Path) -> None:
    records = Records(tmp_path, image_budget_bytes=10_000)
    for number in range(10):
        records.add(_record(number))
    records.close(wait_s=600)

    def listed(**query: object) -> list[str]:
        return [found["inspection_id"] for found in records.search(Search(**query), limit=3)]  # type: ignore[arg-type]

    assert listed() == ["id-9", "id-8", "id-7"]
    assert listed(before=7.0) == ["id-6", "id-5", "id-4"]
    assert listed(recipe="other") == listed(verdicts=[Verdict.NG]) == []
    found = records.find("id-4")
    assert found is not None
    assert found["recipe"] == "part"


def test_pictures_stay_under_their_budget_and_the_oldest_go(tmp_path: Path) -> None:
    records = Records(tmp_path, image_budget_bytes=10_000)
    for number in range(30):
        records.add(_record(number, image=bytes([number]) * 1000))
    records.close(wait_s=600)
    assert sum(path.stat().st_size for path in (tmp_path / "images").glob("*/*")) <= 10_000
    assert records.image("id-29") == bytes([29]) * 1000
    assert records.image("id-0") is None
    assert records.find("id-0") is not None


def test_images_that_fit_stay_where_another_process_made_the_room(tmp_path: Path) -> None:
    records = Records(tmp_path, image_budget_bytes=1000)
    for number in range(10):
        records.add(_record(number, bytes([number]) * 100))
    wait_for(lambda: records.image("id-9"))
    _picture(tmp_path, bytes([9]) * 100).unlink()
    records.add(_record(10, bytes([10]) * 95))
    wait_for(lambda: records.image("id-10"))
    records.close(wait_s=600)
    assert records.image("id-0") is not None


def test_an_image_that_is_kept_again_is_as_new_as_its_row(tmp_path: Path) -> None:
    pictures = KeptImages(tmp_path, 1000)
    (sha256,) = pictures.write([b"one"])
    os.utime(pictures.path(sha256), (0, 0))
    assert pictures.write([b"one"]) == [sha256]
    assert pictures.path(sha256).stat().st_mtime > 0


def test_a_failing_disk_counts_losses_and_recovers(tmp_path: Path) -> None:
    lost: list[int] = []
    records = Records(tmp_path / "a", image_budget_bytes=10_000, retry_s=(), on_lost=lost.append)
    # Before the writer's first connection, with something in the way of a new folder.
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a").touch()
    records.add(_record(1, b"picture"))
    wait_for(lambda: sum(lost) == 1)
    assert [trouble for trouble in records.troubles() if str(tmp_path / "a") in trouble]
    (tmp_path / "a").unlink()
    (tmp_path / "b").rename(tmp_path / "a")
    records.add(_record(2))
    wait_for(lambda: records.find("id-2"))
    wait_for(lambda: records.troubles() == [])
    # No JSON: an error of another kind.
    records.add(Record(_record(3).reply | {"regions": object()}, time=3.0, trigger=None, image=None))
    wait_for(lambda: sum(lost) == 2)
    records.add(_record(4))
    records.close(wait_s=600)
    assert sum(lost) == 2
    assert records.find("id-4") is not None


def test_what_the_disk_does_not_take_waits_until_it_does(tmp_path: Path) -> None:
    lost: list[int] = []
    records = Records(tmp_path, image_budget_bytes=10_000, retry_s=[0.01], on_lost=lost.append)
    pipe = _stall(tmp_path, b"first")
    records.add(_record(0, b"first"))
    wait_for(lambda: records.find("id-0"))
    # Row and image of one part wait, and the image of one whose row is there.
    with sqlite3.connect(tmp_path / "inspections.sqlite") as blocker:
        blocker.execute("ALTER TABLE inspections RENAME TO hidden")
    records.add(_record(1, b"picture"))
    assert _read(pipe) == b"first"
    wait_for(lambda: any("records wait to be written" in trouble for trouble in records.troubles()))
    with blocker:
        blocker.execute("ALTER TABLE hidden RENAME TO inspections")
    blocker.close()
    wait_for(lambda: records.image("id-1") == b"picture")
    # The row of the other names its image now; the pipe is no file that can be read.
    named = "SELECT image_sha256 FROM inspections WHERE inspection_id = 'id-0'"
    wait_for(lambda: records.ask(lambda connection: connection.execute(named).fetchone()[0]))
    assert records.troubles() == []
    records.close(wait_s=600)
    assert lost == []


def test_what_still_waits_at_the_end_is_lost_and_counted(tmp_path: Path) -> None:
    lost: list[int] = []
    records = Records(tmp_path, image_budget_bytes=10_000, retry_s=[0.01], on_lost=lost.append)
    with sqlite3.connect(tmp_path / "inspections.sqlite") as blocker:
        blocker.execute("ALTER TABLE inspections RENAME TO hidden")
    blocker.close()
    records.add(_record(1))
    wait_for(records.troubles)
    records.close(wait_s=600)
    assert lost == [1]


def test_a_locked_file_holds_up_the_end_for_one_try_and_all_that_is_lost_is_counted(tmp_path: Path) -> None:
    lost = list[int]()
    records = Records(tmp_path, image_budget_bytes=10_000, on_lost=lost.append)
    records.add(_record(0))
    wait_for(lambda: records.find("id-0"))
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        records.add(_record(1))
        # Time for it to be tried: what is in hand counts as what waits does.
        time.sleep(0.2)
        records.add(_record(2))
        records.close(wait_s=0.5)
    assert sum(lost) == 2


def test_records_go_on_in_a_new_file_where_theirs_was_deleted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = Records(tmp_path, image_budget_bytes=10_000)
    records.add(_record(1, b"one"))
    wait_for(lambda: records.image("id-1"))
    for path in tmp_path.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert records.find("id-1") is None
    records.add(_record(2, b"two"))
    wait_for(lambda: records.image("id-2"))
    records.close(wait_s=600)
    assert records.find("id-2") is not None
    assert "was moved or deleted" in caplog.text


def test_a_picture_that_cannot_be_kept_costs_only_itself(tmp_path: Path) -> None:
    lost: list[int] = []
    images_lost: list[None] = []
    records = Records(
        tmp_path, image_budget_bytes=10_000, on_lost=lost.append, on_image_lost=lambda: images_lost.append(None)
    )
    _picture(tmp_path, b"in the way").parent.write_text("a file where a folder should be")
    pictures = [b"before", b"in the way", np.zeros((0, 0, 3), np.uint8), b"after", gray(7)]
    for number, picture in enumerate(pictures):
        records.add(_record(number, picture))
    records.close(wait_s=600)
    assert (lost, len(images_lost)) == ([], 2)
    assert all(records.find(f"id-{number}") for number in range(5))
    assert [records.image(f"id-{number}") for number in range(5)] == [b"before", None, None, b"after", png(gray(7))]


def test_rows_come_before_pictures_and_what_waits_for_the_disk_is_bounded_in_bytes(tmp_path: Path) -> None:
    images_lost: list[None] = []
    records = Records(
        tmp_path, image_budget_bytes=10_000, waiting_bytes=1500, on_image_lost=lambda: images_lost.append(None)
    )
    slow, large, small = bytes(1000), b"l" * 600, b"s" * 500
    pipe = _stall(tmp_path, slow)
    records.add(_record(0, slow))
    wait_for(lambda: records.find("id-0"))
    assert records.image("id-0") is None
    records.add(_record(1, large))
    records.add(_record(2, small))
    assert len(images_lost) == 1
    assert _read(pipe) == slow
    wait_for(lambda: records.image("id-2") == small)
    assert records.find("id-1") is not None
    assert records.image("id-1") is None
    # Room that was taken is free again.
    records.add(_record(3, b"a" * 1500))
    records.close(wait_s=600)
    assert records.image("id-3") is not None
    assert len(images_lost) == 1


def test_a_disk_that_hangs_does_not_keep_the_service_from_ending(tmp_path: Path) -> None:
    lost: list[int] = []
    records = Records(tmp_path, image_budget_bytes=10_000, on_lost=lost.append)
    pipe = _stall(tmp_path, b"picture")
    records.add(_record(0, b"picture"))
    wait_for(lambda: records.find("id-0"))
    for number in range(1, 3000):
        records.add(_record(number))
    assert 0 < sum(lost) < 2999
    records.close(wait_s=0.05)
    assert sum(lost) == 2999
    assert _read(pipe) == b"picture"
    records.close(wait_s=600)


def test_records_that_are_too_old_go_with_their_pictures(tmp_path: Path) -> None:
    now = time.time()
    records = Records(tmp_path, image_budget_bytes=10_000)
    for number in range(1200):
        records.add(_record(number, {0: b"old", 1: b"again"}.get(number)))
    records.close(wait_s=600)
    records = Records(tmp_path, image_budget_bytes=10_000)
    records.add(_record(5000, b"again", when=now))
    records.add(_record(5001, when=now - 29 * 86_400))
    records.close(wait_s=600)
    assert records.image("id-0") == b"old"
    records = Records(tmp_path, image_budget_bytes=10_000, days=30)
    wait_for(lambda: records.find("id-1199") is None)
    records.close(wait_s=600)
    kept = records.search(Search(before=now + 1), limit=1000)
    assert [reply["inspection_id"] for reply in kept] == ["id-5001", "id-5000"]
    assert records.image("id-5000") == b"again"
    assert not _picture(tmp_path, b"old").exists()
    assert records.answer_to("part", "T 5001") is not None
    with sqlite3.connect(tmp_path / "inspections.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM triggers").fetchone() == (2,)
    connection.close()


def test_a_file_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "inspections.sqlite") as connection:
        connection.execute(
            "CREATE TABLE inspections (inspection_id TEXT PRIMARY KEY, time REAL NOT NULL, recipe TEXT NOT NULL, "
            "verdict TEXT NOT NULL, trigger_id TEXT UNIQUE, part_id TEXT, image_sha256 TEXT, reply TEXT NOT NULL)"
        )
        row = ("old", 1.0, "part", "OK", "T 1", None, None, '{"inspection_id": "old"}')
        connection.execute("INSERT INTO inspections VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.close()
    records = Records(tmp_path, image_budget_bytes=10_000)
    records.add(_record(1, b"picture"))
    records.close(wait_s=600)
    old = records.find("old")
    assert old is not None
    assert (old["inspection_id"], old["camera_id"], old["reviews"]) == ("old", None, [])
    assert records.image("id-1") == b"picture"
    answer = records.answer_to("part", "T 1")
    assert answer is not None
    assert (answer.sha256, answer.reply["inspection_id"]) == ("1", "id-1")


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecordsError, match="INSPECT_RECORDS_DIR"):
        Records(tmp_path / "file", image_budget_bytes=1)


def test_inspections_can_be_looked_up_with_their_picture(models: Path, tmp_path: Path) -> None:
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        good = client.post("/inspect", content=GOOD, headers=HEADERS).json()
        bad = client.post("/inspect", params={"heatmap": "overlay"}, content=BAD, headers=HEADERS).json()
        wait_for(lambda: len(client.get("/inspections").json()) == 2)
        newest, oldest = client.get("/inspections").json()
        assert (newest["inspection_id"], oldest["inspection_id"]) == (bad["inspection_id"], good["inspection_id"])
        assert newest["time"] >= oldest["time"]
        assert [reply["verdict"] for reply in client.get("/inspections?verdict=NG").json()] == ["NG"]
        stored = client.get(f"/inspections/{bad['inspection_id']}").json()
        assert stored.items() >= (bad | {"heatmap": None}).items()
        wait_for(lambda: client.get(f"/inspections/{bad['inspection_id']}/image").content == BAD)
        assert_problem(client.get(f"/inspections/{good['inspection_id']}/image"), 404, "not_found")
        assert_problem(client.get("/inspections/none"), 404, "not_found")


def test_a_lost_picture_is_counted_and_its_address_says_where_to_look(models: Path, tmp_path: Path) -> None:
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        _picture(tmp_path / "records", BAD).parent.write_text("a file where a folder should be")
        bad = client.post("/inspect", content=BAD, headers=HEADERS).json()
        wait_for(lambda: "inspect_record_images_lost_total 1.0" in client.get("/metrics").text)
        missing = client.get(f"/inspections/{bad['inspection_id']}/image")
        assert_problem(missing, 404, "not_found")
        assert "the log" in missing.json()["detail"]
        assert "inspect_records_lost_total 0.0" in client.get("/metrics").text


def test_the_service_keeps_records_for_90_days(models: Path, tmp_path: Path) -> None:
    records = Records(tmp_path / "records", image_budget_bytes=10_000)
    for days in (89, 91):
        records.add(_record(days, when=time.time() - 86_400 * days))
    records.close(wait_s=600)
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        wait_for(lambda: client.get("/inspections/id-91").status_code == 404)
        assert client.get("/inspections/id-89").status_code == 200


@pytest.mark.slow
def test_kill_minus_nine_keeps_what_was_recorded_and_the_next_start_works(models: Path, tmp_path: Path) -> None:
    with running_service(models, tmp_path / "log") as (process, client):
        ids = [client.post("/inspect", content=BAD, headers=HEADERS).json()["inspection_id"] for _ in range(40)]
        wait_for(lambda: client.get(f"/inspections/{ids[-1]}/image").content == BAD)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with running_service(models, tmp_path / "log2") as (_, client):
        kept = {reply["inspection_id"] for reply in client.get("/inspections").json()}
        assert kept == set(ids)
        assert client.get(f"/inspections/{ids[0]}/image").content == BAD


def test_a_second_service_on_the_same_records_says_so_until_it_is_the_only_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Records(tmp_path, image_budget_bytes=1000), Records(tmp_path, image_budget_bytes=1000)
    assert f"another service writes to {tmp_path}" in caplog.text
    assert first.troubles() == []
    assert f"another service writes to {tmp_path}" in str(second.troubles())
    first.close(wait_s=600)
    second.add(_record(1))
    wait_for(lambda: second.troubles() == [])
    second.close(wait_s=600)
