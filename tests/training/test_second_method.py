"""A method of a few lines goes from photos to a verdict over HTTP: a folder and a row of the table are all it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from bundles import list_versions, wait_until_loaded
from fastapi.testclient import TestClient
from torch import Tensor, nn

from service.app import create_app
from service.bundle.folder import read_bundle
from service.settings import Settings
from training.commands import run as main
from training.commands.outcome import UNFIT
from training.data.demo_parts import write_dataset
from training.loop.runs import Run
from training.methods import METHODS
from training.methods.protocol import Method, TrainingSet
from training.settings import RecipeSettings, setting


@dataclass(frozen=True)
class MeanSettings(RecipeSettings):
    scale: float = setting(4.0, "distances are multiplied by it before they are cut at 1", 0.0)


class MeanPhoto(nn.Module):
    """The largest channel's distance to the mean of the good photos."""

    mean: Tensor

    def __init__(self, good: Tensor, scale: float) -> None:
        super().__init__()
        self.register_buffer("mean", good.float().mean(dim=0) / 255)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return (self.scale * (x - self.mean).abs().amax(dim=1)).clamp(0, 1)


def fit(settings: MeanSettings, data: TrainingSet, run: Run, device: torch.device) -> nn.Module:
    return MeanPhoto(data.good, settings.scale).eval()


MEAN = Method("mean", "the mean of the good photos", {"only": MeanSettings("only", size=64)}, fit)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Holds parts, models and run of a training with the method, which is in the table for these tests."""
    folder = tmp_path_factory.mktemp("mean")
    write_dataset(folder / "parts", good=12, test_good=4, defects_per_kind=1, seed=0)
    places = ["--models", str(folder / "models"), "--run", str(folder / "run"), "--version", "1", "--most-escapes", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "mean", MEAN)
        assert main(["train", "--method", "mean", "--data", str(folder / "parts"), *places, "--scale", "3"]) == 0
        yield folder


def test_from_photos_to_a_verdict(folder: Path) -> None:
    bundle = read_bundle(folder / "models" / "parts" / "1")
    assert bundle.manifest.method == "mean"
    config = bundle.manifest.training.config
    assert config is not None
    assert MEAN.recorded(config) == MeanSettings("only", size=64, scale=3.0)
    assert bundle.manifest.metrics is not None
    assert "report.html" in bundle.manifest.files
    assert json.loads((folder / "run" / "results.json").read_text())["method"] == "mean"

    settings = Settings(records_dir=None, models_dir=folder / "models", backend="ort-cpu")
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        wait_until_loaded(client)  # the golden gate let it through
        for golden in bundle.manifest.golden:
            picture = bundle.file(golden.image).read_bytes()
            reply = client.post("/inspect", content=picture, headers={"Content-Type": "image/png"}).json()
            assert abs(reply["score"] - golden.score) < 1e-4
            assert reply["verdict"] == bundle.manifest.thresholds.band(reply["score"])
        white = cv2.imencode(".png", np.full((64, 64, 3), 255, np.uint8))[1].tobytes()
        reply = client.post("/inspect", content=white, headers={"Content-Type": "image/png"}).json()
        assert reply["verdict"] == "NOT_INSPECTED"


def test_what_it_has_not_is_refused_by_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(folder / "parts")]
    assert main(["train", "--method", "mean", *data, "--textures", str(folder)]) == 1
    assert "mean learns without textures: leave --textures out" in capsys.readouterr().err
    assert main(["bench", "--method", "mean", "--preset", "only"]) == 1
    assert "mean has no network before it has seen photos" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "--method", "mean", *data, "--perlin-threshold", "1"])
    assert main(["train", "--method", "means", *data]) == 2
    assert f"error: --method means: choose {', '.join(METHODS)}" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_help_is_that_of_the_method(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--method", "mean", "--help"])
    shown = capsys.readouterr().out
    assert "--scale" in shown
    assert "--reconstructive-width" not in shown


def test_a_run_of_one_method_is_not_continued_by_another(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run" / "checkpoint.pt").touch()
    (folder / "run" / "results.json").unlink(missing_ok=True)
    assert main(["train", "--data", str(folder / "parts"), "--run", str(folder / "run")]) == 1
    assert "holds a run with other settings" in capsys.readouterr().err


class Blind(nn.Module):
    """Finds nothing anywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.1 * x.amax(dim=1)


