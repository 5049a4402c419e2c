"""Faults put in on purpose: whatever breaks, the answer has a verdict, it is not OK, and nothing is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from functools import partialmethod
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from bundles import gray, make_bundle, png, wait_until_loaded
from fakes import FakeBackend, brightness, wait_for
from fastapi.testclient import TestClient
from replies import assert_problem, post
from tensors import INFER, image_input

from service.app import create_app
from service.settings import Settings
from service.station.batching import Batcher
from service.station.loading import Recipe
from service.station.recipes import RecipeStore

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
        assert set(client.get("/counters").json()["part"]["not_inspected"]) <= {"untrusted_result", "backend_failed"}
        assert client.get("/counters").json()["part"]["OK"] == 0
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
        replies: list[httpx2.Response] = []
        asking = threading.Thread(target=lambda: replies.append(post(client, GOOD)))
        backend.take_one([asking])
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
        first.join(30)
        assert post(client, GOOD).json()["verdict"] == "OK"
        # The picture that nobody waits for never reached the model, and is counted as what it is.
        assert sum(backend.batches[before:]) == 1
        counted = client.get("/counters").json()["part"]
        assert (counted["OK"], counted["not_inspected"]) == (2, {"client_disconnected": 1})
        assert "inspect_in_flight 0.0" in client.get("/metrics").text


def test_bodies_of_slow_senders_cannot_fill_the_memory(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 10_000
    asks, leave = threading.Semaphore(0), threading.Event()

    async def send(message: Any) -> None:
        pass

    with _service(models, monkeypatch, FakeBackend(), max_upload_bytes=limit, deadline_ms=600_000) as client:
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
                assert asks.acquire(timeout=30)
            refused = post(client, GOOD)
            assert "80000 bytes of pictures are under way" in str(assert_problem(refused, 429, "overloaded")["detail"])
            assert (refused.headers["retry-after"], refused.json()["retry_after_ms"]) == ("1", 1000)
            for url, options in (("/inspect/batch", {"files": {"image": GOOD}}), (INFER, {"json": {}})):
                assert_problem(client.post(url, **options), 429, "overloaded")
            # Without a declared length too, and whatever was refused counts no more.
            unknown = client.post("/inspect", content=iter([GOOD]), headers={"Content-Type": "image/png"})
            assert_problem(unknown, 429, "overloaded")
        finally:
            leave.set()
        for task in slow:
            task.result(30)
        assert post(client, GOOD).json()["verdict"] == "OK"


def test_a_body_counts_until_its_request_is_answered(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = gray(51).tobytes()
    query = "/inspect?width=64&height=64&pixel_format=RGB8"
    raw = {"content": pixels, "headers": {"Content-Type": "application/octet-stream"}}
    backend = FakeBackend()
    with _service(models, monkeypatch, backend, max_upload_bytes=len(pixels), deadline_ms=600_000) as client:
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
            thread.join(30)
        assert verdicts == ["OK"] * 8
        assert client.post(query, **raw).json()["verdict"] == "OK"


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
        monkeypatch.setattr("service.station.batching._HUNG_S", 0.0)
        assert_problem(post(client, GOOD), 503, "backend_failed")
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert "restart the service" in ready.json()["reason"]
        live = client.get("/livez")
        assert (live.status_code, live.json()["status"]) == (503, "not alive")
        assert "restart the service" in live.json()["reason"]
        monkeypatch.undo()
        backend.release.release(1000)
        wait_for(lambda: client.get("/readyz").status_code == 200)
        assert client.get("/livez").json() == {"status": "alive", "reason": None}
        assert post(client, GOOD).json()["verdict"] == "OK"


def test_a_lost_device_asks_for_a_new_process_unless_it_comes_back(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.app._CHECK_EVERY_S", 0.01)
    faulty = Faulty()
    with _service(models, monkeypatch, faulty.backend) as client:
        faulty.fault = FAULTS["exception"][0]
        assert_problem(post(client, GOOD), 503, "backend_failed")
        # Golden checks go on failing by themselves.
        wait_for(lambda: client.get("/livez").status_code == 503)
        assert "the backend failed 10 times in a row for part: restart" in client.get("/livez").json()["reason"]
        live = client.get("/v2/health/live")
        assert (live.status_code, live.json()["live"]) == (503, False)
        assert "the backend failed 10 times in a row" in live.json()["reason"]
        faulty.fault = None
        wait_for(lambda: client.get("/livez").status_code == 200)
        assert client.get("/readyz").status_code == 200


def test_a_device_that_hangs_in_a_golden_image_does_not_hold_up_the_shutdown(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, held, came_back = threading.Event(), threading.Event(), threading.Event()

    def run(images: np.ndarray) -> Output:
        began.set()
        held.wait(60)
        came_back.set()
        return brightness(images)

    monkeypatch.setattr("service.app.open_backend", lambda bundle, choice, **options: FakeBackend(run))
    monkeypatch.setattr(Batcher, "close", partialmethod(Batcher.close, hung_s=0.01))
    with TestClient(create_app(Settings(records_dir=None, models_dir=models))):
        assert began.wait(60)
    assert not came_back.is_set()
    held.set()


@pytest.mark.parametrize("broken", ["open_backend", "survey"])
def test_an_error_that_nobody_foresaw_leaves_no_station_loading_for_ever(
    models: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise TypeError("unexpected keyword argument")

    monkeypatch.setattr({"open_backend": "service.app.", "survey": "service.station.following."}[broken] + broken, fail)
    with TestClient(create_app(Settings(records_dir=None, models_dir=models))) as client:
        wait_until_loaded(client)
        reason = client.get("/readyz").json()["reason"]
        assert ("TypeError: unexpected keyword" if broken == "open_backend" else "no recipe in") in reason


def test_golden_checks_go_on_after_one_that_could_not_be_made(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.app._CHECK_EVERY_S", 0.01)
    make_bundle(models, "sound")
    checks: list[str] = []
    verify = RecipeStore.verify

    def first_fails(store: RecipeStore, name: str) -> Recipe:
        checks.append(name)
        if len(checks) == 1:
            raise RuntimeError("can't start new thread")
        return verify(store, name)

    monkeypatch.setattr(RecipeStore, "verify", first_fails)
    settings = {"golden_check_hours": 1e-9, "default_recipe": "part"}
    with _service(models, monkeypatch, FakeBackend(), **settings) as client:
        # As read_bundle would find it, were the service started again.
        (models / "part" / "1" / "golden" / "0.npy").write_bytes(b"")
        wait_for(lambda: client.get("/readyz").status_code != 200)
        assert "golden/0.npy: the golden map cannot be read" in client.get("/readyz").json()["reason"]
        before = len(checks)
        wait_for(lambda: checks[before:].count("sound") >= 2)


def test_a_camera_may_send_again_what_got_no_verdict_and_nothing_that_got_one(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = Faulty()
    first, second, camera = png(gray(51)), png(gray(52)), {"X-Camera-Id": "a"}
    with _service(models, monkeypatch, faulty.backend) as client:
        assert post(client, first, headers=camera).json()["verdict"] == "OK"
        for fault in ("NaN in the map", "exception"):
            faulty.fault = FAULTS[fault][0]
            for picture in (first, second):
                assert post(client, picture, headers=camera).json()["verdict"] == "NOT_INSPECTED"
        faulty.fault = None
        # The picture that was judged is still the last one that was, whatever failed since.
        reply = post(client, first, headers=camera).json()
        assert reply["faults"] == ["frozen: camera 'a' sent exactly this picture before"]
        assert post(client, second, headers=camera).json()["verdict"] == "OK"


def test_a_frozen_camera_cannot_slip_through_with_two_pictures_at_once(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FakeBackend()
    with _service(models, monkeypatch, backend) as client:
        held = backend.release = threading.Semaphore(0)
        verdicts: list[str] = []
        headers = {"X-Camera-Id": "a", "X-Deadline-Ms": "600000"}

        def ask() -> None:
            verdicts.append(post(client, GOOD, headers=headers).json()["verdict"])

        asking = [threading.Thread(target=ask) for _ in range(3)]
        backend.take_one(asking)
        # One is in the backend, two wait: all were decoded before one was judged.
        wait_for(lambda: client.get("/state").json()["queue_depth"] >= 2)
        held.release(1000)
        for thread in asking:
            thread.join(30)
        assert sorted(verdicts) == ["NOT_INSPECTED", "NOT_INSPECTED", "OK"]


def test_a_backend_that_changes_its_mind_is_found_by_the_golden_check(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.app._CHECK_EVERY_S", 0.01)
    faulty = Faulty()
    with _service(models, monkeypatch, faulty.backend, golden_check_hours=1e-9) as client:
        checked = client.get("/state").json()["recipes"][0]["golden_checked"]
        wait_for(lambda: client.get("/state").json()["recipes"][0]["golden_checked"] != checked)
        faulty.fault = lambda maps, scores: (maps * 0.5, scores * 0.5)
        wait_for(lambda: client.get("/readyz").status_code != 200)
        assert "golden/0.png: score is off" in client.get("/readyz").json()["reason"]
        assert_problem(post(client, GOOD), 409, "recipe_not_ready")


def test_golden_checks_go_on_after_a_clock_that_was_ahead_is_put_right(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dates = [datetime(2099, 1, 1, tzinfo=UTC)]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return dates.pop() if dates else datetime.now(tz)

    monkeypatch.setattr("service.app._CHECK_EVERY_S", 0.01)
    monkeypatch.setattr("service.station.recipes.datetime", Clock)
    with _service(models, monkeypatch, FakeBackend(), golden_check_hours=1e-9) as client:
        wait_for(lambda: not client.get("/state").json()["recipes"][0]["golden_checked"].startswith("2099"))


def test_a_full_disk_costs_pictures_and_neither_verdict_nor_record(
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
        bare = post(client, GOOD).json()
        assert bare["verdict"] == "OK"
        wait_for(lambda: "inspect_record_images_lost_total 1.0" in client.get("/metrics").text)
        assert client.get(f"/inspections/{bare['inspection_id']}/image").status_code == 404
        full.clear()
        kept = post(client, GOOD).json()["inspection_id"]
        wait_for(lambda: client.get(f"/inspections/{kept}/image").status_code == 200)
        found = [reply["inspection_id"] for reply in client.get("/inspections").json()]
        assert found == [kept, bare["inspection_id"]]
        assert "inspect_records_lost_total 0.0" in client.get("/metrics").text
