"""POST /inspect as a line integrator meets it: good pictures, every kind of bad one, and the next good one after it."""

import base64
import gzip
import hashlib
import io
import json
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bundles import SIZE, gray, make_bundle, png, wait_until_loaded
from fakes import FakeBackend, brightness, wait_for
from fastapi.testclient import TestClient
from processes import running_service
from replies import assert_problem, post

from service.app import create_app
from service.backends.golden import GoldenError
from service.client import Client
from service.http.problems import PROBLEMS, ProblemBody
from service.http.replies import InspectionReply
from service.settings import Settings
from service.station.recipes import RecipeStore
from service.station.verdicts import Verdict, judge

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


def test_oversized_bodies_are_refused_with_and_without_a_declared_length(models: Path) -> None:
    settings = Settings(records_dir=None, models_dir=models, max_upload_bytes=10_000)
    with TestClient(create_app(settings)) as client:
        wait_until_loaded(client)
        assert_problem(post(client, bytes(10_001)), 413, "body_too_large")

        def endless() -> Iterator[bytes]:
            for _ in range(100):
                yield bytes(1_000)

        chunked = client.post("/inspect", content=endless(), headers={"Content-Type": "image/png"})
        assert_problem(chunked, 413, "body_too_large")
        assert_problem(client.post("/inspect", files={"image": bytes(10_001)}), 413, "body_too_large")
        assert post(client, GOOD).status_code == 200


def test_fifty_megabytes_are_refused(client: TestClient) -> None:
    assert_problem(post(client, bytes(50_000_000)), 413, "body_too_large")
    assert post(client, GOOD).json()["verdict"] == "OK"


def test_forms_without_the_field_or_broken_are_named(client: TestClient) -> None:
    body = assert_problem(client.post("/inspect", files={"photo": GOOD}), 400, "empty_image")
    assert "'image'" in str(body["detail"])
    broken = post(client, b"--x\r\nnonsense", "multipart/form-data; boundary=x")
    assert_problem(broken, 422, "invalid_request")
    assert_problem(post(client, b"", "multipart/form-data"), 422, "invalid_request")


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


def _with_backend(monkeypatch: pytest.MonkeyPatch, backend: FakeBackend) -> None:
    monkeypatch.setattr("service.app.open_backend", lambda bundle, choice, **settings: backend)


