"""What people say of parts is added and never changed, and only who may say it does."""

import base64
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import gray, png, wait_until_loaded
from fakes import wait_for
from fastapi.testclient import TestClient
from replies import assert_problem, post

from service.app import create_app
from service.http.access import new_key
from service.settings import Settings

GOOD, DOUBTFUL, BAD = (png(gray(value)) for value in (51, 102, 204))


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, dict[str, str]]:
    lines, headers = [], {}
    for role in ("inspect", "review", "admin"):
        key, line = new_key(role, f"Ada the {role}er")  # type: ignore[arg-type]
        lines.append(line)
        headers[role] = {"X-API-Key": key}
    (tmp_path / "keys").write_text("\n".join(lines))
    return headers


@pytest.fixture
def station(models: Path, tmp_path: Path, keys: dict[str, dict[str, str]]) -> Iterator[TestClient]:
    settings = Settings(
        records_dir=tmp_path / "records", models_dir=models, backend="ort-cpu", api_keys_file=tmp_path / "keys"
    )
    with TestClient(create_app(settings), headers=keys["review"], raise_server_exceptions=False) as client:
        wait_until_loaded(client)
        yield client


def _inspected(client: TestClient, image: bytes) -> str:
    name = post(client, image).json()["inspection_id"]
    wait_for(lambda: client.get(f"/inspections/{name}").status_code == 200)
    return str(name)


def test_the_queue_has_all_but_ok_and_empties(station: TestClient) -> None:
    _inspected(station, GOOD)
    doubtful, bad, unfit = (_inspected(station, image) for image in (DOUBTFUL, BAD, png(gray(0))))
    # Counted a moment after they are on record.
    wait_for(lambda: station.get("/reviews?open=true").json()["open"] == 3)
    queue = station.get("/reviews?open=true").json()
    assert [one["inspection_id"] for one in queue["items"]] == [unfit, bad, doubtful]
    assert (queue["open"], queue["next"]) == (3, None)
    assert station.post(f"/inspections/{bad}/reviews", json={"verdict": "good"}).status_code == 201
    assert station.get("/reviews?open=true&verdict=NG").json() == {"open": 2, "items": [], "next": None}
    page = station.get("/reviews?open=true&limit=1").json()
    rest = station.get(f"/reviews?open=true&limit=1&cursor={page['next']}").json()
    assert [page["items"][0]["inspection_id"], rest["items"][0]["inspection_id"]] == [unfit, doubtful]


def test_a_review_says_who_when_before_and_after_and_stays(station: TestClient) -> None:
    bad = _inspected(station, BAD)
    address = f"/inspections/{bad}/reviews"
    first = station.post(address, json={"verdict": "good", "note": "dust"}).json()
    boxes = [{"x": 4, "y": 5, "width": 6, "height": 7}]
    second = station.post(address, json={"verdict": "defect", "defect_type": "scratch", "boxes": boxes}).json()
    assert (first["by"], first["before"], first["after"], first["note"]) == ("Ada the reviewer", "NG", "good", "dust")
    assert (second["before"], second["after"], second["boxes"]) == ("good", "defect", boxes)
    found = station.get(f"/inspections/{bad}").json()
    assert (found["verdict"], found["review"], found["open"], found["reviews"]) == (
        "NG",
        "defect",
        False,
        [first, second],
    )
    assert station.get("/reviews").json()["items"] == [second, first]
    assert station.get("/reviews?recipe=other").json()["items"] == []
    assert station.get("/defect-types").json() == ["scratch"]
    assert [one["inspection_id"] for one in station.get("/inspections?reviewed=true").json()] == [bad]
    assert station.get("/inspections?reviewed=false").json() == []


def test_a_mask_is_kept_as_it_was_drawn(station: TestClient) -> None:
    bad = _inspected(station, BAD)
    drawn = np.zeros((64, 64), np.uint8)
    drawn[3:9, 5:20] = 200
    done, data = cv2.imencode(".png", drawn)
    assert done
    sent = {"verdict": "defect", "mask": base64.b64encode(data.tobytes()).decode()}
    review = station.post(f"/inspections/{bad}/reviews", json=sent).json()
    assert review["mask"] is True
    kept = station.get(f"/reviews/{review['review_id']}/mask.png").content
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(kept, np.uint8), cv2.IMREAD_UNCHANGED), (drawn > 0) * 255)
    assert_problem(station.get("/reviews/none/mask.png"), 404, "not_found")


def test_only_who_may_review_does(station: TestClient, keys: dict[str, dict[str, str]]) -> None:
    bad = _inspected(station, BAD)
    address, said = f"/inspections/{bad}/reviews", {"verdict": "good"}
    refused = station.post(address, json=said, headers=keys["inspect"])
    assert "review" in str(assert_problem(refused, 403, "forbidden")["detail"])
    assert_problem(station.post(address, json=said, headers={"X-API-Key": "x"}), 401, "unauthorized")
    assert_problem(station.post("/counters/reset"), 403, "forbidden")
    assert station.post(address, json=said, headers=keys["admin"]).json()["by"] == "Ada the adminer"
    rights = {role: station.get("/access", headers=keys[role]).json() for role in keys}
    assert rights["inspect"] == {"name": "Ada the inspecter", "rights": ["view", "inspect"], "keys": True}
    assert rights["review"]["rights"] == ["view", "inspect", "review"]
    assert rights["admin"]["rights"] == ["view", "metrics", "inspect", "review", "admin"]


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"verdict": "OK"},
        {"verdict": "good", "mask": "no base64"},
        {"verdict": "good", "who": "Ada"},
        {"verdict": "good", "boxes": [{"x": -1, "y": 0, "width": 1, "height": 1}]},
    ],
)
def test_a_review_that_makes_no_sense_is_refused(station: TestClient, said: dict[str, object]) -> None:
    bad = _inspected(station, BAD)
    assert_problem(station.post(f"/inspections/{bad}/reviews", json=said), 422, "invalid_request")
    assert_problem(station.post("/inspections/none/reviews", json={"verdict": "good"}), 404, "not_found")
    assert station.get(f"/inspections/{bad}").json()["open"] is True


def test_a_review_that_was_answered_is_on_the_disk_whoever_else_writes(station: TestClient, tmp_path: Path) -> None:
    names = [_inspected(station, BAD) for _ in range(6)]

    def say(name: str) -> None:
        assert station.post(f"/inspections/{name}/reviews", json={"verdict": "defect"}).status_code == 201

    threads = [threading.Thread(target=say, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    post(station, BAD)
    for thread in threads:
        thread.join()
    with sqlite3.connect(tmp_path / "records" / "inspections.sqlite") as connection:
        reviewed = {row[0] for row in connection.execute("SELECT inspection_id FROM reviews")}
    connection.close()
    assert reviewed == set(names)
