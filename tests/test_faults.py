"""Faults put in on purpose: whatever breaks, the answer has a verdict, it is not OK, and nothing is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from conftest import gray, make_bundle, png, wait_until_loaded
from fakes import FakeBackend, brightness
from fastapi.testclient import TestClient
from test_inspect import assert_problem, post
from test_oip import INFER, image_input

from service.app import create_app
from service.settings import Settings

GOOD = png(gray(51))
Output = tuple[np.ndarray, np.ndarray]


class Faulty:
    """The brightness backend until `fault` is set."""

    def __init__(self) -> None:
        self.fault: Callable[[np.ndarray, np.ndarray], Output] | None = None
        self.backend = FakeBackend(self.run)

    def run(self, images: np.ndarray) -> Output:
        maps, scores = brightness(images)
        return self.fault(maps, scores) if self.fault else (maps, scores)


@contextmanager
def _service(
    models: Path, monkeypatch: pytest.MonkeyPatch, backend: FakeBackend, **settings: Any
) -> Iterator[TestClient]:
    monkeypatch.setattr("service.app.open_backend", lambda bundle, choice, **options: backend)
    app = create_app(Settings(**({"records_dir": None, "models_dir": models} | settings)))
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        wait_until_loaded(client)
        yield client


def _raise(error: Exception) -> Output:
    raise error


def _with(maps: np.ndarray, value: float) -> np.ndarray:
    maps[:, 3, 3] = value
    return maps


FAULTS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], Any], str]] = {
    "NaN in the map": (lambda maps, scores: (_with(maps, np.nan), scores), "untrusted_result"),
    "infinity in the map": (lambda maps, scores: (_with(maps, np.inf), scores), "untrusted_result"),
    "negative map": (lambda maps, scores: (_with(maps, -0.1), scores), "untrusted_result"),
    "NaN score": (lambda maps, scores: (maps, scores * np.nan), "untrusted_result"),
    "score above one": (lambda maps, scores: (maps, scores + 1), "untrusted_result"),
    "map of another size": (lambda maps, scores: (maps[:, :-1], scores), "untrusted_result"),
    "map with a channel": (lambda maps, scores: (maps[..., None], scores), "untrusted_result"),
    "flat map": (lambda maps, scores: (maps.reshape(len(maps), -1), scores), "untrusted_result"),
    "no map": (lambda maps, scores: (maps[:0], scores), "backend_failed"),
    "no score": (lambda maps, scores: (maps, scores[:0]), "backend_failed"),
    "one map too many": (lambda maps, scores: (np.concatenate([maps, maps]), scores), "backend_failed"),
    "nothing": (lambda maps, scores: (None, None), "backend_failed"),
    "text as score": (lambda maps, scores: (maps, ["OK"] * len(scores)), "backend_failed"),
    "exception": (lambda maps, scores: _raise(RuntimeError("device lost")), "backend_failed"),
    "out of memory": (lambda maps, scores: _raise(MemoryError()), "backend_failed"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_no_fault_of_the_backend_is_ever_ok(models: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fault, code = FAULTS[name]
    status = {"untrusted_result": 500, "backend_failed": 503}[code]
    faulty = Faulty()
    with _service(models, monkeypatch, faulty.backend) as client:
        faulty.fault = fault
        for _ in range(2):
            assert_problem(post(client, GOOD), status, code)
        assert_problem(client.post(INFER, json=image_input(gray(51)[None])), status, code)
        (reply,) = client.post("/inspect/batch", files={"image": GOOD}).json()
        assert (reply["verdict"], reply["code"]) == ("NOT_INSPECTED", code)
        assert client.get("/counters").json() == {}
        faulty.fault = None
        assert post(client, GOOD).json()["verdict"] == "OK"


def test_a_version_activated_in_mid_request_does_not_change_the_answer(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(models, version="0", review=0.1, reject=0.15)
    backend = FakeBackend()
    with _service(models, monkeypatch, backend) as client:
        client.post("/recipes/part/activate", params={"version": "1"})
        held = backend.release = threading.Semaphore(0)
        while backend.started.acquire(blocking=False):
            pass
        replies: list[httpx2.Response] = []
        asking = threading.Thread(target=lambda: replies.append(post(client, GOOD)))
        asking.start()
        assert backend.started.acquire(timeout=30)
        # The picture is in the backend: the other version's golden images wait behind it.
        swapping = threading.Thread(target=lambda: replies.append(client.post("/recipes/part/activate?version=0")))
        swapping.start()
        while client.get("/state").json()["queue_depth"] == 0:
            assert swapping.is_alive()
        held.release(1000)
        asking.join(30)
        swapping.join(30)
        first, second = replies
        assert (first.json()["version"], first.json()["verdict"]) == ("1", "OK")
        assert second.json()["version"] == "0"
        reply = post(client, GOOD).json()
        assert (reply["version"], reply["verdict"]) == ("0", "NG")


@pytest.mark.parametrize("url", ["/inspect", "/inspect/batch", INFER])
def test_a_client_that_goes_away_takes_its_picture_out_of_the_queue(
    models: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    backend = FakeBackend()
    with _service(models, monkeypatch, backend) as client:
        held = backend.release = threading.Semaphore(0)
        while backend.started.acquire(blocking=False):
            pass
        first = threading.Thread(target=post, args=(client, GOOD))
        first.start()
        assert backend.started.acquire(timeout=30)
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
        first.join(30)
        assert post(client, GOOD).json()["verdict"] == "OK"
        # The picture that nobody waits for never reached the model, and is in no count.
        assert sum(backend.batches[before:]) == 1
        assert client.get("/counters").json()["part"]["total"] == 2
        assert "inspect_in_flight 0.0" in client.get("/metrics").text


def _leave_while_waiting(client: TestClient, url: str, request: httpx2.Request) -> list[dict[str, Any]]:
    """Send a whole request to the running app and go away as soon as its picture is in the queue."""
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


def test_a_device_that_hangs_is_told_and_every_request_is_answered(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FakeBackend()
    with _service(models, monkeypatch, backend) as client:
        backend.release = threading.Semaphore(0)
        assert_problem(post(client, GOOD, headers={"X-Deadline-Ms": "50"}), 504, "deadline_passed")
        monkeypatch.setattr("service.batching._HUNG_S", 0.0)
        assert_problem(post(client, GOOD), 503, "backend_failed")
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert "restart the service" in ready.json()["reason"]
        assert client.get("/livez").status_code == 200
        monkeypatch.undo()
        backend.release.release(1000)
        while client.get("/readyz").status_code != 200:
            pass
        assert post(client, GOOD).json()["verdict"] == "OK"


def test_a_backend_that_changes_its_mind_is_found_by_the_golden_check(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.app._CHECK_EVERY_S", 0.01)
    faulty = Faulty()
    with _service(models, monkeypatch, faulty.backend, golden_check_hours=1e-9) as client:
        checked = client.get("/state").json()["recipes"][0]["golden_checked"]
        while client.get("/state").json()["recipes"][0]["golden_checked"] == checked:
            pass
        faulty.fault = lambda maps, scores: (maps * 0.5, scores * 0.5)
        while client.get("/readyz").status_code == 200:
            pass
        assert "golden/0.png: score is off" in client.get("/readyz").json()["reason"]
        assert_problem(post(client, GOOD), 409, "recipe_not_ready")


def test_a_full_disk_costs_records_and_no_verdict(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = threading.Event()
    write = Path.write_bytes

    def write_bytes(path: Path, data: bytes) -> int:
        if full.is_set():
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    settings = {"records_dir": tmp_path / "records", "record_images": "all"}
    with _service(models, monkeypatch, FakeBackend(), **settings) as client:
        full.set()
        assert post(client, GOOD).json()["verdict"] == "OK"
        while "inspect_records_lost_total 1.0" not in client.get("/metrics").text:
            pass
        full.clear()
        kept = post(client, GOOD).json()["inspection_id"]
        while client.get(f"/inspections/{kept}").status_code != 200:
            pass
        assert [reply["inspection_id"] for reply in client.get("/inspections").json()] == [kept]
