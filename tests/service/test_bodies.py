"""Bodies of requests under way: what they hold in memory, and clients that go away."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
from bundles import gray, png
from fakes import FakeBackend, wait_for
from fastapi.testclient import TestClient
from replies import assert_problem, post
from stations import opens, station
from tensors import INFER, image_input

GOOD = png(gray(51))


@pytest.mark.parametrize("url", ["/inspect", "/inspect/batch", INFER])
def test_a_client_that_goes_away_takes_its_picture_out_of_the_queue(models: Path, url: str) -> None:
    backend = FakeBackend()
    with station(models, opens(backend)) as client:
        held = backend.release = threading.Semaphore(0)
        first = threading.Thread(target=post, args=(client, GOOD))
        backend.take_one([first])
        before = len(backend.batches)
        request = {
            "/inspect": httpx2.Request("POST", "http://x/", content=GOOD, headers={"Content-Type": "image/png"}),
            "/inspect/batch": httpx2.Request("POST", "http://x/", files={"image": GOOD}),
            INFER: httpx2.Request("POST", "http://x/", json=image_input(gray(51)[None])),
        }[url]
        sent = _leave_while_waiting(client, url, request)
        assert [message["status"] for message in sent if message["type"] == "http.response.start"] == [400]
        assert b"client_disconnected" in sent[-1]["body"]
        held.release(1000)
        first.join(300)
        assert post(client, GOOD).json()["verdict"] == "OK"
        # The image that nobody waits for never reached the model, and is counted as what it is.
        assert sum(backend.batches[before:]) == 1
        counted = client.get("/counters").json()["part"]
        assert (counted["OK"], counted["not_inspected"]) == (2, {"client_disconnected": 1})
        assert "inspect_in_flight 0.0" in client.get("/metrics").text


def test_bodies_of_slow_senders_cannot_fill_the_memory(models: Path) -> None:
    limit = 10_000
    asks, leave = threading.Semaphore(0), threading.Event()

    async def send(message: Any) -> None:
        pass

    with station(models, opens(FakeBackend()), max_upload_bytes=limit, deadline_ms=600_000) as client:
        assert client.portal is not None

        def trickle() -> Any:
            messages = [{"type": "http.request", "body": bytes(limit), "more_body": True}]

            async def receive() -> dict[str, Any]:
                if messages:
                    return messages.pop()
                asks.release()
                while not leave.is_set():
                    await asyncio.sleep(0.001)
                return {"type": "http.disconnect"}

            scope = _scope(client, "POST", "/inspect", [(b"Content-Type", b"image/png")])
            return client.portal.start_task_soon(client.app, scope, receive, send)

        slow = [trickle() for _ in range(8)]
        try:
            for _ in slow:
                assert asks.acquire(timeout=300)
            refused = post(client, GOOD)
            assert "80000 bytes of images are under way" in str(assert_problem(refused, 429, "overloaded")["detail"])
            assert (refused.headers["retry-after"], refused.json()["retry_after_ms"]) == ("1", 1000)
            for url, options in (("/inspect/batch", {"files": {"image": GOOD}}), (INFER, {"json": {}})):
                assert_problem(client.post(url, **options), 429, "overloaded")
            # Without a declared length too, and whatever was refused counts no more.
            unknown = client.post("/inspect", content=iter([GOOD]), headers={"Content-Type": "image/png"})
            assert_problem(unknown, 429, "overloaded")
        finally:
            leave.set()
        for task in slow:
            task.result(300)
        assert post(client, GOOD).json()["verdict"] == "OK"


def test_a_body_counts_until_its_request_is_answered(models: Path) -> None:
    pixels = gray(51).tobytes()
    query = "/inspect?width=64&height=64&pixel_format=RGB8"
    raw = {"content": pixels, "headers": {"Content-Type": "application/octet-stream"}}
    backend = FakeBackend()
    with station(models, opens(backend), max_upload_bytes=len(pixels), deadline_ms=600_000) as client:
        held = backend.release = threading.Semaphore(0)
        verdicts: list[str] = []
        asking = [
            threading.Thread(target=lambda: verdicts.append(client.post(query, **raw).json()["verdict"]))
            for _ in range(8)
        ]
        backend.take_one(asking)
        # One is in the backend, alone.
        wait_for(lambda: client.get("/state").json()["queue_depth"] >= 7)
        assert_problem(client.post(query, **raw), 429, "overloaded")
        held.release(1000)
        for thread in asking:
            thread.join(300)
        assert verdicts == ["OK"] * 8
        assert client.post(query, **raw).json()["verdict"] == "OK"


def _leave_while_waiting(client: TestClient, url: str, request: httpx2.Request) -> list[dict[str, Any]]:
    """Send a whole request to the running app and go away as soon as its image is in the queue."""
    messages = [{"type": "http.request", "body": request.read(), "more_body": False}]
    sent: list[dict[str, Any]] = []
    assert client.portal is not None

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        while '"queue_depth":0' in (await _get(client, "/state")):
            await asyncio.sleep(0.001)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    client.portal.call(client.app, _scope(client, "POST", url, request.headers.raw), receive, send)
    return sent


async def _get(client: TestClient, path: str) -> str:
    parts: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        parts.append(message.get("body", b""))

    await client.app(_scope(client, "GET", path, []), receive, send)
    return b"".join(parts).decode()


def _scope(client: TestClient, method: str, path: str, headers: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(k.lower(), v) for k, v in headers],
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
        "state": dict(client.app_state),
    }
