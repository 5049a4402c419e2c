"""How a CPU shares its threads among images; the backends here are as fast and as right as the test says."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from bundles import make_bundle
from fakes import FakeBackend, brightness
from numpy.typing import NDArray

from service.backends.base import Candidate
from service.backends.opening import open_backend
from service.backends.planning import open_planned
from service.backends.plans import Plan, PlanChoice, Timed, choose, others
from service.bundle.folder import Bundle

FP32 = Candidate("ort-cpu", "fp32")


class _Machine:
    """Opens fake backends: the seconds of a run by its plan, and the plans that give wrong maps."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = seconds
        self.wrong: set[str] = set()
        self.opened: list[str] = []
        self.backends: list[FakeBackend] = []

    def open(self, bundle: Bundle, candidate: Candidate, *, threads: int, plan: Plan) -> FakeBackend:
        self.opened.append(str(plan))

        def run(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            time.sleep(self.seconds[f"plan_{plan}"])
            maps, scores = brightness(images)
            return maps + np.float32(str(plan) in self.wrong), scores

        self.backends.append(FakeBackend(run, lanes=plan.lanes, max_batch_size=plan.batch))
        return self.backends[-1]


def _open(machine: _Machine, bundle: Bundle, cache: Path, plan: PlanChoice | None = "auto", threads: int = 4) -> Plan:
    opened = open_planned(bundle, FP32, threads=threads, cache=cache, plan=plan, max_batch=8, opener=machine.open)
    return Plan(lanes=opened.lanes, batch=opened.max_batch_size)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "models")


def test_the_best_plan_that_gives_the_golden_maps_is_taken_and_costs_the_next_start_nothing(
    bundle: Bundle, tmp_path: Path
) -> None:
    machine = _Machine(plan_2x1=0.02, plan_1x4=0.001, plan_4x1=0.0)
    machine.wrong.add("4x1")
    assert str(_open(machine, bundle, tmp_path)) == "1x4"
    assert machine.opened == ["2x1", "1x4", "4x1", "1x4"]
    assert [backend.closed for backend in machine.backends] == [True, True, True, False]
    (kept,) = (tmp_path / "plans").iterdir()
    planned = json.loads(kept.read_text())
    assert "map by 1.00e+00" in planned["timed"][3]["refused"]
    assert str(_open(machine, bundle, tmp_path)) == "1x4"
    assert machine.opened[4:] == ["1x4"]
    assert machine.backends[-1].batches == []
    # Under other circumstances a plan says nothing: these make the network so short that the rule's is kept.
    planned["key"]["cores"] = 64
    kept.write_text(json.dumps(planned))
    machine.seconds["plan_2x1"] = 0.0
    assert str(_open(machine, bundle, tmp_path)) == "2x1"
    assert machine.opened[5:] == ["2x1"]


@pytest.mark.parametrize("damage", ['{"chosen": {"lanes": 99, "batch": 1}}', ""])
def test_a_short_network_keeps_the_plan_of_the_rule_and_a_damaged_record_is_made_again(
    bundle: Bundle, tmp_path: Path, damage: str
) -> None:
    machine = _Machine(plan_2x1=0.0)
    _open(machine, bundle, tmp_path)
    (kept,) = (tmp_path / "plans").iterdir()
    whole = json.loads(kept.read_text())
    kept.write_text(damage)
    assert str(_open(machine, bundle, tmp_path)) == "2x1"
    again = json.loads(kept.read_text())
    assert (again["key"], again["chosen"], again["timed"]) == (whole["key"], {"lanes": 2, "batch": 1}, [])


