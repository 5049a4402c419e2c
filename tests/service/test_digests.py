"""What a client says of its bytes, in every header that there is for that, against the bytes that came."""

from __future__ import annotations

import base64
import hashlib

import pytest
from bundles import gray, png
from fastapi.testclient import TestClient
from replies import assert_problem, post
from tensors import INFER, bytes_input

GOOD, BAD = png(gray(51)), png(gray(204))


def _base64(algorithm: str, body: bytes) -> str:
    return base64.b64encode(hashlib.new(algorithm, body).digest()).decode()


def _headers(body: bytes) -> list[dict[str, str]]:
    sha256, sha512, md5 = (_base64(name, body) for name in ("sha256", "sha512", "md5"))
    return [
        {"Content-MD5": md5},
        {"Digest": f"SHA-256={sha256}"},
        {"Digest": f"unixsum=30637, sha={_base64('sha1', body)}"},
        {"Content-Digest": f"sha-256=:{sha256}:"},
        {"content-digest": f"sha-512=:{sha512}:;x=1, sha-256=:{sha256}:"},
        {"Repr-Digest": f"sha-512=:{sha512}:"},
    ]


def test_the_bytes_that_are_judged_are_those_of_the_digest(client: TestClient) -> None:
    for right, wrong in zip(_headers(GOOD), _headers(BAD), strict=True):
        assert post(client, GOOD, headers=right).json()["verdict"] == "OK"
        refused = assert_problem(post(client, GOOD, headers=wrong), 400, "digest_mismatch")
        assert str(refused["detail"]).lower().startswith(next(iter(wrong)).lower())
    # One of two is enough to be wrong.
    both = {"Content-MD5": _base64("md5", GOOD), "Digest": f"sha-256={_base64('sha256', BAD)}"}
    assert_problem(post(client, GOOD, headers=both), 400, "digest_mismatch")
    large = GOOD + bytes(100_000)
    assert_problem(post(client, large, headers=_headers(GOOD)[0]), 400, "digest_mismatch")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-MD5": "not base64"},
        {"Content-MD5": hashlib.md5(GOOD, usedforsecurity=False).hexdigest()},
        {"Digest": "crc32c=AAAA"},
        {"Content-Digest": f"sha-256={_base64('sha256', GOOD)}"},
        {"Content-Digest": ""},
        {"Trailer": "Expires, Content-Digest"},
    ],
    ids=str,
)
def test_a_digest_that_nobody_can_compare_is_refused(client: TestClient, headers: dict[str, str]) -> None:
    refused = assert_problem(post(client, GOOD, headers=headers), 422, "invalid_request")
    assert next(iter(headers)).lower() in str(refused["detail"]).lower()


def test_forms_and_tensors_have_digests_too(client: TestClient) -> None:
    def form(body: bytes, *more: str) -> bytes:
        head = [
            'Content-Disposition: form-data; name="image"; filename="a.png"',
            f"Content-MD5: {_base64('md5', body)}",
        ]
        return b"--b\r\n" + "\r\n".join([*head, *more]).encode() + b"\r\n\r\n" + GOOD + b"\r\n--b--\r\n"

    kind = "multipart/form-data; boundary=b"
    assert post(client, form(GOOD), kind).json()["verdict"] == "OK"
    refused = assert_problem(post(client, form(BAD), kind), 400, "digest_mismatch")
    assert "part 1 of the form" in str(refused["detail"])
    twice = post(client, form(GOOD, 'content-disposition: form-data; name="recipe"'), kind)
    assert "'content-disposition' twice" in str(assert_problem(twice, 422, "invalid_request")["detail"])
    wrong = client.post(INFER, json=bytes_input([GOOD]), headers={"Content-MD5": _base64("md5", GOOD)})
    assert_problem(wrong, 400, "digest_mismatch")


def test_a_body_of_another_type_is_not_read(client: TestClient) -> None:
    """A form of a website, which browsers send without asking, names one of three types."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "image/png"):
        headers = {"Content-Type": kind}
        refused = assert_problem(client.post(INFER, content=b"{}", headers=headers), 415, "unsupported_media_type")
        assert "send application/json or application/octet-stream; a bare image file goes to" in str(refused["detail"])
        limits = client.patch("/recipes/part/limits", content=b"{}", headers=headers)
        assert "send application/json" in str(assert_problem(limits, 415, "unsupported_media_type")["detail"])
    assert_problem(client.patch("/recipes/part/limits", content=b"{}"), 415, "unsupported_media_type")
    two = [("Content-Type", "application/json"), ("Content-Type", "text/plain")]
    assert_problem(client.post(INFER, content=b"{}", headers=two), 422, "invalid_request")
    # As Triton's client sends it.
    assert_problem(client.post(INFER, content=b"{}"), 422, "invalid_request")
