"""POST /inspect as a line integrator meets it: good images, every kind of bad one, and the next good one after it."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import SIZE, gray, make_bundle, png, wait_until_loaded
from fakes import wait_for
from fastapi.testclient import TestClient
from processes import running_service
from replies import assert_problem, post

from service.app import create_app
from service.client import Client
from service.settings import Settings

GOOD, DOUBTFUL, BAD = png(gray(51)), png(gray(102)), png(gray(204))


def huge_png_header() -> bytes:
    """A valid PNG start that claims 60000x60000 pixels in 45 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", b"")
    )


def truncated_jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    data: bytes = cv2.imencode(".jpg", noise)[1].tobytes()
    return data[: len(data) // 2]


@pytest.mark.parametrize(("data", "verdict", "score"), [(GOOD, "OK", 0.2), (DOUBTFUL, "REVIEW", 0.4), (BAD, "NG", 0.8)])
def test_verdict_score_and_thresholds(client: TestClient, data: bytes, verdict: str, score: float) -> None:
    reply = post(client, data, headers={"X-Part-Id": "A 17"}).json()
    assert reply["verdict"] == verdict
    assert reply["score"] == pytest.approx(score, abs=1e-6)
    assert reply["thresholds"] == {"review": 0.3, "reject": 0.6, "pixel": 0.5, "min_area": 0}
    assert (reply["recipe"], reply["version"], reply["part_id"]) == ("part", "1", "A 17")
    assert reply["backend"] == {"name": "onnxruntime", "provider": "CPUExecutionProvider", "precision": "fp32"}
    assert reply["heatmap"] is None


def test_raw_body_form_and_octet_stream_give_the_same_result(client: TestClient) -> None:
    replies = [
        post(client, DOUBTFUL).json(),
        post(client, DOUBTFUL, "application/octet-stream").json(),
        client.post("/inspect", files={"image": ("part.png", DOUBTFUL, "image/png")}).json(),
    ]
    for reply in replies:
        for name in ("inspection_id", "request_id", "timings_ms"):
            reply.pop(name)
    assert replies[0] == replies[1] == replies[2]


@pytest.mark.parametrize(
    ("data", "media_type", "status", "code"),
    [
        (b"", "image/jpeg", 400, "empty_image"),
        (truncated_jpeg(), "image/jpeg", 400, "corrupt_image"),
        (GOOD[:-30], "image/png", 400, "corrupt_image"),
        (huge_png_header(), "image/png", 413, "image_too_large"),
        (b"just some text, named part.png", "image/png", 400, "unsupported_image"),
        (GOOD, "text/plain", 415, "unsupported_media_type"),
        (b"GIF89a" + bytes(100), "image/png", 400, "unsupported_image"),
    ],
)
def test_bad_images_are_named_and_the_next_good_one_works(
    client: TestClient, data: bytes, media_type: str, status: int, code: str
) -> None:
    assert_problem(post(client, data, media_type), status, code)
    assert post(client, GOOD).json()["verdict"] == "OK"


def test_wrong_recipe_lists_the_right_ones(client: TestClient) -> None:
    body = assert_problem(post(client, GOOD, params={"recipe": "bottle"}), 404, "unknown_recipe")
    assert "part" in str(body["detail"])


def test_a_recipe_must_be_named_where_there_are_several(models: Path) -> None:
    make_bundle(models, "other")
    with TestClient(create_app(Settings(records_dir=None, models_dir=models))) as client:
        wait_until_loaded(client)
        assert_problem(post(client, GOOD), 404, "unknown_recipe")
        assert post(client, GOOD, params={"recipe": "other"}).json()["recipe"] == "other"
    with TestClient(create_app(Settings(records_dir=None, models_dir=models, default_recipe="other"))) as client:
        wait_until_loaded(client)
        assert post(client, GOOD).json()["recipe"] == "other"


@pytest.mark.parametrize(
    ("params", "headers"),
    [
        ({"heatmap": "jpg"}, {}),
        ({}, {"X-Deadline-Ms": "soon"}),
        ({}, {"X-Deadline-Ms": "-1"}),
        ({}, {"X-Part-Id": "x" * 129}),
    ],
)
def test_invalid_parameters_are_named(client: TestClient, params: dict[str, str], headers: dict[str, str]) -> None:
    assert_problem(post(client, GOOD, params=params, headers=headers), 422, "invalid_request")


def test_unknown_addresses_and_methods_are_problems_too(client: TestClient) -> None:
    assert_problem(client.get("/nothing"), 404, "not_found")
    assert_problem(client.get("/inspect"), 405, "method_not_allowed")


def test_heatmaps(client: TestClient) -> None:
    def heatmap(data: bytes, mode: str) -> dict[str, str] | None:
        picture: dict[str, str] | None = post(client, data, params={"heatmap": mode}).json()["heatmap"]
        return picture

    assert heatmap(GOOD, "none") is None
    assert heatmap(GOOD, "auto") is None
    for mode, data in (("auto", BAD), ("overlay", GOOD)):
        picture = heatmap(data, mode)
        assert picture is not None
        assert (picture["format"], picture["media_type"]) == ("overlay", "image/png")
        assert cv2.imdecode(np.frombuffer(base64.b64decode(picture["data"]), np.uint8), 1).shape == (SIZE, SIZE, 3)
    npy = heatmap(DOUBTFUL, "npy")
    assert npy is not None
    np.testing.assert_allclose(np.load(io.BytesIO(base64.b64decode(npy["data"]))), 0.4, atol=1e-6)
    gray_map = heatmap(DOUBTFUL, "map")
    assert gray_map is not None
    assert (cv2.imdecode(np.frombuffer(base64.b64decode(gray_map["data"]), np.uint8), 0) == 102).all()


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg"])
def test_the_picture_itself_on_request(client: TestClient, media_type: str) -> None:
    response = post(client, BAD, headers={"Accept": media_type, "X-Part-Id": "17"})
    assert response.headers["content-type"] == media_type
    assert (response.headers["x-verdict"], response.headers["x-part-id"]) == ("NG", "17")
    assert float(response.headers["x-score"]) == pytest.approx(0.8, abs=1e-5)
    assert cv2.imdecode(np.frombuffer(response.content, np.uint8), 1).shape == (SIZE, SIZE, 3)


def test_an_overlay_says_in_headers_what_json_says(client: TestClient) -> None:
    names = {"X-Part-Id": "A 17", "X-Camera-Id": "left"}
    response = post(client, BAD, headers={"Accept": "image/png", **names})
    assert (response.headers["content-type"], len(response.headers["x-inspection-id"])) == ("image/png", 36)
    said = {name: value for name, value in response.headers.items() if name.startswith("x-")}
    as_json = post(client, png(gray(203)), headers=names)
    reply = as_json.json()
    assert as_json.headers["x-inspection-id"] == reply["inspection_id"]
    assert said.keys() == {name for name in as_json.headers if name.startswith("x-")}
    expected = {
        "x-recipe": "part",
        "x-recipe-version": "1",
        "x-part-id": "A 17",
        "x-camera-id": "left",
        "x-thresholds": "review=0.3; reject=0.6; pixel=0.5; min_area=0",
        "x-faults": "",
        "x-regions": "1",
        "x-backend": "onnxruntime CPUExecutionProvider fp32",
        "x-limits": "manifest",
    }
    assert {name: said[name] for name in expected} == expected


@pytest.mark.slow
def test_names_beyond_ascii_come_back_as_utf_8(models: Path, tmp_path: Path) -> None:
    name = "Geh\u00e4use-17 \u00bd"
    with running_service(models, tmp_path / "log") as (_, client):
        for encoding in ("utf-8", "latin-1"):
            headers = {"X-Part-Id": name.encode(encoding), "X-Trigger-Id": name.encode(encoding), "Accept": "image/png"}
            sent = {**headers, "Content-Type": "image/png"}
            response = client.post("/inspect", content=GOOD, headers=sent)
            raw = {field.lower(): value for field, value in response.headers.raw}
            assert raw[b"x-part-id"].decode() == name
        # One trigger, whatever its bytes.
        reply = response.json()
        assert (reply["part_id"], reply["replayed"]) == (name, True)
        wait_for(lambda: [row["part_id"] for row in client.get("/inspections").json()] == [name])
        with Client(str(client.base_url)) as camera:
            assert camera.inspect(DOUBTFUL, part_id=name).reply["part_id"] == name


def test_regions_are_in_pixels_of_the_sent_image(client: TestClient) -> None:
    picture = gray(50, 2 * SIZE)
    picture[20:40, 60:120] = 255
    (region,) = post(client, png(picture)).json()["regions"]
    assert (region["x"], region["y"], region["width"], region["height"]) == (60, 20, 60, 20)
    assert region["area"] == 1200
    assert region["peak"] == pytest.approx(1.0)


def test_request_id_is_echoed_and_replaced_when_unsafe(client: TestClient) -> None:
    assert post(client, GOOD, headers={"X-Request-Id": "line-4.17"}).json()["request_id"] == "line-4.17"
    assert len(post(client, GOOD, headers={"X-Request-Id": "a b\tc"}).json()["request_id"]) == 36


def test_bare_pixels_score_like_the_encoded_picture(client: TestClient) -> None:
    layout = {"width": "64", "height": "64", "pixel_format": "RGB8"}
    reply = post(client, gray(102).tobytes(), "application/octet-stream", params=layout).json()
    assert reply["score"] == post(client, DOUBTFUL).json()["score"]
    del layout["width"]
    body = assert_problem(
        post(client, gray(102).tobytes(), "application/octet-stream", params=layout), 422, "invalid_request"
    )
    assert "no width" in str(body["detail"])