def test_nan_from_the_backend_is_never_ok(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned = threading.Event()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        maps, scores = brightness(images)
        if poisoned.is_set():
            maps[:, 0, 0] = np.nan
        return maps, scores

    _with_backend(monkeypatch, FakeBackend(run))
    with TestClient(create_app(Settings(records_dir=None, models_dir=models))) as client:
        wait_until_loaded(client)
        assert post(client, GOOD).json()["verdict"] == "OK"
        poisoned.set()
        assert_problem(post(client, GOOD), 500, "untrusted_result")
        poisoned.clear()
        assert post(client, GOOD).json()["verdict"] == "OK"


def test_a_picture_under_way_gets_no_verdict_from_a_recipe_that_fails_its_golden_images(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = threading.Event()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        maps, scores = brightness(images)
        return maps, scores + 0.1 if wrong.is_set() else scores

    _with_backend(monkeypatch, FakeBackend(run))
    with TestClient(create_app(Settings(records_dir=None, models_dir=models))) as client:
        wait_until_loaded(client)
        store: RecipeStore = client.app_state["station"].recipes

        def check_meanwhile(*given: Any) -> Verdict:
            wrong.set()
            with pytest.raises(GoldenError):
                store.verify("part")
            return judge(*given)

        monkeypatch.setattr("service.station.inspection.judge", check_meanwhile)
        assert_problem(post(client, GOOD), 500, "untrusted_result")
        assert_problem(post(client, GOOD), 409, "recipe_not_ready")


def test_backend_failure_is_503_and_readiness_goes_until_it_recovers(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = threading.Event()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if broken.is_set():
            raise RuntimeError("device lost")
        return brightness(images)

    _with_backend(monkeypatch, FakeBackend(run))
    with TestClient(create_app(Settings(records_dir=None, models_dir=models))) as client:
        wait_until_loaded(client)
        broken.set()
        assert_problem(post(client, GOOD), 503, "backend_failed")
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 200
        broken.clear()
        assert post(client, GOOD).json()["verdict"] == "OK"
        assert client.get("/readyz").status_code == 200


def test_a_result_after_its_deadline_is_504_not_a_late_200(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, slow = threading.Event(), threading.Event()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if slow.is_set():
            held.wait(0.3)
        return brightness(images)

    backend = FakeBackend(run)
    _with_backend(monkeypatch, backend)
    with TestClient(create_app(Settings(records_dir=None, models_dir=models))) as client:
        wait_until_loaded(client)
        slow.set()
        assert_problem(post(client, GOOD, headers={"X-Deadline-Ms": "150"}), 504, "deadline_passed")
        # Now the station knows how slow it is: while it is busy it refuses at the door.
        backend.forget_starts()
        busy = threading.Thread(target=post, args=(client, GOOD))
        busy.start()
        assert backend.started.acquire(timeout=30)
        body = assert_problem(post(client, GOOD, headers={"X-Deadline-Ms": "50"}), 429, "overloaded")
        assert int(str(body["retry_after_ms"])) >= 1
        busy.join(30)


def test_openapi_describes_both_ways_to_send_an_image(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    content = schema["paths"]["/inspect"]["post"]["requestBody"]["content"]
    assert {"image/jpeg", "image/png", "multipart/form-data"} <= content.keys()
    assert {"400", "404", "413", "429", "503", "504"} <= schema["paths"]["/inspect"]["post"]["responses"].keys()
    assert "verdict" in schema["components"]["schemas"]["ProblemBody"]["properties"]


def test_page_and_its_files_come_from_the_service_itself(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("web/station.js", "web/station.css"):
        assert f'"{name}"' in page.text
        assert client.get(f"/{name}").status_code == 200
    assert "http://" not in page.text.replace("http://localhost", "")


def test_docs_need_no_internet(client: TestClient) -> None:
    page = client.get("/docs")
    assert "//" not in page.text.replace("</", "")
    for file in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
        assert client.get(file).status_code == 200
    assert "swagger-ui-bundle.js" in page.text
    policy = page.headers["content-security-policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]


def test_golden_images_can_be_fetched(client: TestClient) -> None:
    (recipe,) = client.get("/recipes").json()
    assert (recipe["recipe"], recipe["ready"], recipe["golden_images"]) == ("part", True, 1)
    assert client.get("/recipes/part/golden/0.png").headers["content-type"] == "image/png"
    assert_problem(client.get("/recipes/part/golden/1.png"), 404, "not_found")
    assert_problem(client.get("/recipes/part/golden/x.png"), 422, "invalid_request")


def test_the_page_is_told_where_anomalies_count(models: Path) -> None:
    mask = png(gray(255))
    make_bundle(models, "masked", keep=mask)
    with TestClient(create_app(Settings(records_dir=None, models_dir=models))) as client:
        wait_until_loaded(client)
        assert {reply["recipe"]: reply["keep_mask"] for reply in client.get("/recipes").json()} == {
            "masked": True,
            "part": False,
        }
        assert client.get("/recipes/masked/keep.png").content == mask
        assert_problem(client.get("/recipes/part/keep.png"), 404, "not_found")


def test_the_examples_of_the_api_are_what_it_answers(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    (example,) = schema["components"]["schemas"]["InspectionReply"]["examples"]
    assert InspectionReply.model_validate(example).verdict == "NG"
    assert example.keys() == post(client, GOOD).json().keys()
    responses = schema["paths"]["/inspect"]["post"]["responses"]
    examples = {
        code: (status, example["value"])
        for status, response in responses.items()
        for code, example in response["content"].get("application/problem+json", {}).get("examples", {}).items()
    }
    assert examples.keys() == PROBLEMS.keys()
    for code, (status, value) in examples.items():
        assert (ProblemBody.model_validate(value).code, str(value["status"])) == (code, status)


def test_bare_pixels_score_like_the_encoded_picture(client: TestClient) -> None:
    layout = {"width": "64", "height": "64", "pixel_format": "RGB8"}
    reply = post(client, gray(102).tobytes(), "application/octet-stream", params=layout).json()
    assert reply["score"] == post(client, DOUBTFUL).json()["score"]
    del layout["width"]
    body = assert_problem(
        post(client, gray(102).tobytes(), "application/octet-stream", params=layout), 422, "invalid_request"
    )
    assert "no width" in str(body["detail"])


def test_an_unexpected_error_is_a_problem_without_details(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*arguments: object) -> None:
        raise RuntimeError("secret of the implementation")

    monkeypatch.setattr("service.station.inspection.judge", bug)
    response = post(client, GOOD)
    assert_problem(response, 500, "internal_error")
    assert "secret" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"
    monkeypatch.undo()
    assert post(client, GOOD).json()["verdict"] == "OK"


def test_a_picture_that_was_refused_may_be_sent_again(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = threading.Event()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if broken.is_set():
            raise RuntimeError("device lost")
        return brightness(images)

    _with_backend(monkeypatch, FakeBackend(run))
    camera = {"X-Camera-Id": "17"}
    with TestClient(create_app(Settings(records_dir=None, models_dir=models))) as client:
        wait_until_loaded(client)
        broken.set()
        assert_problem(post(client, GOOD, headers=camera), 503, "backend_failed")
        broken.clear()
        assert post(client, GOOD, headers=camera).json()["verdict"] == "OK"
        assert post(client, GOOD, headers=camera).json()["verdict"] == "NOT_INSPECTED"


def test_a_batch_has_one_result_for_each_picture_in_order(client: TestClient) -> None:
    files = [("image", (f"{i}.png", data, "image/png")) for i, data in enumerate((GOOD, b"text", BAD, DOUBTFUL))]
    response = client.post("/inspect/batch", files=files)
    assert response.status_code == 200
    assert [reply["verdict"] for reply in response.json()] == ["OK", "NOT_INSPECTED", "NG", "REVIEW"]
    assert response.json()[1]["code"] == "unsupported_image"
    assert_problem(client.post("/inspect/batch", content=GOOD), 415, "unsupported_media_type")
    assert_problem(client.post("/inspect/batch", files=[("image", GOOD)] * 65), 422, "invalid_request")


@pytest.mark.parametrize(
    ("name", "content"),
    [("photo", ("2.png", GOOD)), ("note", (None, b"left side")), ("recipe", (None, b"other")), ("", ("2.png", GOOD))],
)
def test_a_part_of_a_form_that_is_no_picture_is_named_and_never_skipped(
    client: TestClient, name: str, content: tuple[str | None, bytes]
) -> None:
    def parts(*middle: tuple[str | None, bytes]) -> list[tuple[str, tuple[str | None, bytes]]]:
        return [("image", ("1.png", GOOD)), *((name, part) for part in middle), ("image", ("3.png", BAD))]

    for middle in ([content], [content] * 9):
        body = assert_problem(client.post("/inspect/batch", files=parts(*middle)), 422, "invalid_request")
        assert f"part 2 of the form, {name!r}, is not known" in str(body["detail"])
    body = assert_problem(client.post("/inspect", files=parts(content)[:2]), 422, "invalid_request")
    assert f"part 2 of the form, {name!r}, is not known" in str(body["detail"])


def test_a_part_without_a_filename_is_a_picture_like_any_other(client: TestClient) -> None:
    assert client.post("/inspect", files={"image": (None, BAD)}).json()["verdict"] == "NG"
    many = [("image", (None, GOOD)), ("image", (None, b"left side")), ("image", ("3.png", BAD))]
    replies = client.post("/inspect/batch", files=many).json()
    assert [(reply["verdict"], reply.get("code")) for reply in replies] == [
        ("OK", None),
        ("NOT_INSPECTED", "unsupported_image"),
        ("NG", None),
    ]


def test_of_two_pictures_in_one_form_none_is_picked(client: TestClient) -> None:
    two = [("image", ("1.png", GOOD)), ("image", ("2.png", BAD))]
    body = assert_problem(client.post("/inspect", files=two), 422, "invalid_request")
    assert "/inspect/batch" in str(body["detail"])
    empty = post(client, b"--x--\r\n", "multipart/form-data; boundary=x")
    assert "empty" in str(assert_problem(empty, 400, "empty_image")["detail"])


@pytest.mark.parametrize(
    "media_type",
    [
        "image/jpg",
        "image/pjpeg",
        "image/x-png",
        "image/x-ms-bmp",
        "image/tif",
        "IMAGE/PNG",
        "image/png; charset=binary",
        "Image/Jpg;q=1",
    ],
)
def test_other_names_of_a_content_type_are_understood(client: TestClient, media_type: str) -> None:
    assert post(client, GOOD, media_type).json()["verdict"] == "OK"


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (json.dumps({"image": base64.b64encode(GOOD).decode()}).encode(), "application/json"),
        (b"data:image/png;base64," + base64.b64encode(GOOD), "image/png"),
        (base64.b64encode(GOOD), "application/octet-stream"),
        (b'"' + base64.b64encode(GOOD) + b'"', "image/png"),
        (b"image=" + base64.b64encode(GOOD), "application/x-www-form-urlencoded"),
    ],
)
def test_a_picture_packed_into_text_is_answered_with_what_to_send(
    client: TestClient, data: bytes, media_type: str
) -> None:
    body = assert_problem(post(client, data, media_type), 415, "unsupported_media_type")
    assert "multipart/form-data" in str(body["detail"]) or "--data-binary" in str(body["detail"])
    form = client.post("/inspect", files={"image": base64.b64encode(GOOD)})
    assert_problem(form, 415, "unsupported_media_type")


def test_packed_bodies_are_refused_clearly(client: TestClient) -> None:
    for packing in ("gzip", "deflate, gzip", "x-unknown"):
        refused = post(client, gzip.compress(GOOD), headers={"Content-Encoding": packing})
        assert "Content-Encoding" in str(assert_problem(refused, 415, "unsupported_media_type")["detail"])
    assert post(client, GOOD, headers={"Content-Encoding": "identity"}).json()["verdict"] == "OK"
    part = b'--x\r\nContent-Disposition: form-data; name="image"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    packed = part + base64.b64encode(GOOD) + b"\r\n--x--\r\n"
    refused = post(client, packed, "multipart/form-data; boundary=x")
    assert "Content-Transfer-Encoding" in str(assert_problem(refused, 415, "unsupported_media_type")["detail"])
