import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bundles import make_bundle
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import CLAIMED, CPU, TINY, train

from training.loop.fit import learning_rate
from training.loop.memory import PeakMemory
from training.loop.precision import half_type
from training.loop.runs import (
    CHECKPOINT,
    STATS,
    TrainingError,
    claim_run,
    disk_full_named,
    peak_memory,
)
from training.methods.draem.config import TrainConfig, preset

# Trains the same tiny run in a process of its own, which the test may kill.
SCRIPT = """
import sys, torch
from dataclasses import replace
from pathlib import Path
from tiny_training import TINY, train
torch.set_num_threads(1)
train(replace(TINY, steps=int(sys.argv[2])), Path(sys.argv[1]), checkpoint_s=0.0)
"""


def _losses(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / STATS).read_text().splitlines()]


def test_same_seed_gives_the_same_losses_and_training_lowers_them(tmp_path: Path) -> None:
    runs = []
    for name, steps in (("a", 20), ("b", 20), ("longer", 100)):
        (tmp_path / name).mkdir()
        train(preset("quick", **{**_tiny(), "steps": steps}), tmp_path / name)
        runs.append(_losses(tmp_path / name))
    assert runs[0] == runs[1]
    assert runs[2][-1]["l2"] < 0.5 * runs[2][0]["l2"]


def _tiny() -> dict[str, object]:
    return {"size": 64, "reconstructive_width": 4, "discriminative_width": 4, "batch": 2, "bf16": False}


@pytest.mark.slow
def test_kill_minus_nine_then_resume_gives_the_losses_of_an_unbroken_run(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path])}
    for run in (whole, broken):
        run.mkdir()
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    subprocess.run([*command, str(whole), "40"], check=True, env=environment, capture_output=True)

    victim = subprocess.Popen([*command, str(broken), "40"], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (broken / CHECKPOINT).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert len(_losses(broken)) < 40, "the run ended before it could be killed"
    subprocess.run([*command, str(broken), "40"], check=True, env=environment, capture_output=True)

    assert _losses(broken) == _losses(whole)


@pytest.mark.slow
def test_sigterm_saves_a_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), "100000"], env=environment, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / CHECKPOINT).exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert "run the same command again to continue" in errors
    step = torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"]
    assert len(_losses(tmp_path)) == step


def _listed(folder: Path, *names: str) -> list[Path]:
    folder.mkdir()
    paths = [folder / name for name in names]
    for path in paths:
        path.write_bytes(b"photo")
    return paths


def test_a_run_is_not_continued_with_other_settings_photos_or_textures_but_may_get_another_score(
    tmp_path: Path,
) -> None:
    listed = _listed(tmp_path / "photos", "a.png", "b.png")
    _listed(tmp_path / "textures", "wood.jpg")
    run = tmp_path / "run"
    claim_run(run, CLAIMED, listed, tmp_path / "textures")
    (run / CHECKPOINT).touch()
    claim_run(run, {**CLAIMED, "score": "top"}, listed, tmp_path / "textures")
    with pytest.raises(TrainingError, match=r"other settings \(lr 0\.002 before, 1\.0 now\) that is not finished"):
        claim_run(run, {**CLAIMED, "lr": 1.0}, listed, tmp_path / "textures")
    with pytest.raises(TrainingError, match=r"other photos \(b\.png 5 before, nothing now\)"):
        claim_run(run, CLAIMED, listed[:1], tmp_path / "textures")
    with pytest.raises(TrainingError, match=r"other textures \(wood\.jpg 5 before, none now\)"):
        claim_run(run, CLAIMED, listed, None)


