"""What would end a training is found before its hours, and a bundle knows the photos that it came from."""

from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
import pytest
import torch
from bundles import make_bundle

from service.bundle.folder import Bundle
from service.bundle.manifest import TrainingRecord
from service.bundle.signing import new_keys
from training.bundling.held_out import photos_sha256, split_as_trained
from training.commands import run as main
from training.commands.photos import warn_of_darkness
from training.data.folders import DataError, good_images, split
from training.methods import METHODS
from training.methods.draem.method import DRAEM


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Four good photos, and a test split of one good part and one scratch."""
    photos = [f"train/good/{i}.png" for i in range(4)] + ["test/good/0.png", "test/scratch/0.png"]
    for name in (*photos, "ground_truth/scratch/0_mask.png"):
        file = tmp_path / "parts" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), np.full((64, 64), 255, np.uint8))
    return tmp_path / "parts"


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*rest: object) -> NoReturn:
        pytest.fail("the training began")

    monkeypatch.setitem(METHODS, "draem", replace(DRAEM, fit=begun))


def _refusal(parts: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    places = ["--models", str(parts.parent / "models"), "--run", str(parts.parent / "run")]
    assert main(["train", "--data", str(parts), *places, *flags]) == 1
    return capsys.readouterr().err


def test_names_that_no_bundle_may_have_are_refused(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "recipe 'M8 bolt': take letters, digits" in _refusal(parts, capsys, "--recipe", "M8 bolt")
    unnamed = parts.rename(parts.with_name("M6 bolt"))
    assert "recipe 'M6 bolt': take letters, digits" in _refusal(unnamed, capsys)
    unnamed.rename(parts)
    assert "version '../1': take letters" in _refusal(parts, capsys, "--recipe", "bolt", "--version", "../1")
    (parts.parent / "models" / "bolt" / "1").mkdir(parents=True)
    there = _refusal(parts, capsys, "--recipe", "bolt", "--version", "1")
    assert "bolt/1: this version exists already: choose another --version" in there
    meant = _refusal(parts, capsys, "--recipe", "bolt", "--version", "active")
    assert "bolt/active: a file of this name says what serves: choose another --version" in meant


def test_places_where_nothing_can_be_written_are_named_with_the_flag(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert f"{file}: no bundle can be written there: choose another --models" in _refusal(
        parts, capsys, "--recipe", "bolt", "--models", str(file)
    )
    for run in (file, file / "below"):
        said = _refusal(parts, capsys, "--recipe", "bolt", "--run", str(run))
        assert f"{run}: no run can be kept there" in said
        assert "choose another --run" in said


def test_no_advice_names_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = _refusal(tmp_path / "nowhere", capsys, "--recipe", "bolt")
    assert said == f"error: {tmp_path / 'nowhere'}: no such folder\n"


def test_regions_and_keys_are_read(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    region, key = tmp_path / "region.json", tmp_path / "key.pem"
    region.write_text("[]")
    assert "region.json" in _refusal(parts, capsys, "--recipe", "bolt", "--region", str(region))
    assert "key.pem" in _refusal(parts, capsys, "--recipe", "bolt", "--sign", str(key))
    new_keys(tmp_path / "private.pem", key)
    assert _refusal(parts, capsys, "--recipe", "bolt", "--sign", str(key)).startswith("error: ")


@pytest.mark.parametrize("broken", ["test/scratch/0.png", "ground_truth/scratch/0_mask.png"])
def test_the_whole_test_split_is_read_and_how_to_train_without_it_is_told(
    parts: Path, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    (parts / broken).write_bytes(b"no picture")
    error = _refusal(parts, capsys, "--recipe", "bolt")
    assert broken.rsplit("/", 1)[1] in error
    assert f"or train without an evaluation: --data {parts / 'train' / 'good'}" in error


@pytest.mark.parametrize("rate", ["0", "1", "5", "nan"])
def test_a_rate_is_a_share(parts: Path, capsys: pytest.CaptureFixture[str], rate: str) -> None:
    assert main(["train", "--data", str(parts), "--recipe", "bolt", "--false-reject-rate", rate]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --false-reject-rate {rate}: ")
    assert "above 0 below 1" in error


def test_photos_that_are_nearly_black_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warn_of_darkness(torch.full((2, 3, 8, 8), 15, dtype=torch.uint8), tmp_path)
    assert f"warning: {tmp_path}: no pixel is brighter than 15 of 255" in capsys.readouterr().err
    warn_of_darkness(torch.full((2, 3, 8, 8), 90, dtype=torch.uint8), tmp_path)
    assert capsys.readouterr().err == ""


def test_a_folder_of_other_photos_cannot_tell_what_was_held_out(parts: Path, tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "models")
    record = TrainingRecord(config={"holdout": 0.5, "seed": 3}, photos_sha256=photos_sha256(good_images(parts)))
    bundle = Bundle(made.path, made.manifest.model_copy(update={"training": record}))
    assert split_as_trained(bundle, parts) == split(good_images(parts), 0.5, 3)
    (parts / "train" / "good" / "3.png").unlink()
    with pytest.raises(DataError, match=r"holds other photos than .* was trained with"):
        split_as_trained(bundle, parts)
