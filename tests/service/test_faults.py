"""Faults put in on purpose: whatever breaks, the answer has a verdict, it is not OK, and nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from bundles import gray, make_bundle, png
from fakes import FakeBackend, brightness, wait_for
from fastapi.testclient import TestClient
from replies import assert_problem, post
from stations import Faulty, Output, opens, station
from tensors import INFER, image_input

from service.app import create_app
from service.assembly.parts import Parts
from service.backends.base import Backend
from service.settings import Settings

GOOD = png(gray(51))


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
def test_no_fault_of_the_backend_is_ever_ok(models: Path, name: str) -> None:
    fault, code = FAULTS[name]
    status = {"untrusted_result": 500, "backend_failed": 503}[code]
    faulty = Faulty()
    with station(models, opens(faulty.backend)) as client:
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


def test_a_version_activated_in_mid_request_does_not_change_the_answer(models: Path) -> None:
    make_bundle(models, version="0", review=0.1, reject=0.15)
    backend = FakeBackend()
    with station(models, opens(backend)) as client:
        client.post("/recipes/part/activate", params={"version": "1"})
        held = backend.release = threading.Semaphore(0)
        replies: list[httpx2.Response] = []
        asking = threading.Thread(target=lambda: replies.append(post(client, GOOD)))
        backend.take_one([asking])
        # The image is in the backend: the other version's golden images wait behind it.
        swapping = threading.Thread(target=lambda: replies.append(client.post("/recipes/part/activate?version=0")))
        swapping.start()
        wait_for(lambda: client.get("/state").json()["queue_depth"] or not swapping.is_alive())
        held.release(1000)
        asking.join(300)
        swapping.join(300)
        first, second = replies
        assert (first.json()["version"], first.json()["verdict"]) == ("1", "OK")
        assert second.json()["version"] == "0"
        reply = post(client, GOOD).json()
        assert (reply["version"], reply["verdict"]) == ("0", "NG")


def test_a_device_that_hangs_is_told_and_every_request_is_answered(models: Path) -> None:
    backend = FakeBackend()
    with station(models, opens(backend, hung_s=1.0)) as client:
        backend.release = threading.Semaphore(0)
        assert_problem(post(client, GOOD, headers={"X-Deadline-Ms": "500"}), 504, "deadline_passed")
        wait_for(lambda: client.get("/readyz").status_code == 503)
        assert_problem(post(client, GOOD), 503, "backend_failed")
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert "restart the service" in ready.json()["reason"]
        live = client.get("/livez")
        assert (live.status_code, live.json()["status"]) == (503, "not alive")
        assert "restart the service" in live.json()["reason"]
        backend.release.release(1000)
        wait_for(lambda: client.get("/readyz").status_code == 200)
        assert client.get("/livez").json() == {"status": "alive", "reason": None}
        assert post(client, GOOD).json()["verdict"] == "OK"


def test_a_lost_device_asks_for_a_new_process_unless_it_comes_back(models: Path) -> None:
    faulty = Faulty()
    with station(models, opens(faulty.backend, check_every_s=0.05)) as client:
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


def test_a_device_that_hangs_in_a_golden_image_does_not_hold_up_the_shutdown(models: Path) -> None:
    began, held, came_back = threading.Event(), threading.Event(), threading.Event()

    def run(images: np.ndarray) -> Output:
        began.set()
        held.wait(300)
        came_back.set()
        return brightness(images)

    settings = Settings(records_dir=None, models_dir=models)
    with TestClient(create_app(settings, opens(FakeBackend(run), leave_s=0.01))):
        assert began.wait(300)
    assert not came_back.is_set()
    held.set()


@pytest.mark.parametrize("broken", ["open_backend", "models_dir"])
def test_an_error_that_nobody_foresaw_leaves_no_station_loading_for_ever(models: Path, broken: str) -> None:
    def fail(*arguments: object, **options: object) -> Backend:
        raise TypeError("unexpected keyword argument")

    parts = Parts(open_backend=fail) if broken == "open_backend" else Parts()
    with station(models if broken == "open_backend" else models / "part" / "1" / "manifest.json", parts) as client:
        reason = client.get("/readyz").json()["reason"]
        assert ("TypeError: unexpected keyword" if broken == "open_backend" else "no recipe in") in reason


def test_a_camera_may_send_again_what_got_no_verdict_and_nothing_that_got_one(models: Path) -> None:
    faulty = Faulty()
    first, second, camera = png(gray(51)), png(gray(52)), {"X-Camera-Id": "a"}
    with station(models, opens(faulty.backend)) as client:
        assert post(client, first, headers=camera).json()["verdict"] == "OK"
        for fault in ("NaN in the map", "exception"):
            faulty.fault = FAULTS[fault][0]
            for picture in (first, second):
                assert post(client, picture, headers=camera).json()["verdict"] == "NOT_INSPECTED"
        faulty.fault = None
        # The image that was judged is still the last one that was, whatever failed since.
        reply = post(client, first, headers=camera).json()
        assert reply["faults"] == ["frozen: camera 'a' sent exactly this image before"]
        assert post(client, second, headers=camera).json()["verdict"] == "OK"


def test_a_frozen_camera_cannot_slip_through_with_two_pictures_at_once(models: Path) -> None:
    backend = FakeBackend()
    with station(models, opens(backend)) as client:
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
            thread.join(300)
        assert sorted(verdicts) == ["NOT_INSPECTED", "NOT_INSPECTED", "OK"]


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
    with station(models, opens(FakeBackend(), check_every_s=0.01), **settings) as client:
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
