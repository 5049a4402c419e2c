"""What is on record can be searched, shown and taken away; the line's own names for things come along."""

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import gray, png, wait_until_loaded
from fakes import wait_for
from fastapi.testclient import TestClient
from replies import assert_problem, post

from service.app import create_app
from service.settings import Settings

GOOD, DOUBTFUL, BAD = (png(gray(value)) for value in (51, 102, 204))


@pytest.fixture
def station(models: Path, tmp_path: Path) -> Iterator[TestClient]:
    """The service with records, asked from its own machine."""
    app = create_app(Settings(records_dir=tmp_path / "records", models_dir=models, backend="ort-cpu"))
    address = ("127.0.0.1", 50000)
    with TestClient(app, base_url="http://localhost", client=address, raise_server_exceptions=False) as running:
        wait_until_loaded(running)
        yield running


def _send(client: TestClient, image: bytes, **headers: str) -> str:
    names = {"X-" + name.replace("_", "-"): value for name, value in headers.items()}
    return str(post(client, image, headers=names).json()["inspection_id"])


def _found(client: TestClient, query: str) -> list[str]:
    reply = client.get(f"/inspections?{query}")
    assert reply.status_code == 200, reply.text
    return [one["inspection_id"] for one in reply.json()]


def test_parts_are_found_by_all_that_is_known_of_them(station: TestClient) -> None:
    ids = [
        _send(station, GOOD, Part_Id="SN-1", Camera_Id="left", Lot_Id="L 1", Meta_Order="4711"),
        _send(station, BAD, Part_Id="SN-2", Camera_Id="right", Lot_Id="L 1", Meta_Order="4711", Meta_Shift="B"),
        _send(station, DOUBTFUL, Part_Id="SM-3", Camera_Id="left", Lot_Id="L 2", Meta_Order="4712"),
    ]
    post(station, b"text", headers={"X-Part-Id": "SN-4", "X-Lot-Id": "L 2"})
    wait_for(lambda: len(station.get("/inspections").json()) == 4)
    refused = _found(station, "part_id=SN-4&lot=L 2")
    everything = [*refused, *reversed(ids)]
    assert _found(station, "") == everything
    assert _found(station, "part_id=SN-2") == [ids[1]]
    assert _found(station, "part_id=SN-*") == [*refused, ids[1], ids[0]]
    assert _found(station, "camera=left") == [ids[2], ids[0]]
    assert _found(station, "lot=L 1&verdict=NG") == [ids[1]]
    assert _found(station, "lot=L*&verdict=NG&verdict=REVIEW") == [ids[2], ids[1]]
    assert _found(station, "meta=order=4711") == [ids[1], ids[0]]
    assert _found(station, "meta=order=4711&meta=shift=B") == [ids[1]]
    assert _found(station, "recipe=part&version=1&verdict=OK") == [ids[0]]
    assert _found(station, "recipe=other") == _found(station, "version=2") == []
    assert _found(station, "open=true") == [*refused, ids[2], ids[1]]
    first = station.get(f"/inspections/{ids[1]}").json()
    assert (first["lot_id"], first["metadata"], first["camera_id"]) == ("L 1", {"order": "4711", "shift": "B"}, "right")
    # A datetime has microseconds alone.
    moment = datetime.fromtimestamp(first["time"] - 0.001, UTC)
    assert ids[1] in _found(station, f"after={moment.isoformat().replace('+', '%2B')}")
    assert ids[1] in _found(station, f"after={first['time']}&before={first['time'] + 1}")
    assert ids[1] not in _found(station, f"before={first['time']}")
    assert _found(station, "before=2020-01-01") == []


