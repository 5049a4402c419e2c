"""A candidate version beside the one in service, on recorded images: counts, and images whose verdict changed."""

import json
import time
from pathlib import Path

import pytest
from bundles import gray, make_bundle, png, wait_until_loaded
from fakes import wait_for
from fastapi.testclient import TestClient

from service.app import create_app
from service.commands import run
from service.settings import Settings
from service.station.record import Record
from service.station.records import Records
from service.station.reviews import Review


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Version 1 rejects what is brighter than 0.6, version 2 what is brighter than 0.9: escapes for sure."""
    folder = tmp_path / "models"
    make_bundle(folder)
    make_bundle(folder, version="2", review=0.85, reject=0.9)
    (folder / "part" / "ACTIVE").write_text("1\n")
    return folder


@pytest.fixture
def station(tmp_path: Path) -> Path:
    """A confirmed defect, a false reject, a good part, one that nobody looked at, one whose image was not kept."""
    folder = tmp_path / "records"
    records = Records(folder, image_budget_bytes=10_000_000)
    parts = {"defect": 200, "false reject": 180, "fine": 40, "unseen": 100, "lost": 40}
    for name, value in parts.items():
        reply = {"inspection_id": name, "recipe": "part", "verdict": "NG", "part_id": name}
        records.add(Record(reply, time.time(), None, None if name == "lost" else png(gray(value))))
    wait_for(lambda: records.find("lost") and all(records.image(name) for name in parts if name != "lost"))
    records.review("defect", Review("defect", "Ada"))
    for name in ("false reject", "fine"):
        records.review(name, Review("good", "Ada"))
    records.close(wait_s=600)
    return folder


def _compare(models: Path, station: Path, page: Path, *more: str) -> int:
    arguments = ["compare-versions", "--recipe", "part", "--candidate", "2", "--models", str(models)]
    return run([*arguments, "--records", str(station), "--out", str(page), *more])


def test_a_candidate_that_lets_a_confirmed_defect_pass_is_named_with_its_image(
    models: Path, station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "comparison.html"
    assert _compare(models, station, page) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["active"], said["candidate"], said["images"]) == ("1", "2", 4)
    assert said["active_verdicts"]["defect"]["NG"] == said["candidate_verdicts"]["defect"]["OK"] == 1
    assert said["active_verdicts"]["good"] == {"OK": 1, "REVIEW": 0, "NG": 1, "NOT_INSPECTED": 0}
    assert (said["candidate_verdicts"]["good"]["OK"], said["new_escapes"], said["changed"]) == (2, 1, 3)
    text = page.read_text()
    assert "3 of 4 verdicts change. NG becomes OK: 2, REVIEW becomes OK: 1." in text
    assert "1 of 1 confirmed defects would pass as OK that 1 does not pass" in text
    shown = [text.index(f'alt="{name}, NG then"') for name in ("defect", "false reject", "unseen")]
    assert shown == sorted(shown)
    assert text.count("data:image/jpeg;base64,/9j/") == 3
    assert "fine, NG then" not in text


def test_limits_that_are_in_force_count_and_reviewed_parts_come_first(
    models: Path, station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change = {"review": 0.3, "reject": 0.6, "version": "2", "changed": "2026-01-01T00:00:00Z", "by": "Ada"}
    (models / "part" / "LIMITS-2.json").write_text(json.dumps(change))
    assert _compare(models, station, tmp_path / "page.html", "--most", "3") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["images"], said["changed"], sum(said["candidate_verdicts"]["unknown"].values())) == (3, 0, 0)


def test_what_cannot_be_compared_is_said(
    models: Path, station: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert _compare(models, station, page, "--active", "3") == 2
    assert "no version 3: choose of 1, 2" in capsys.readouterr().err
    assert _compare(models, station, page, "--active", "2") == 2
    assert "name another --candidate" in capsys.readouterr().err
    for picture in station.glob("images/*/*"):
        picture.unlink()
    assert _compare(models, station, page) == 2
    assert "INSPECT_RECORD_IMAGES" in capsys.readouterr().err
    assert not page.exists()


def test_the_station_shows_the_same_page_to_who_may_activate(models: Path, station: Path) -> None:
    settings = Settings(models_dir=models, records_dir=station, log_level="error")
    with TestClient(create_app(settings), client=("127.0.0.1", 1), base_url="http://localhost") as client:
        wait_until_loaded(client)
        reply = client.get("/recipes/part/versions/2/comparison.html")
        assert reply.headers["content-type"].startswith("text/html")
        assert "sandbox" in reply.headers["content-security-policy"]
        assert "1 of 1 confirmed defects" in reply.text
        assert client.get("/recipes/part/versions/3/comparison.html").json()["code"] == "not_found"
        assert client.get("/recipes").json()[0]["version"] == "1"