def test_a_finished_run_of_other_photos_is_put_aside_and_nothing_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, listed = tmp_path / "run", _listed(tmp_path / "photos", "a.png")
    for round_ in range(3):
        claim_run(run, {**CLAIMED, "lr": round_}, listed, None)
        for name in (CHECKPOINT, "results.json", "report.html"):
            (run / name).write_text(str(round_))
        (run / "events").mkdir()
    assert "other settings (lr 1 before, 2 now): the finished run is kept in" in capsys.readouterr().err
    kept = sorted((run / "earlier").iterdir())
    assert [(folder / "report.html").read_text() for folder in kept] == ["0", "1"]
    assert all((folder / "events").is_dir() for folder in kept)
    claim_run(run, {**CLAIMED, "lr": 2}, listed, None)
    assert (run / CHECKPOINT).read_text() == "2", "a run of the same goes on"


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    listed = _listed(tmp_path / "photos", "a.png")
    claim = """
import sys
from pathlib import Path
from tiny_training import CLAIMED
from training.loop.runs import claim_run
claim_run(Path(sys.argv[1]), CLAIMED, [], None)
print("claimed", flush=True)
sys.stdin.read()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path])}
    other = subprocess.Popen(
        [sys.executable, "-c", claim, str(tmp_path / "run")],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "claimed\n"
    with pytest.raises(TrainingError, match="another process trains here"):
        claim_run(tmp_path / "run", CLAIMED, listed, None)
    other.kill()
    other.communicate()
    claim_run(tmp_path / "run", CLAIMED, listed, None)


@pytest.mark.parametrize(
    ("has", "expected"),
    [({"avx512_bf16": True}, torch.bfloat16), ({"bf16": True}, torch.bfloat16), ({"avx512_f": True}, None), ({}, None)],
)
def test_bfloat16_only_where_the_cpu_has_it(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], expected: torch.dtype | None
) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert half_type(CPU) is expected
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert half_type(CPU) is None, "oneDNN held to AVX2 emulates it"


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match=r"checkpoint\.pt: not a readable checkpoint"):
        train(TINY, tmp_path)


def test_failed_checkpoint_write_names_the_file_and_keeps_the_last(tmp_path: Path) -> None:
    train(TINY, tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / f".{CHECKPOINT}.new").mkdir()
    with pytest.raises(TrainingError, match=r"checkpoint\.pt: cannot be written"):
        train(preset("quick", **{**_tiny(), "steps": 8}), tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


# TensorBoard writes its curves in a thread, which the full disk ends.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(("name", "room"), [(CHECKPOINT, 100_000), (CHECKPOINT, 2_000), (STATS, None)])
def test_full_disk_names_the_file_and_the_run_goes_on_once_there_is_room(
    tmp_path: Path, name: str, room: int | None
) -> None:
    """A limit on the size of files stands in for the full disk: writing fails in the middle of the file."""
    config = replace(TINY, steps=10)
    train(replace(config, steps=4), tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    if room is None:
        room = (tmp_path / STATS).stat().st_size + 10

    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, unlimited[1]))
    try:
        with pytest.raises(TrainingError, match=rf"{re.escape(name)}: cannot be written .*make room"):
            train(config, tmp_path, checkpoint_s=0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert not list(tmp_path.glob(".*"))

    train(config, tmp_path)
    assert len(_losses(tmp_path)) == 10


def test_full_disk_names_the_bundle_and_leaves_no_half_of_it(tmp_path: Path) -> None:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))
    try:
        with (
            pytest.raises(TrainingError, match=r"part: cannot be written \(File too large\): make room.*checkpoint"),
            disk_full_named(tmp_path / "part"),
        ):
            make_bundle(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert list((tmp_path / "part").iterdir()) == []


def test_peak_memory_is_recorded_and_never_falls(tmp_path: Path) -> None:
    train(TINY, tmp_path)
    peak = peak_memory(tmp_path)
    assert 50 < peak.resident < 100_000
    assert peak.gpu == 0
    assert PeakMemory(resident=10**9).or_more(CPU).resident == 10**9


def test_diverging_loss_stops_and_names_the_step(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step \d+: loss is not finite"):
        train(preset("quick", **{**_tiny(), "steps": 50, "lr": 1e30}), tmp_path)


def test_paper_schedule_drops_at_80_and_90_percent() -> None:
    rates = [learning_rate(TrainConfig(), step, 100) for step in (0, 79, 80, 89, 90, 99)]
    assert rates == pytest.approx([1e-4, 1e-4, 2e-5, 2e-5, 4e-6, 4e-6])


def test_schedule_of_the_papers_text_drops_at_epochs_400_and_600_of_700() -> None:
    rates = [learning_rate(preset("paper-text"), step, 700) for step in (0, 399, 400, 599, 600, 699)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])


def test_onecycle_rises_to_the_rate_and_falls_to_nothing() -> None:
    config = preset("quick", lr=1.0)
    rates = [learning_rate(config, step, 1000) for step in range(1000)]
    assert rates[0] < 0.02
    assert max(rates) == pytest.approx(1.0, abs=0.02)
    assert rates.index(max(rates)) == 100
    assert rates[-1] < 1e-4
    assert all(math.isfinite(rate) for rate in rates)


def _events(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return events


def test_tensorboard_has_losses_rate_and_samples_and_goes_on_after_a_stop(tmp_path: Path) -> None:
    train(TINY, tmp_path)
    train(replace(TINY, steps=9), tmp_path)
    events, lines = _events(tmp_path), _losses(tmp_path)
    assert set(events.Tags()["scalars"]) == {"loss/l2", "loss/ssim", "loss/focal", "lr"}
    curve = events.Scalars("loss/focal")
    assert [event.step for event in curve] == list(range(9))
    assert [event.value for event in curve] == pytest.approx([line["focal"] for line in lines])
    (image, *_) = events.Images("samples")
    # Two samples below each other; image, reconstruction, mask and map beside each other.
    assert (image.width, image.height) == (4 * 64, 2 * 64)