def test_pages_follow_each_other(station: TestClient) -> None:
    ids = [_send(station, image) for image in (GOOD, BAD, DOUBTFUL, GOOD, BAD)]
    wait_for(lambda: len(station.get("/inspections").json()) == 5)
    for query in ("", "&verdict=OK&verdict=NG&verdict=REVIEW", "&after=2020-01-01"):
        seen, cursor = [], ""
        while True:
            page = station.get(f"/inspections?limit=2{query}{cursor}")
            seen += [one["inspection_id"] for one in page.json()]
            if "x-next-cursor" not in page.headers:
                break
            cursor = f"&cursor={page.headers['x-next-cursor']}"
        assert seen == ids[::-1]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("after=yesterday", "2026-11-29T14:00:00"),
        ("meta=order", "name=value"),
        ("verdict=BAD", "verdict"),
        ("limit=0", "limit"),
        ("cursor=99999999999999999999", "cursor"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(station: TestClient, query: str, named: str) -> None:
    assert named in str(assert_problem(station.get(f"/inspections?{query}"), 422, "invalid_request")["detail"])


def test_names_of_the_line_are_bounded_and_refused_where_nobody_reads_them(station: TestClient) -> None:
    many = {f"X-Meta-N{number}": "1" for number in range(17)}
    assert "17" in str(assert_problem(post(station, GOOD, headers=many), 422, "invalid_request")["detail"])
    assert_problem(post(station, GOOD, headers={"X-Meta-Order": "4" * 129}), 422, "invalid_request")
    assert_problem(post(station, GOOD, headers={"X-Lot": "4"}), 422, "invalid_request")
    assert_problem(station.get("/counters", headers={"X-Meta-Order": "4"}), 422, "invalid_request")


def test_image_map_and_overlay_are_shown_also_of_bare_pixels(station: TestClient) -> None:
    frame = np.full((64, 64), 204, np.uint8).tobytes()
    raw = {"width": 64, "height": 64, "pixel_format": "Mono8"}
    bare = post(station, frame, "application/octet-stream", params=raw).json()["inspection_id"]
    for name, image, kind in ((_send(station, BAD), BAD, "image/png"), (bare, frame, "application/octet-stream")):
        address = f"/inspections/{name}"
        wait_for(lambda address=address: station.get(f"{address}/map").status_code == 200)
        kept = station.get(f"{address}/image")
        assert (kept.content, kept.headers["content-type"]) == (image, kind)
        assert station.get(address).json()["image_size"] == [64, 64]
        anomaly_map = cv2.imdecode(np.frombuffer(station.get(f"{address}/map").content, np.uint8), cv2.IMREAD_UNCHANGED)
        assert (anomaly_map.shape, int(anomaly_map.min()), int(anomaly_map.max())) == ((64, 64), 204, 204)
        for picture in ("preview", "overlay"):
            drawn = station.get(f"{address}/{picture}.jpg").content
            assert cv2.imdecode(np.frombuffer(drawn, np.uint8), cv2.IMREAD_COLOR).shape == (64, 64, 3)
        assert station.get(f"/events/{name}/overlay.jpg").status_code == 200
        assert station.get(address).json()["image"] is True


def test_a_table_and_a_zip_have_what_was_found(station: TestClient) -> None:
    _send(station, GOOD, Part_Id="=1+1")
    bad = _send(station, BAD, Part_Id="SN-2", Lot_Id="L 1", Meta_Order="4711")
    wait_for(lambda: station.get(f"/inspections/{bad}/map").status_code == 200)
    box = {"x": 1, "y": 2, "width": 3, "height": 4}
    assert station.post(f"/inspections/{bad}/reviews", json={"verdict": "defect", "boxes": [box]}).status_code == 201
    rows = list(csv.DictReader(io.StringIO(station.get("/inspections/export.csv").text)))
    assert [row["part_id"] for row in rows] == ["SN-2", "'=1+1"]
    assert (rows[0]["verdict"], rows[0]["review"], json.loads(rows[0]["metadata"])) == (
        "NG",
        "defect",
        {"order": "4711"},
    )
    with zipfile.ZipFile(io.BytesIO(station.get("/inspections/export.zip?verdict=NG").content)) as archive:
        assert archive.testzip() is None
        files = {f"images/{bad}.png", f"maps/{bad}.png", f"masks/{bad}.png", "inspections.csv"}
        assert set(archive.namelist()) == files
        assert archive.read(f"images/{bad}.png") == BAD
        mask = cv2.imdecode(np.frombuffer(archive.read(f"masks/{bad}.png"), np.uint8), cv2.IMREAD_UNCHANGED)
        assert (mask.shape, cv2.boundingRect(mask)) == ((64, 64), (1, 2, 3, 4))


def test_of_many_good_parts_a_few_are_kept_for_a_review(models: Path, tmp_path: Path) -> None:
    settings = Settings(records_dir=tmp_path / "records", models_dir=models, backend="ort-cpu", sample_ok=3)
    with TestClient(create_app(settings)) as client:
        wait_until_loaded(client)
        ids = [_send(client, GOOD) for _ in range(3)]
        wait_for(lambda: client.get(f"/inspections/{ids[2]}/image").status_code == 200)
        assert _found(client, "open=true") == [ids[2]]
        assert_problem(client.get(f"/inspections/{ids[0]}/image"), 404, "not_found")
