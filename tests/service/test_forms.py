"""Bodies of POST /inspect: forms, content types, images that were packed or are too large."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import gray, png, wait_until_loaded
from fastapi.testclient import TestClient
from replies import assert_problem, post

from service.app import create_app
from service.settings import Settings

GOOD, DOUBTFUL, BAD = png(gray(51)), png(gray(102)), png(gray(204))


def test_forms_without_the_field_or_broken_are_named(client: TestClient) -> None:
    body = assert_problem(client.post("/inspect", files={"photo": GOOD}), 400, "empty_image")
    assert "'image'" in str(body["detail"])
    broken = post(client, b"--x\r\nnonsense", "multipart/form-data; boundary=x")
    assert_problem(broken, 422, "invalid_request")
    assert_problem(post(client, b"", "multipart/form-data"), 422, "invalid_request")


def test_nothing_of_a_form_is_passed_over(client: TestClient) -> None:
    def form(picture: bytes, head: str = "") -> bytes:
        named = f'--b\r\nContent-Disposition: form-data; name="image"\r\n{head}\r\n'
        return named.encode() + picture + b"\r\n--b--\r\n"

    kind = "multipart/form-data; boundary=b"
    # What looks like its end inside of an image is none.
    assert post(client, form(GOOD + b"--b--"), kind).json()["verdict"] == "OK"
    assert post(client, form(GOOD, "Content-Encoding: identity\r\n"), kind).json()["verdict"] == "OK"
    two = assert_problem(post(client, form(GOOD) + form(BAD), kind), 422, "invalid_request")
    assert "behind the end of the multipart form" in str(two["detail"])
    packed = post(client, form(GOOD, "Content-Encoding: gzip\r\n"), kind)
    assert_problem(packed, 415, "unsupported_media_type")
    part = post(client, GOOD, headers={"Content-Range": "bytes 0-99/200"})
    assert "send the whole" in str(assert_problem(part, 422, "invalid_request")["detail"])


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
