"""The flight recorder: what was changed afterwards is named, deletions are proven, and verdicts can be repeated."""

import json
import os
import sqlite3
import time
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from bundles import gray, make_bundle, png, wait_until_loaded
from fakes import wait_for
from fastapi.testclient import TestClient
from replies import post

from service.app import create_app
from service.commands import run
from service.settings import Settings
from service.station.record import Record
from service.station.records import Records
from service.station.reviews import Review

BAD = png(gray(204))
FILE = "inspections.sqlite"
DAY = 86_400


def _record(number: int, when: float, image: bytes | None = None) -> Record:
    reply = {"inspection_id": f"id-{number}", "recipe": "part", "verdict": "NG", "part_id": f"P {number}", "score": 0.5}
    return Record(reply, when, None, image, metadata={"order": f"{number}"}, open=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Records of ten parts, three with images, two reviewed."""
    folder = tmp_path / "records"
    records = Records(folder, image_budget_bytes=10_000)
    for number in range(10):
        records.add(_record(number, time.time() + number, bytes([number]) * 100 if number < 3 else None))
    wait_for(lambda: records.image("id-2") and records.find("id-9"))
    records.review("id-1", Review("good", "Ada"))
    records.review("id-8", Review("defect", "Ada", defect_type="scratch"))
    records.close(wait_s=600)
    return folder


def _verify(folder: Path, *more: str) -> int:
    return run(["records", "verify", "--records", str(folder), *more])


def _sql(statement: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with closing(sqlite3.connect(folder / FILE)) as connection, connection:
            connection.execute(statement)

    return change


def _picture(folder: Path) -> Path:
    return min(folder.glob("images/*/*"))


def test_what_nobody_touched_is_proven(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _verify(folder) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["links"], said["inspections"], said["pictures"], said["reviews"]) == (15, 10, 3, 2)
    assert _verify(folder, "--head", said["head"]) == 0
    assert _verify(folder, "--head", "0" * 63 + "1") == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_sql("UPDATE inspections SET verdict = 'OK' WHERE inspection_id = 'id-4'"), "inspection id-4 was changed"),
        (_sql("UPDATE inspections SET reply = '{}' WHERE inspection_id = 'id-4'"), "inspection id-4 was changed"),
        (_sql("UPDATE inspections SET score = 0.1 WHERE inspection_id = 'id-4'"), "inspection id-4 was changed"),
        (_sql("DELETE FROM inspections WHERE inspection_id = 'id-9'"), "inspection id-9 was taken away"),
        (_sql("UPDATE reviews SET after = 'good' WHERE inspection_id = 'id-8'"), "of inspection id-8 was changed"),
        (_sql("UPDATE inspections SET review = 'good' WHERE inspection_id = 'id-8'"), "id-8 says good"),
        (_sql("UPDATE inspections SET open = NULL WHERE inspection_id = 'id-4'"), "inspection id-4 has no review"),
        (_sql("DELETE FROM reviews WHERE inspection_id = 'id-8'"), "was taken away"),
        (_sql("DELETE FROM chain WHERE seq = 7"), "links 7 to 7 of the chain are gone"),
        (_sql("UPDATE chain SET content = zeroblob(32) WHERE seq = 5"), "link 5"),
        (
            _sql(
                "INSERT INTO inspections (inspection_id, time, recipe, verdict, reply, link) "
                "VALUES ('x', 1, 'part', 'OK', '{}', 3)"
            ),
            "inspection x is on no link",
        ),
        (
            _sql(
                "INSERT INTO inspections (inspection_id, time, recipe, verdict, reply) "
                "VALUES ('x', 1, 'part', 'OK', '{}')"
            ),
            "1 inspections have no link",
        ),
        (
            _sql("UPDATE inspections SET image_sha256 = NULL WHERE inspection_id = 'id-1'"),
            "inspection id-1: that its image",
        ),
        (lambda folder: _picture(folder).unlink(), "is gone"),
        (lambda folder: _picture(folder).write_bytes(b"another"), "was changed"),
    ],
)
def test_tampering_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None], named: str
) -> None:
    change(folder)
    assert _verify(folder) == 1
    assert named in capsys.readouterr().out


def test_a_chain_that_was_written_anew_needs_the_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s" * 40)
    records = Records(tmp_path / "records", image_budget_bytes=1000, key=b"s" * 40)
    records.add(_record(1, time.time()))
    records.close(wait_s=600)
    assert _verify(tmp_path / "records", "--seal-key", str(secret)) == 0
    secret.write_text("t" * 40)
    assert _verify(tmp_path / "records", "--seal-key", str(secret)) == 1
    assert "does not follow" in capsys.readouterr().out


def test_a_secret_that_was_set_later_vouches_from_a_link_that_is_known(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s" * 40)
    with_secret = ("--seal-key", str(secret))
    assert _verify(folder, *with_secret) == 1
    assert "none is made with it" in capsys.readouterr().out
    records = Records(folder, image_budget_bytes=10_000, key=b"s" * 40)
    records.add(_record(11, time.time()))
    records.close(wait_s=600)
    assert "from link 16 on" in caplog.text
    known = caplog.text.partition("the newest link now, ")[2][:64]
    assert _verify(folder, *with_secret) == 1
    assert "link 16 is the first" in capsys.readouterr().out
    assert _verify(folder, *with_secret, "--sealed-from", "15") == 1
    assert _verify(folder, *with_secret, "--sealed-from", "16", "--head", known) == 0
    # What came before is bound all the same, and nothing may be without the secret behind it.
    records = Records(folder, image_budget_bytes=10_000)
    records.add(_record(12, time.time()))
    records.close(wait_s=600)
    assert "without one from link 17 on" in caplog.text
    assert _verify(folder, *with_secret, "--sealed-from", "16") == 1
    assert "link 17 (inspection id-12) does not follow" in capsys.readouterr().out


def test_deletions_leave_the_chain_provable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, now = tmp_path / "records", time.time()
    records = Records(folder, image_budget_bytes=1_050)
    for number in range(12):
        records.add(_record(number, now - DAY * (40 if number % 4 else 1), bytes([number]) * 100))
        wait_for(lambda number=number: records.find(f"id-{number}"))
    wait_for(lambda: records.image("id-11"))
    records.review("id-1", Review("good", "Ada"))
    records.review("id-4", Review("good", "Ada"))
    records.close(wait_s=600)
    assert _verify(folder) == 0
    # What a kill leaves between the commit of a deletion and the deletion of the file, and before the commit of a row.
    old, young = (folder / "images" / "ab" / (letter * 64) for letter in "bc")
    old.parent.mkdir(exist_ok=True)
    old.touch()
    young.touch()
    os.utime(old, (now - 31 * DAY, now - 31 * DAY))
    assert run(["records", "prune", "--records", str(folder), "--days", "30", "--images-mb", "1"]) == 0
    assert (old.exists(), young.exists()) == (False, True)
    capsys.readouterr()
    assert _verify(folder) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["pictures"] <= 3
    with closing(sqlite3.connect(folder / FILE)) as connection:
        kept = [row[0] for row in connection.execute("SELECT inspection_id FROM inspections ORDER BY rowid")]
        names = {row[0] for row in connection.execute("SELECT value FROM metadata")}
        assert connection.execute("SELECT count(*) FROM reviews").fetchone() == (1,)
    assert (kept, names) == (["id-0", "id-4", "id-8"], {"0", "4", "8"})
    _sql("DELETE FROM inspections WHERE inspection_id = 'id-4'")(folder)
    assert _verify(folder) == 1
    # The oldest go with their links: the anchor has the hash before them.
    records = Records(folder, image_budget_bytes=1_050)
    records.add(_record(20, now))
    records.close(wait_s=600)
    _sql("UPDATE inspections SET time = 1 WHERE inspection_id = 'id-0'")(folder)
    assert run(["records", "prune", "--records", str(folder), "--days", "30"]) == 0
    with closing(sqlite3.connect(folder / FILE)) as connection:
        assert connection.execute("SELECT seq > 0 FROM anchor").fetchone() == (1,)


def test_a_backup_is_a_folder_to_start_on(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = Records(folder, image_budget_bytes=10_000)
    copy = tmp_path / "copy"
    assert run(["records", "backup", "--records", str(folder), "--out", str(copy)]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == 3
    records.close(wait_s=600)
    assert _verify(copy) == 0
    again = Records(copy, image_budget_bytes=10_000)
    assert again.image("id-2") == bytes([2]) * 100
    again.close(wait_s=600)
    assert run(["records", "backup", "--records", str(folder), "--out", str(copy)]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


def test_an_export_is_a_table_or_a_zip(folder: Path, tmp_path: Path) -> None:
    table, archive = tmp_path / "parts.csv", tmp_path / "parts.zip"
    assert run(["records", "export", "--records", str(folder), "--out", str(table)]) == 0
    assert len(table.read_text().splitlines()) == 11
    assert run(["records", "export", "--records", str(folder), "--out", str(archive), "--verdict", "NG"]) == 0
    with zipfile.ZipFile(archive) as zipped:
        assert len([name for name in zipped.namelist() if name.startswith("images/")]) == 3


def test_commands_name_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["records", "verify", "--records", str(tmp_path)]) == 2
    assert "--records" in capsys.readouterr().err
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.execute("PRAGMA user_version = 2")
    assert run(["records", "verify", "--records", str(tmp_path)]) == 2
    assert "start the service on it once" in capsys.readouterr().err


def test_a_file_of_the_version_before_is_brought_up_to_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
        connection.executescript(
            "CREATE TABLE inspections (inspection_id TEXT PRIMARY KEY, time REAL NOT NULL, recipe TEXT NOT NULL, "
            "verdict TEXT NOT NULL, part_id TEXT, image_sha256 TEXT, reply TEXT NOT NULL, "
            "era INTEGER NOT NULL DEFAULT 0);"
            "PRAGMA user_version = 2;"
        )
        reply = json.dumps({"inspection_id": "old", "camera_id": "left", "version": "3", "score": 0.25})
        connection.execute("INSERT INTO inspections VALUES ('old', 1.0, 'part', 'OK', 'P 1', NULL, ?, 0)", (reply,))
    records = Records(tmp_path, image_budget_bytes=1000)
    records.add(_record(1, time.time()))
    records.close(wait_s=600)
    found = records.find("old")
    assert found is not None
    assert (found["camera_id"], found["version"], found["score"]) == ("left", "3", 0.25)
    assert _verify(tmp_path) == 0
    assert json.loads(capsys.readouterr().out)["without_link"] == 1


@pytest.fixture
def inspected(models: Path, tmp_path: Path) -> tuple[list[str], Path]:
    """Ids of a bad part, an unfit one and a frame of bare pixels; their records."""
    settings = Settings(records_dir=tmp_path / "records", models_dir=models, backend="ort-cpu")
    with TestClient(create_app(settings)) as client:
        wait_until_loaded(client)
        raw = {"width": 64, "height": 64, "pixel_format": "Mono8"}
        replies = [
            post(client, BAD),
            post(client, png(gray(0))),
            post(client, bytes([120]) * 4096, "application/octet-stream", params=raw),
        ]
        ids = [reply.json()["inspection_id"] for reply in replies]
        wait_for(lambda: all(client.get(f"/inspections/{name}/map").status_code == 200 for name in ids))
    return ids, tmp_path / "records"


def _replay(folder: Path, models: Path, *more: str) -> int:
    return run(["replay", "--records", str(folder), "--models", str(models), *more])


def _said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_verdict_is_proven_from_its_image(
    inspected: tuple[list[str], Path], models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids, folder = inspected
    assert _replay(folder, models, "--since", "2020-01-01") == 0
    *replays, summary = _said(capsys)
    assert summary == {"proven": 3}
    assert [replay["verdict_now"] for replay in replays] == ["REVIEW", "NOT_INSPECTED", "NG"]
    assert _replay(folder, models, "--ids", ids[0]) == 0


@pytest.mark.parametrize(
    ("change", "outcome", "named"),
    [
        ("UPDATE inspections SET reply = replace(reply, '\"NG\"', '\"OK\"')", "tampered", "was changed"),
        (
            "UPDATE inspections SET image_sha256 = (SELECT min(image_sha256) FROM inspections)",
            "tampered",
            "another image",
        ),
        ("UPDATE inspections SET link = NULL", "tampered", "on no link"),
    ],
)
def test_a_replay_names_tampering(
    inspected: tuple[list[str], Path],
    models: Path,
    capsys: pytest.CaptureFixture[str],
    change: str,
    outcome: str,
    named: str,
) -> None:
    _, folder = inspected
    _sql(change)(folder)
    assert _replay(folder, models, "--since", "2020-01-01") == 1
    *replays, summary = _said(capsys)
    assert summary[outcome] >= 1  # type: ignore[operator]
    assert any(named in str(replay["reasons"]) for replay in replays)


def test_a_replay_shows_what_differs(
    inspected: tuple[list[str], Path], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids, folder = inspected
    make_bundle(tmp_path / "others", label="another file")
    assert _replay(folder, tmp_path / "others", "--ids", ids[0]) == 1
    assert "another file" in str(_said(capsys)[0]["reasons"])
    assert _replay(folder, tmp_path / "none", "--ids", ids[0]) == 2
    assert _said(capsys)[0]["outcome"] == "impossible"
    assert _replay(folder, models, "--ids", "none") == 2
    assert "no inspection 'none'" in capsys.readouterr().err


def test_a_record_of_an_earlier_program_cannot_be_repeated_and_says_why(
    inspected: tuple[list[str], Path], models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids, folder = inspected
    _sql("UPDATE inspections SET reply = json_remove(reply, '$.model_sha256', '$.limits'), link = NULL")(folder)
    _sql("INSERT INTO chain VALUES (9999, 'upgrade', '', x'00', x'00', '{}')")(folder)
    assert _replay(folder, models, "--ids", ids[0]) == 2
    (replay, _) = _said(capsys)
    assert replay["outcome"] == "impossible"
    assert "earlier program" in str(replay["reasons"])
    assert "model_sha256, limits" in str(replay["reasons"])