def test_a_record_that_can_neither_be_read_nor_written_keeps_nobody_from_serving(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = _Machine(plan_2x1=0.0)
    _open(machine, bundle, tmp_path)
    (kept,) = (tmp_path / "plans").iterdir()
    kept.unlink()
    kept.mkdir()
    assert str(_open(machine, bundle, tmp_path)) == "2x1"
    assert f"{kept}: cannot be read (Is a directory): measuring again" in caplog.text
    assert "not kept, the next start measures again" in caplog.text


def test_by_hand_or_by_rule_nothing_is_measured(bundle: Bundle, tmp_path: Path) -> None:
    machine = _Machine()
    assert str(_open(machine, bundle, tmp_path, "4x1")) == "4x1"
    assert str(_open(machine, bundle, tmp_path, "1x8")) == "1x8"
    assert str(_open(machine, bundle, tmp_path, None)) == "2x1"
    assert str(_open(machine, bundle, tmp_path, None, threads=1)) == "1x1"
    found = open_planned(
        *(bundle, FP32), threads=4, cache=tmp_path, plan="auto", max_batch=8, measure=False, opener=machine.open
    )
    assert found.lanes == 2, "none was kept, and a service tries none itself"
    assert all(backend.batches == [] for backend in machine.backends)
    assert not (tmp_path / "plans").exists()


def test_a_service_that_finds_no_plan_of_a_trial_measures_none(bundle: Bundle, tmp_path: Path) -> None:
    open_backend(bundle, "ort-cpu", threads=2, cache=tmp_path, plan="auto").close()
    assert not (tmp_path / "plans").exists()


@pytest.mark.parametrize(
    ("threads", "tried"),
    [
        (1, ["1x4"]),
        (2, ["1x1", "1x4"]),
        (4, ["1x1", "1x4", "4x1"]),
        (8, ["1x1", "1x4", "4x1", "8x1"]),
        (16, ["1x1", "1x4", "4x1", "8x1"]),
    ],
)
def test_what_is_tried_beside_the_rule(threads: int, tried: list[str]) -> None:
    assert [str(plan) for plans in others(threads, 8) for plan in plans] == tried
    small = others(threads, 3)
    assert [str(plan) for plans in small for plan in plans] == [plan for plan in tried if plan != "1x4"]
    assert all(small), "a backend is opened for each list"


def _chosen(threads: int, waits: float) -> str:
    """What is chosen where `waits` is the share of one thread's time in which other threads of a run cannot help."""

    def per_s(plan: Plan) -> float:
        share = threads / plan.lanes
        return plan.lanes / (waits + (1 - waits) / share)

    rule = Plan.by_rule(threads)
    timed = [Timed(plan=plan, per_s=per_s(plan)) for plans in others(threads, 8) for plan in plans]
    alone_s = waits + (1 - waits) / threads
    return str(choose(Timed(plan=rule, per_s=per_s(rule)), timed, alone_s))


@pytest.mark.parametrize(
    ("waits", "by_threads"),
    [
        (0.02, {2: "2x1", 4: "2x1", 8: "2x1", 16: "2x1"}),
        (0.05, {2: "2x1", 4: "2x1", 8: "2x1", 16: "4x1"}),
        (0.1, {2: "2x1", 4: "2x1", 8: "4x1", 16: "8x1"}),
        (0.2, {2: "2x1", 4: "4x1", 8: "8x1", 16: "8x1"}),
    ],
)
def test_more_cores_run_more_images_side_by_side_where_a_run_waits_for_its_own_threads(
    waits: float, by_threads: dict[int, str]
) -> None:
    assert {threads: _chosen(threads, waits) for threads in by_threads} == by_threads


def _timed(**per_s: float) -> list[Timed]:
    return [Timed(plan=Plan.read(name.removeprefix("plan_")), per_s=value) for name, value in per_s.items()]


def test_a_batch_is_taken_where_it_is_faster() -> None:
    rule, *tried = _timed(plan_2x1=100, plan_1x1=90, plan_1x4=150)
    assert str(choose(rule, tried, alone_s=0.011)) == "1x4"


def test_what_two_measurements_of_one_plan_differ_by_changes_nothing() -> None:
    rule, *tried = _timed(plan_2x1=100, plan_1x1=109, plan_1x4=108)
    assert str(choose(rule, tried, alone_s=0.01)) == "2x1"


def test_images_a_second_are_worth_no_image_that_takes_too_long() -> None:
    rule, *tried = _timed(plan_2x1=100, plan_4x1=120, plan_8x1=150)
    assert str(choose(rule, tried, alone_s=0.0134)) == "8x1"
    assert str(choose(rule, tried, alone_s=0.0132)) == "4x1"
    assert str(choose(rule, tried, alone_s=0.0082)) == "2x1"


def test_a_plan_that_failed_is_not_taken() -> None:
    rule, *_ = _timed(plan_2x1=100)
    assert str(choose(rule, [Timed(plan=Plan(lanes=4, batch=1), refused="no memory")], alone_s=0.01)) == "2x1"
