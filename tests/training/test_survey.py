import shutil
from pathlib import Path

import cv2
import numpy as np

from training.data.labels import labelled_images
from training.data.survey import survey


def _write(path: Path, seed: int, shape: tuple[int, ...] = (32, 32, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def _dataset(root: Path) -> None:
    for number in range(6):
        _write(root / "train" / "good" / f"{number}.png", number)
    _write(root / "test" / "good" / "0.png", 10)
    for number in range(2):
        _write(root / "test" / "hole" / f"{number}.png", 20 + number)
        mask = root / "ground_truth" / "hole" / f"{number}_mask.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(mask), np.pad(np.full((8, 8), 255, np.uint8), 12))


def test_a_usual_folder_is_counted_and_nothing_is_said(tmp_path: Path) -> None:
    _dataset(tmp_path)
    found = survey(tmp_path, labelled_images(tmp_path))
    assert found.counts == ["good photos: 6: train/good (6)", "test photos: 1 good, 2 with defects: hole (2); 2 masks"]
    assert found.warnings == []
    assert survey(tmp_path / "train" / "good", []).counts == ["good photos: 6: . (6)"]


def test_pictures_that_are_not_read_are_counted(tmp_path: Path) -> None:
    _dataset(tmp_path)
    _write(tmp_path / "overview.png", 30)
    for number in range(2):
        _write(tmp_path / "train" / "scratch" / f"{number}.png", 40 + number)
        (tmp_path / "train" / "good" / f"{number}.heic").write_bytes(b"x")
    heic, unread = survey(tmp_path, labelled_images(tmp_path)).warnings
    assert heic == "2 files of the format .heic are not read: save them as PNG"
    assert unread == "3 images are neither trained on nor tested: . (1), train/scratch (2)"


def test_copies_are_named_and_test_photos_among_the_good_ones_too(tmp_path: Path) -> None:
    _dataset(tmp_path)
    good = tmp_path / "train" / "good"
    shutil.copy(good / "1.png", good / "again.png")
    shutil.copy(tmp_path / "test" / "good" / "0.png", good / "leaked.png")
    copies, leaked = survey(tmp_path, labelled_images(tmp_path)).warnings
    assert copies.startswith("1 good photos are copies of others")
    assert "1.png" in copies
    assert "again.png" in copies
    assert leaked.startswith("1 test photos are also among the good photos")
    assert "leaked.png" in leaked


def test_mixed_sizes_shapes_and_colours_are_said(tmp_path: Path) -> None:
    _dataset(tmp_path)
    good = tmp_path / "train" / "good"
    _write(good / "larger.png", 50, (64, 64, 3))
    (sizes,) = survey(tmp_path, labelled_images(tmp_path)).warnings
    assert sizes == "photos of 2 sizes: 32x32 (6), 64x64 (1); the line's camera has one"
    _write(good / "wide.png", 51, (32, 64, 3))
    _write(good / "grey.png", 52, (32, 32))
    shapes, colours = survey(tmp_path, labelled_images(tmp_path)).warnings
    assert "different shapes are all stretched to one shape: 32x32 (7)" in shapes
    assert colours == "8 colour and 1 grey photos are mixed: the line's camera sends one kind"


def test_defects_without_masks_are_counted(tmp_path: Path) -> None:
    _dataset(tmp_path)
    shutil.rmtree(tmp_path / "ground_truth")
    found = survey(tmp_path, labelled_images(tmp_path))
    assert found.counts[1].endswith("2 with defects: hole (2); 0 masks")
    (bare,) = found.warnings
    assert bare.startswith("2 defects have no mask and count in the image figures alone: ")


def test_photos_that_the_service_would_refuse_are_said_with_its_setting(tmp_path: Path) -> None:
    """A line scan: training reads it, its header tells."""
    _dataset(tmp_path)
    cv2.imwrite(str(tmp_path / "train" / "good" / "scan.png"), np.zeros((5000, 10_001), np.uint8))
    warnings = survey(tmp_path, labelled_images(tmp_path)).warnings
    assert any("1 photos have more than 50000000 pixels" in one and "MAX_PIXELS=50005000" in one for one in warnings)
