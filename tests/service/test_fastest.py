"""What `auto` measures and keeps; the backends here are as fast and as right as the test says."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from bundles import make_bundle
from fakes import FakeBackend, brightness
from numpy.typing import NDArray

from service.backends.base import Backend, BackendError, Candidate
from service.backends.cpu_runtimes import cpu_candidates
from service.backends.fastest import open_fastest
from service.backends.opening import open_backend
from service.backends.plans import Plan
from service.bundle.folder import Bundle

SLOW, FAST = Candidate("ort-cpu", "fp32"), Candidate("openvino", "fp32")


class _Machine:
    """Opens fake backends: how long each run takes, in seconds, and by how much its map is wrong."""

    def __init__(self, **speeds: float) -> None:
        self.speeds = {"ort-cpu": 0.02, "openvino": 0.0, **speeds}
        self.wrong: dict[str, float] = {}
        self.opened: list[str] = []

    def open(self, bundle: Bundle, candidate: Candidate, *, threads: int, plan: Plan) -> Backend:
        self.opened.append(str(candidate))

        def run(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            time.sleep(self.speeds[candidate.backend])
            maps, scores = brightness(images)
            return maps + np.float32(self.wrong.get(candidate.backend, 0.0)), scores

        backend = FakeBackend(run)
        backend.name = candidate.backend
        return backend


@pytest.fixture
def machine() -> _Machine:
    return _Machine()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "models")


def _open(machine: _Machine, bundle: Bundle, tmp_path: Path, threads: int = 2) -> str:
    cache = tmp_path / "cache"
    return open_fastest(bundle, [SLOW, FAST], threads=threads, cache=cache, opener=machine.open).name


def test_the_fastest_is_taken_and_remembered(machine: _Machine, bundle: Bundle, tmp_path: Path) -> None:
    assert _open(machine, bundle, tmp_path) == "openvino"
    assert machine.opened == ["ort-cpu fp32", "openvino fp32", "openvino fp32"]
    machine.speeds["openvino"] = 1.0
    assert _open(machine, bundle, tmp_path) == "openvino"
    assert machine.opened[3:] == ["openvino fp32"]
    (kept,) = (tmp_path / "cache" / "fastest").iterdir()
    choice = json.loads(kept.read_text())
    assert choice["chosen"] == "openvino fp32"
    assert choice["measured"][0]["ms"] >= 20 > choice["measured"][1]["ms"]


def test_fast_and_wrong_does_not_come_into_question(machine: _Machine, bundle: Bundle, tmp_path: Path) -> None:
    machine.wrong["openvino"] = 0.01
    assert _open(machine, bundle, tmp_path) == "ort-cpu"
    machine.wrong["ort-cpu"] = np.nan
    with pytest.raises(BackendError, match=r"no backend reproduces .* openvino fp32 refused \(.*map by 1\.00e-02"):
        _open(machine, bundle, tmp_path, threads=3)


def test_it_is_measured_again_for_other_threads_versions_and_models(
    machine: _Machine, bundle: Bundle, tmp_path: Path
) -> None:
    _open(machine, bundle, tmp_path)
    machine.speeds["openvino"] = 0.04
    assert _open(machine, bundle, tmp_path) == "openvino"
    assert _open(machine, bundle, tmp_path, threads=1) == "ort-cpu"
    machine.speeds["openvino"] = 0.0
    for kept in (tmp_path / "cache" / "fastest").iterdir():
        choice = json.loads(kept.read_text())
        choice["key"]["versions"] = dict.fromkeys(choice["key"]["versions"], "0.1")
        kept.write_text(json.dumps(choice))
    assert _open(machine, bundle, tmp_path, threads=1) == "openvino"
    machine.speeds["openvino"] = 0.04
    assert (
        _open(machine, make_bundle(tmp_path / "models", version="2", label="another"), tmp_path, threads=1) == "ort-cpu"
    )


def test_a_damaged_choice_is_measured_again(machine: _Machine, bundle: Bundle, tmp_path: Path) -> None:
    _open(machine, bundle, tmp_path)
    (kept,) = (tmp_path / "cache" / "fastest").iterdir()
    kept.write_text('{"chosen": "openvino int8"}')
    assert _open(machine, bundle, tmp_path) == "openvino"
    assert len(machine.opened) == 6


def test_a_cache_that_cannot_be_written_keeps_no_recipe_from_serving(
    machine: _Machine, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "fastest").symlink_to("/proc/nowhere")
    assert _open(machine, bundle, tmp_path) == "openvino"
    assert "not kept, the next start measures again" in caplog.text


def test_a_precision_that_was_asked_for_is_the_only_candidate_or_an_error(bundle: Bundle, tmp_path: Path) -> None:
    assert cpu_candidates(bundle, "ort-cpu", "auto") == [SLOW]
    with pytest.raises(BackendError, match=r"auto with precision int8 was asked for: .* has fp32"):
        open_backend(bundle, "auto", threads=1, precision="int8", cache=tmp_path)
    assert not (tmp_path / "cache").exists()