def _blind_with(*seeds: int) -> Method[MeanSettings]:
    """The method of above, which learns nothing with these seeds."""

    def fit_by_seed(settings: MeanSettings, data: TrainingSet, run: Run, device: torch.device) -> nn.Module:
        return Blind() if settings.seed in seeds else fit(settings, data, run, device)

    return replace(MEAN, fit=fit_by_seed)


@pytest.mark.parametrize(
    ("blind", "flags", "versions"),
    [((0,), [], ["1", "1-seed1"]), ((0, 1), ["--retries", "2"], ["1", "1-seed1", "1-seed2"])],
)
def test_an_unfit_training_is_repeated_with_another_seed(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    blind: tuple[int, ...],
    flags: list[str],
    versions: list[str],
) -> None:
    monkeypatch.setitem(METHODS, "mean", _blind_with(*blind))
    places = ["--models", str(tmp_path / "models"), "--run", str(tmp_path / "run"), "--version", "1"]
    command = ["train", "--method", "mean", "--data", str(folder / "parts"), *places, "--most-escapes", "0.8", *flags]
    assert main(command) == 0
    made = tmp_path / "models" / "parts"
    assert sorted(path.name for path in made.iterdir()) == versions
    said = capsys.readouterr()
    assert f"bundle {made / versions[-1]}:" in said.out
    last = read_bundle(made / versions[-1])
    before = last.manifest.training.after or []
    assert [one.version for one in before] == versions[:-1]
    assert [one.seed for one in before] == list(range(len(versions) - 1))
    report = (last.path / "report.html").read_text()
    for one in before:
        assert f"version {one.version}, trained before with --seed {one.seed}, is unfit: {one.unfit}" in said.out
        assert f"version {one.version} (seed {one.seed}) is unfit for service" in report


def test_where_no_training_is_fit_the_best_is_the_newest_version(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(METHODS, "mean", _blind_with(1, 2))
    places = ["--models", str(tmp_path / "models"), "--run", str(tmp_path / "run"), "--version", "1"]
    command = ["train", "--method", "mean", "--data", str(folder / "parts"), *places]
    assert main([*command, "--most-escapes", "0", "--retries", "2"]) == UNFIT
    made = tmp_path / "models" / "parts"
    assert list_versions(tmp_path / "models") == {"parts": ["1", "1-seed1", "1-seed2", "1-best"]}
    assert f"bundle {made / '1-best'}:" in capsys.readouterr().out
    first, best = read_bundle(made / "1"), read_bundle(made / "1-best")
    assert best.manifest.thresholds == first.manifest.thresholds
    assert best.manifest.files == first.manifest.files
    assert [one.seed for one in best.manifest.training.after or []] == [0, 1, 2]


def test_a_recipe_that_misses_defects_ends_with_its_own_status(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--models", str(tmp_path / "models"), "--run", str(tmp_path / "run"), "--version", "1"]
    command = ["train", "--method", "mean", "--data", str(folder / "parts"), *places]
    assert main([*command, "--most-escapes", "0", "--retries", "0"]) == 3
    said = capsys.readouterr()
    assert "pass as OK (95 % interval" in said.out.splitlines()[-1]
    assert said.err.splitlines()[-1].startswith("UNFIT: ")
    why = read_bundle(tmp_path / "models" / "parts" / "1").manifest.unfit
    assert why is not None
    assert "rendered defects pass as OK" in why
