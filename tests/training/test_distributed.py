import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import CPU, TINY, train

from training.loop.distributed import DeviceError, joined
from training.loop.fit import require_equal_shares, seed_of
from training.loop.runs import CHECKPOINT, STATS, TrainingError

# What each of two processes does: an unbroken run, one that only the second process is told to stop, and then resumed,
# and one in which both simulate the same samples.
SCRIPT = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
from tiny_training import TINY, train
from training.loop import distributed, fit
from training.loop.runs import InterruptedRunError
from training.simulation.simulator import AnomalySimulator

folder = Path(sys.argv[1])
config = replace(TINY, batch=4, steps=6)
draw = AnomalySimulator.batch

def save(name, network):
    torch.save(network.state_dict(), folder / f"{name}-{distributed.rank()}.pt")

with distributed.joined("cpu") as device:
    for name in ("whole", "broken", "same"):
        if distributed.rank() == 0:
            (folder / name).mkdir()
    distributed.wait()
    save("whole", train(config, folder / "whole"))

    drawn = []
    def draw_and_stop(simulator, count):
        drawn.append(count)
        if len(drawn) == 3 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(simulator, count)
    AnomalySimulator.batch = draw_and_stop
    try:
        train(config, folder / "broken")
    except InterruptedRunError:
        (folder / f"stopped-{distributed.rank()}-after-{len(drawn)}-of-{drawn[0]}").touch()
    AnomalySimulator.batch = draw
    save("broken", train(config, folder / "broken"))

    fit.seed_of = lambda seed, rank: seed
    save("same", train(config, folder / "same"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    (folder / "script.py").write_text(SCRIPT)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*command, str(folder / "script.py"), str(folder)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


def _parameters(folder: Path, name: str, rank: int) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / f"{name}-{rank}.pt", weights_only=True)
    # Without the running statistics: each process has its own, and only the first one's are kept.
    return {key: value for key, value in state.items() if "running" not in key}


def _losses(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / STATS).read_text().splitlines()]


@pytest.mark.slow
def test_both_processes_end_with_the_same_parameters(folder: Path) -> None:
    first, second = (_parameters(folder, "whole", rank) for rank in (0, 1))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_each_process_simulates_its_own_samples(folder: Path) -> None:
    assert _losses(folder / "whole") != _losses(folder / "same")


@pytest.mark.slow
def test_gradients_are_averaged(folder: Path, tmp_path: Path) -> None:
    """Two processes that draw the same two samples do what one process with these two samples does."""
    threads = torch.get_num_threads()
    # As many as each of the two has: sums in another order give other roundings, and Adam magnifies them.
    torch.set_num_threads(1)
    try:
        alone = train(TINY, tmp_path).state_dict()
    finally:
        torch.set_num_threads(threads)
    together = _parameters(folder, "same", 0)
    for key, value in together.items():
        torch.testing.assert_close(value, alone[key], rtol=1e-3, atol=1e-4, msg=key)
    for ours, theirs in zip(_losses(folder / "same"), _losses(tmp_path), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
def test_a_stop_of_one_process_stops_both_and_resumes_exactly(folder: Path) -> None:
    stopped = {path.name for path in folder.glob("stopped-*")}
    assert stopped == {"stopped-0-after-3-of-2", "stopped-1-after-3-of-2"}
    assert _losses(folder / "broken") == _losses(folder / "whole")
    whole, broken = (_parameters(folder, name, 1) for name in ("whole", "broken"))
    assert all(torch.equal(whole[key], broken[key]) for key in whole)


@pytest.mark.slow
def test_a_run_of_two_processes_is_not_continued_by_one(folder: Path) -> None:
    assert len(torch.load(folder / "whole" / CHECKPOINT, weights_only=True)["generators"]) == 2
    with pytest.raises(TrainingError, match=r"a run of 2 processes, not 1: .*--nproc-per-node 2"):
        train(TINY, folder / "whole")


def test_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(TrainingError, match="--batch 2 cannot be shared by 3 processes"):
        require_equal_shares(2, 3)
    require_equal_shares(6, 3)


def test_one_process_alone_keeps_the_seed_and_others_differ() -> None:
    assert seed_of(7, 0) == 7
    assert len({seed_of(seed, rank) for seed in range(20) for rank in range(8)}) == 160


def test_devices_that_are_not_there_are_named() -> None:
    with joined("cpu") as device:
        assert device == CPU
    with pytest.raises(DeviceError, match="--device gpu: not a device"), joined("gpu"):
        pass
    with pytest.raises(DeviceError, match="--device cuda:99: this machine has"), joined("cuda:99"):
        pass
