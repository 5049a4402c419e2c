"""The short way of an image and FastAPI's own give the same answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import gray, png, wait_until_loaded
from fastapi.testclient import TestClient
from httpx2 import Response

from service.app import create_app
from service.http.shortcut import Shortcut
from service.settings import Settings

GOOD = png(gray(51))
OF_THIS_REQUEST = ("inspection_id", "request_id", "timings_ms")


@pytest.fixture
def long_way(models: Path) -> Iterator[TestClient]:
    """The same service without the short way."""
    app = create_app(Settings(records_dir=None, models_dir=models, backend="ort-cpu"))
    with_it = len(app.user_middleware)
    app.user_middleware = [one for one in app.user_middleware if one.cls is not Shortcut]
    assert len(app.user_middleware) == with_it - 1
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as running:
        wait_until_loaded(running)
        yield running


REQUESTS: list[tuple[str, dict[str, str], bytes]] = [
    ("/inspect", {}, GOOD),
    ("/inspect?recipe=part&heatmap=map", {"X-Part-Id": "A 17", "X-Deadline-Ms": "9000"}, GOOD),
    ("/inspect/", {}, GOOD),
    ("/inspect?recipe=", {}, GOOD),
    ("/inspect?recipe=none", {}, GOOD),
    ("/inspect?recipe=part&recipe=part", {}, GOOD),
    ("/inspect?heatmap=red&width=0&height=many", {"X-Deadline-Ms": "soon", "X-Trigger-Id": ""}, GOOD),
    ("/inspect?width=0&heatmap=red", {"X-Lot-Id": "", "X-Deadline-Ms": "soon"}, GOOD),
    ("/inspect?width=64", {}, GOOD),
    ("/inspect?width=64&height=64&pixel_format=Mono8", {}, bytes([51]) * 64 * 64),
    ("/inspect", {"X-Part-Id": "x" * 129}, GOOD),
    ("/inspect", {"X-Part-Id": "", "X-Camera-Id": "", "X-Lot-Id": " "}, GOOD),
    ("/inspect", {"X-Part-Id": "", "X-Camera-Id": "", "X-Lot-Id": " "}, GOOD),
    ("/inspect", {"X-Deadline": "1"}, GOOD),
    ("/inspect", {"Content-Encoding": "gzip"}, GOOD),
    ("/inspect", {"Accept": "image/png"}, GOOD),
    ("/inspect", {"Content-Type": "text/plain"}, GOOD),
    ("/inspect", {}, b"no picture"),
    ("/inspect", {}, b""),
    ("/inspect/batch", {}, GOOD),
    ("/inspect/batch?heatmap=map", {}, GOOD),
]


def test_both_ways_answer_alike(client: TestClient, long_way: TestClient) -> None:
    for url, headers, body in REQUESTS:
        sent = {"content-type": "application/octet-stream"} | {name.lower(): value for name, value in headers.items()}
        short, long = (
            one.post(url, content=body, headers={name: value.encode() for name, value in sent.items()})
            for one in (client, long_way)
        )
        assert _answer(short) == _answer(long), (url, headers)


def _answer(response: Response) -> tuple[object, ...]:
    named = [response.headers.get(name) for name in ("content-type", "x-verdict", "x-part-id", "x-score")]
    if response.headers["content-type"] == "image/png":
        return response.status_code, *named, response.content
    reply = {name: value for name, value in response.json().items() if name not in OF_THIS_REQUEST}
    return response.status_code, *named, reply


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused_as_everywhere(client: TestClient, method: str) -> None:
    answer = client.request(method, "/inspect")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
