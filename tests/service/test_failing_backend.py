"""A backend that fails, comes back or is late, and what a part is told meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from bundles import gray, png
from fakes import FakeBackend, brightness
from fastapi.testclient import TestClient
from replies import assert_problem, post
from stations import Faulty, after_inspection, built_in, opens, station

from service.backends.golden import GoldenError
from service.station.decode_pool import Codec
from service.station.inspector import Inspector

T = TypeVar("T")
GOOD, DOUBTFUL, BAD = png(gray(51)), png(gray(102)), png(gray(204))


def test_nan_from_the_backend_is_never_ok(models: Path) -> None:
    poisoned = threading.Event()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        maps, scores = brightness(images)
        if poisoned.is_set():
            maps[:, 0, 0] = np.nan
        return maps, scores

    with station(models, opens(FakeBackend(run))) as client:
        assert post(client, GOOD).json()["verdict"] == "OK"
        poisoned.set()
        assert_problem(post(client, GOOD), 500, "untrusted_result")
        poisoned.clear()
        assert post(client, GOOD).json()["verdict"] == "OK"


class _Meanwhile(Codec):
    """A pool in which `happens` comes before each drawing."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__(threads=1)
        self._happens = happens

    async def draw(self, work: Callable[[], T]) -> T:
        await asyncio.to_thread(self._happens)
        return await super().draw(work)


def test_a_picture_under_way_gets_no_verdict_from_a_recipe_that_fails_its_golden_images(models: Path) -> None:
    faulty = Faulty()

    def fail_golden_images() -> None:
        faulty.fault = lambda maps, scores: (maps, scores + 0.1)
        with pytest.raises(GoldenError):
            running.recipes.verify("part")

    with station(models, opens(faulty.backend)) as client:
        running = built_in(client)
        codec = _Meanwhile(fail_golden_images)
        running.inspector = Inspector(running.batcher, codec, running.metrics, running.recipes.shadows)
        assert_problem(post(client, GOOD, params={"heatmap": "overlay"}), 500, "untrusted_result")
        assert_problem(post(client, GOOD), 409, "recipe_not_ready")
        codec.close()


def test_backend_failure_is_503_and_readiness_goes_until_it_recovers(models: Path) -> None:
    broken = threading.Event()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if broken.is_set():
            raise RuntimeError("device lost")
        return brightness(images)

    with station(models, opens(FakeBackend(run))) as client:
        broken.set()
        assert_problem(post(client, GOOD), 503, "backend_failed")
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 200
        broken.clear()
        assert post(client, GOOD).json()["verdict"] == "OK"
        assert client.get("/readyz").status_code == 200


def test_a_result_after_its_deadline_is_504_not_a_late_200(models: Path) -> None:
    held, slow = threading.Event(), threading.Event()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if slow.is_set():
            held.wait(0.6)
        return brightness(images)

    backend = FakeBackend(run)
    with station(models, opens(backend)) as client:
        slow.set()
        assert_problem(post(client, GOOD, headers={"X-Deadline-Ms": "500"}), 504, "deadline_passed")
        # Now the station knows how slow it is: while it is busy it refuses at the door.
        until = backend.release = threading.Semaphore(0)
        busy = threading.Thread(target=post, args=(client, GOOD))
        backend.take_one([busy])
        body = assert_problem(post(client, GOOD, headers={"X-Deadline-Ms": "50"}), 429, "overloaded")
        assert int(str(body["retry_after_ms"])) >= 1
        until.release(1000)
        busy.join(300)


def test_an_unexpected_error_is_a_problem_without_details(client: TestClient) -> None:
    def bug() -> None:
        raise RuntimeError("secret of the implementation")

    with after_inspection(client, bug):
        response = post(client, GOOD)
    assert_problem(response, 500, "internal_error")
    assert "secret" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"
    assert post(client, GOOD).json()["verdict"] == "OK"


def test_a_picture_that_was_refused_may_be_sent_again(models: Path) -> None:
    broken = threading.Event()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if broken.is_set():
            raise RuntimeError("device lost")
        return brightness(images)

    camera = {"X-Camera-Id": "17"}
    with station(models, opens(FakeBackend(run))) as client:
        broken.set()
        assert_problem(post(client, GOOD, headers=camera), 503, "backend_failed")
        broken.clear()
        assert post(client, GOOD, headers=camera).json()["verdict"] == "OK"
        assert post(client, GOOD, headers=camera).json()["verdict"] == "NOT_INSPECTED"
