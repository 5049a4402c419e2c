"""Golden checks while the service runs: they go on whatever happens, and take a wrong backend out of service."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bundles import gray, make_bundle, png
from fakes import FakeBackend, wait_for
from replies import assert_problem, post
from stations import Faulty, built_in, opens, station

from service.station.loading import Recipe
from service.station.recipes import RecipeStore


class _FirstCheckFails:
    """The store, but for a first golden check that cannot be made."""

    def __init__(self, store: RecipeStore) -> None:
        self._store = store
        self.checks: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def verify(self, name: str) -> Recipe:
        self.checks.append(name)
        if len(self.checks) == 1:
            raise RuntimeError("can't start new thread")
        return self._store.verify(name)


def test_golden_checks_go_on_after_one_that_could_not_be_made(models: Path) -> None:
    make_bundle(models, "sound")
    settings = {"golden_check_hours": 1e-9, "default_recipe": "part"}
    with station(models, opens(FakeBackend(), check_every_s=0.01), **settings) as client:
        running = built_in(client)
        store = _FirstCheckFails(running.recipes)
        running.recipes = store  # type: ignore[assignment]
        wait_for(lambda: store.checks)
        # As read_bundle would find it, were the service started again.
        (models / "part" / "1" / "golden" / "0.npy").write_bytes(b"")
        wait_for(lambda: client.get("/readyz").status_code != 200)
        assert "golden/0.npy: the golden map cannot be read" in client.get("/readyz").json()["reason"]
        before = len(store.checks)
        wait_for(lambda: store.checks[before:].count("sound") >= 2)


def test_a_backend_that_changes_its_mind_is_found_by_the_golden_check(models: Path) -> None:
    faulty = Faulty()
    with station(models, opens(faulty.backend, check_every_s=0.01), golden_check_hours=1e-9) as client:
        checked = client.get("/state").json()["recipes"][0]["golden_checked"]
        wait_for(lambda: client.get("/state").json()["recipes"][0]["golden_checked"] != checked)
        faulty.fault = lambda maps, scores: (maps * 0.5, scores * 0.5)
        wait_for(lambda: client.get("/readyz").status_code != 200)
        assert "golden/0.png: score is off" in client.get("/readyz").json()["reason"]
        assert_problem(post(client, png(gray(51))), 409, "recipe_not_ready")


def test_golden_checks_go_on_after_a_clock_that_was_ahead_is_put_right(models: Path) -> None:
    with station(models, opens(FakeBackend(), check_every_s=0.01), golden_check_hours=1e-9) as client:
        ready = built_in(client).recipes.ready
        ready["part"] = replace(ready["part"], checked=datetime(2099, 1, 1, tzinfo=UTC))
        wait_for(lambda: not client.get("/state").json()["recipes"][0]["golden_checked"].startswith("2099"))


def test_a_model_without_images_rests_once_and_the_next_image_wakes_it(models: Path) -> None:
    backend = FakeBackend()
    with station(models, opens(backend, check_every_s=0.01, idle_s=0.05)) as client:
        wait_for(lambda: backend.rested)
        time.sleep(0.1)  # ten more looks
        looks = backend.rested
        assert looks == 1
        assert post(client, png(gray(51))).json()["verdict"] == "OK"
        wait_for(lambda: backend.rested > looks)


class _Restless(FakeBackend):
    def rest(self) -> None:
        super().rest()
        raise RuntimeError("memory is in use")


def test_golden_checks_go_on_after_a_model_that_cannot_rest(models: Path) -> None:
    backend = _Restless()
    with station(models, opens(backend, check_every_s=0.01, idle_s=0.0), golden_check_hours=1e-9) as client:
        wait_for(lambda: backend.rested)
        checked = client.get("/state").json()["recipes"][0]["golden_checked"]
        wait_for(lambda: client.get("/state").json()["recipes"][0]["golden_checked"] != checked)
        assert client.get("/readyz").status_code == 200


def test_a_model_with_images_does_not_rest(models: Path) -> None:
    backend = FakeBackend()
    with station(models, opens(backend, check_every_s=0.01, idle_s=60.0)) as client:
        for _ in range(5):
            assert post(client, png(gray(51))).json()["verdict"] == "OK"
        assert not backend.rested
