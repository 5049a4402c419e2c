"""A model that never ends, takes the memory or crashes the runtime ends a process, and not the service's."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from bundles import brightness_model, gray, make_bundle, png
from fakes import FakeBackend, wait_for
from processes import running_service
from replies import assert_problem, post
from stations import station

from service.assembly.parts import Parts
from service.backends.base import BackendError
from service.backends.trial import Trials
from service.bundle.folder import Bundle
from service.station.batching import Batcher
from service.station.recipes import RecipeStore

GOOD = png(gray(51))
ENDLESS = brightness_model(endless_above=-1.0)


def _children() -> list[int]:
    tasks = Path("/proc/self/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _trials(cache: Path, **more: float) -> Trials:
    options = {"run_s": 2.0, "open_s": 600.0} | more
    memory, threads = options.pop("memory_bytes", 1e12), int(options.pop("threads", 2))
    return Trials(
        "ort-cpu", threads=threads, precision="auto", cache=cache, memory_bytes=lambda: int(memory), **options
    )


@pytest.fixture
def trials(tmp_path: Path) -> Iterator[Trials]:
    trials = _trials(tmp_path / "cache")
    yield trials
    trials.close()


@pytest.fixture
def endless(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "models", "endless", model=ENDLESS)


def test_a_model_that_never_ends_is_refused_and_the_next_is_tried(
    tmp_path: Path, trials: Trials, endless: Bundle
) -> None:
    for _ in range(2):
        with pytest.raises(BackendError, match="endless/1: one run took too long: the model is not loaded"):
            trials.require_harmless(endless)
    trials.require_harmless(make_bundle(tmp_path / "models"))
    trials.rest()
    assert _children() == []


def test_a_model_that_never_ends_when_it_is_to_rest_is_refused(tmp_path: Path, trials: Trials) -> None:
    bundle = make_bundle(tmp_path / "models", model=brightness_model(endless_of_none=True))
    with pytest.raises(BackendError, match="one run took too long"):
        trials.require_harmless(bundle)


def test_a_model_that_takes_the_memory_is_refused(tmp_path: Path) -> None:
    greedy = make_bundle(tmp_path / "models", model=brightness_model(endless_above=-1.0, greedy=True))
    trials = _trials(tmp_path / "cache", run_s=600.0, memory_bytes=6e8)
    with pytest.raises(BackendError, match="it took more than 600 MB"):
        trials.require_harmless(greedy)
    trials.close()


def test_memory_that_other_plans_take_refuses_no_model(tmp_path: Path) -> None:
    most = iter([1, 10**12])
    trials = Trials("ort-cpu", threads=2, precision="auto", cache=tmp_path, memory_bytes=lambda: next(most))
    trials.require_harmless(make_bundle(tmp_path / "models"))
    trials.close()
    assert next(most, None) is None
    assert not (tmp_path / "plans").exists(), "the rule's plan was tried, and none measured"


def test_a_crash_of_the_runtime_is_refused(tmp_path: Path, endless: Bundle) -> None:
    trials = _trials(tmp_path / "cache", run_s=600.0)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            trials.require_harmless(endless)
        except BackendError as error:
            raised.append(error)

    trying = threading.Thread(target=run)
    trying.start()
    wait_for(_children)
    os.kill(_children()[0], signal.SIGSEGV)
    trying.join()
    assert "the runtime ended with signal 11" in str(raised[0])


def test_what_was_survived_is_tried_once(tmp_path: Path, trials: Trials) -> None:
    bundle = make_bundle(tmp_path / "models")
    trials.require_harmless(bundle)
    trials.rest()
    trials.require_harmless(bundle)
    assert _children() == []
    # Another model is another trial.
    trials.require_harmless(make_bundle(tmp_path / "models", version="2", label="other"))
    assert len(_children()) == 1


def test_what_hung_later_is_refused_by_the_next_process_too(tmp_path: Path, trials: Trials) -> None:
    bundle, other = (make_bundle(tmp_path / "models", name, label=name) for name in ("late", "part"))
    trials.require_harmless(bundle)
    trials.remember_endless(bundle)
    again = _trials(tmp_path / "cache", threads=1)
    with pytest.raises(BackendError, match=r"late/1: an image never came back .*remove (\S+\.endless)") as refused:
        again.require_harmless(bundle)
    trials.require_harmless(other)
    Path(str(refused.value).split("remove ")[1].split()[0]).unlink()
    trials.require_harmless(bundle)


@pytest.mark.parametrize("computes", [True, False])
def test_a_recipe_is_remembered_where_its_model_computes_for_ever(tmp_path: Path, computes: bool) -> None:
    bundle, told = make_bundle(tmp_path), list[Bundle]()
    batcher = Batcher(max_batch=1, queue_size=8)
    store = RecipeStore(tmp_path, batcher, lambda _: FakeBackend(), default=None, on_endless=told.append)
    store.load()
    model = store.get("part").model
    model.endless, model.computes_for_ever = True, computes
    store.take_out_endless()
    assert "never came back" in store.failed["part"]
    assert [one.path for one in told] == [bundle.path] * computes
    batcher.close()


def test_what_is_wrong_but_harmless_is_for_the_loading_to_say(tmp_path: Path, trials: Trials) -> None:
    trials.require_harmless(make_bundle(tmp_path / "models", golden_shift=0.1))
    trials.require_harmless(make_bundle(tmp_path / "models", version="2", model=b"no model"))


def test_a_bad_recipe_stops_no_other(models: Path, tmp_path: Path, endless: Bundle) -> None:
    make_bundle(models, "part", "2", model=ENDLESS)
    settings = {"backend": "ort-cpu", "cache_dir": tmp_path / "cache", "default_recipe": "part"}
    with station(models, Parts(trial_run_s=2.0), **settings) as client:
        client.post("/recipes/part/activate?version=1")
        assert post(client, GOOD, params={"recipe": "part"}).json()["verdict"] == "OK"
        refused = assert_problem(post(client, GOOD, params={"recipe": "endless"}), 409, "recipe_not_ready")
        assert "one run took too long" in str(refused["detail"])
        activated = client.post("/recipes/part/activate?version=2")
        assert_problem(activated, 409, "activation_failed")
        assert_problem(client.post("/recipes/part/shadow?version=2"), 409, "activation_failed")
        assert client.get("/livez").status_code == 200
        assert post(client, GOOD, params={"recipe": "part"}).json()["version"] == "1"


@pytest.mark.slow
def test_a_recipe_that_hangs_later_goes_alone_and_the_service_ends_in_time(models: Path, tmp_path: Path) -> None:
    make_bundle(models, "late", model=brightness_model(endless_above=210.0))
    settings = {"backend": "ort-cpu", "default_recipe": "part", "drain_grace_s": 1, "drain_timeout_s": 1}
    with running_service(models, tmp_path / "log", **settings) as (process, client):
        headers = {"Content-Type": "image/png", "X-Deadline-Ms": "600000"}

        def inspect(recipe: str, value: int = 51) -> httpx2.Response:
            return client.post(f"/inspect?recipe={recipe}", content=png(gray(value)), headers=headers)

        assert inspect("late").json()["verdict"] == "OK"
        assert_problem(inspect("late", 240), 503, "backend_failed")
        wait_for(lambda: inspect("late").status_code == 409)
        assert inspect("part").json()["verdict"] == "OK"
        assert client.get("/readyz").status_code == 200
        live = client.get("/livez")
        assert (live.status_code, "1 runs never came back" in live.json()["reason"]) == (503, True)
        assert "never came back from its model" in client.get("/state").json()["failed"]["late"]
        process.send_signal(signal.SIGTERM)
        process.wait(600)
