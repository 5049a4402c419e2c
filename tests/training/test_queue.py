import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import leave_note

from training.commands import run as main
from training.loop.jobs import INTERRUPTED, QueueError, QueueStoppedError, work_through

TINY = [
    *("--preset", "quick", "--size", "64", "--reconstructive-width", "4", "--discriminative-width", "4"),
    *("--batch", "2", "--max-textures", "4", "--steps"),
]


def test_a_failure_does_not_stop_the_rest_and_is_named(tmp_path: Path) -> None:
    jobs = {
        name: partial(leave_note, tmp_path / name, status)
        for name, status in (("a", 0), ("b", 1), ("c", -signal.SIGKILL), ("d", 0))
    }
    with pytest.raises(QueueError, match=r"2 of 4 recipes failed: b, c"):
        work_through(jobs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "d"]


def test_an_interrupted_job_stops_the_queue(tmp_path: Path) -> None:
    jobs = {name: partial(leave_note, tmp_path / name, status) for name, status in (("a", INTERRUPTED), ("b", 0))}
    with pytest.raises(QueueStoppedError, match="stopped at a, 1 of 2"):
        work_through(jobs)
    assert not (tmp_path / "b").exists()


def test_two_folders_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [tmp_path / place / "cap" for place in ("left", "right")]
    assert main(["queue", "--data", *map(str, folders)]) == 1
    assert "a second folder named cap" in capsys.readouterr().err


def _photos(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        part = np.full((64, 64, 3), 30, np.uint8)
        cv2.circle(part, (32, 32), 20, (150, 140, 130), -1)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.add(part, rng.integers(0, 12, part.shape, dtype=np.uint8)))
    return folder


@pytest.mark.slow
def test_queue_trains_what_is_left_and_goes_on_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM during the first of three, the second of which cannot be read; then the same command again."""
    cap, broken, nut = (_photos(tmp_path / name) for name in ("cap", "broken", "nut"))
    (broken / "3.png").write_bytes(b"not an image")
    runs, models = tmp_path / "runs", tmp_path / "models"
    # Of the recipes' processes too.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def command(*folders: Path) -> list[str]:
        flags = ["--runs", str(runs), "--models", str(models), "--most-escapes", "1", *TINY]
        return ["queue", *flags, "30", "--data", *map(str, folders)]

    interrupted = [sys.executable, "-m", "training", *command(cap, broken, nut)]
    with subprocess.Popen(interrupted, stderr=subprocess.PIPE, text=True) as queue:
        while not (runs / "cap" / "stats.jsonl").exists():
            assert queue.poll() is None
            time.sleep(0.01)
        queue.send_signal(signal.SIGTERM)
        _, errors = queue.communicate()
    assert queue.returncode == INTERRUPTED
    assert "stopped at cap, 1 of 3: the same command goes on there" in errors
    assert (runs / "cap" / "checkpoint.pt").exists()
    assert not (runs / "nut").exists()

    assert main(command(cap, broken, nut)) == 1
    errors = capfd.readouterr().err
    assert "3.png" in errors
    assert "1 of 3 recipes failed: broken" in errors
    for name in ("cap", "nut"):
        training = json.loads((runs / name / "results.json").read_text())["training"]
        assert training["processes"] == 1
        assert training["peak_memory_mib"]["resident"] > 50
        assert len((runs / name / "stats.jsonl").read_text().splitlines()) == 30

    assert main(command(cap)) == 0
    assert "cap: finished before" in capfd.readouterr().out
    assert len(list((models / "cap").iterdir())) == 1
