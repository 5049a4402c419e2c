from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data.folders import DataError
from training.data.labels import labelled_images


def _write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), np.full((16, 16), 255, np.uint8))


def test_labelled_split_pairs_masks(tmp_path: Path) -> None:
    _write(tmp_path, "test/good/000.png", "test/hole/000.png", "ground_truth/hole/000_mask.png")
    good, hole = labelled_images(tmp_path)
    assert (good.defect, good.mask, good.is_defect) == ("good", None, False)
    assert (hole.defect, hole.mask) == ("hole", tmp_path / "ground_truth" / "hole" / "000_mask.png")


@pytest.mark.parametrize(
    "mask",
    [
        "ground_truth/hole/000_mask.png",
        "ground_truth/hole/000.png",
        "ground_truth/hole/000_gt.png",
        "ground_truth/hole/000.bmp",
        "Ground_Truth/Hole/000_MASK.PNG",
        "gt/hole/000-mask.tif",
        "masks/hole/000_label.png",
        "masks/000.png",
        "mask/000_mask.png",
        "test/ground_truth/hole/000.png",
        "test/hole/000_mask.png",
        "test/hole/masks/000.png",
    ],
)
def test_masks_are_found_where_people_put_them(tmp_path: Path, mask: str) -> None:
    _write(tmp_path, "test/good/000.png", "test/hole/000.png", mask)
    _, hole = labelled_images(tmp_path)
    assert hole.path == tmp_path / "test" / "hole" / "000.png"
    assert hole.mask == tmp_path / mask


def test_defects_without_masks_are_defects(tmp_path: Path) -> None:
    _write(tmp_path, "test/good/000.png", "test/hole/000.png", "test/hole/001.png", "ground_truth/hole/001.png")
    _, first, second = labelled_images(tmp_path)
    assert (first.is_defect, first.mask) == (True, None)
    assert second.mask == tmp_path / "ground_truth" / "hole" / "001.png"


@pytest.mark.parametrize("good", ["good", "Good", "OK", "normal"])
def test_good_parts_have_several_names(tmp_path: Path, good: str) -> None:
    _write(tmp_path, f"Test/{good}/000.png", "Test/hole/000.png")
    assert sorted(image.defect for image in labelled_images(tmp_path)) == ["good", "hole"]


def test_names_in_capitals_and_folders_of_editors_are_no_obstacle(tmp_path: Path) -> None:
    _write(tmp_path, "test/good/1.PNG", "test/crack/1.PNG", "ground_truth/crack/1_MASK.PNG")
    for stray in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        _write(tmp_path / "test", f"{stray}/1.png")
    crack, good = labelled_images(tmp_path)
    assert (crack.mask, good.mask) == (tmp_path / "ground_truth/crack/1_MASK.PNG", None)


def test_photos_in_folders_of_a_kind_find_the_mask_of_their_folder(tmp_path: Path) -> None:
    _write(tmp_path, "test/good/1.png")
    for day in ("a", "b"):
        _write(tmp_path, f"test/crack/{day}/1.png", f"ground_truth/crack/{day}/1_mask.png")
    found = {image.path.parent.name: image.mask for image in labelled_images(tmp_path) if image.is_defect}
    assert found == {day: tmp_path / "ground_truth" / "crack" / day / "1_mask.png" for day in ("a", "b")}


def test_a_mask_that_could_be_of_two_photos_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, "test/good/1.png", "test/crack/1.png", "test/hole/1.png", "masks/1.png")
    with pytest.raises(DataError, match=r"masks/1\.png: would be the mask of .*crack/1\.png and of .*hole/1\.png"):
        labelled_images(tmp_path)


def test_two_masks_of_one_photo_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, "test/good/1.png", "test/crack/1.png", "ground_truth/crack/1.bmp", "ground_truth/crack/1.jpg")
    with pytest.raises(DataError, match=r"which is its mask, .*1\.bmp or .*1\.jpg\? Keep one"):
        labelled_images(tmp_path)


def test_good_parts_and_defects_are_both_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no test/ folder"):
        labelled_images(tmp_path)
    _write(tmp_path, "test/good/1.png")
    with pytest.raises(DataError, match="needs good parts in test/good and defects beside it"):
        labelled_images(tmp_path)
