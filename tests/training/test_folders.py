import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data.folders import DataError, counted, find_images, good_images, split
from training.data.masks import mask_pixels
from training.simulation.textures import load_textures


def _write(path: Path, value: int = 128, size: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((size, size, 3), value, np.uint8))


def test_plain_folder_and_mvtec_layout_are_understood(tmp_path: Path) -> None:
    _write(tmp_path / "plain" / "b.jpg")
    _write(tmp_path / "plain" / "a.PNG")
    _write(tmp_path / "plain" / "c.TIF")
    (tmp_path / "plain" / "notes.txt").write_text("x")
    assert [path.name for path in good_images(tmp_path / "plain")] == ["a.PNG", "b.jpg", "c.TIF"]
    _write(tmp_path / "mvtec" / "train" / "good" / "000.png")
    assert good_images(tmp_path / "mvtec") == [tmp_path / "mvtec" / "train" / "good" / "000.png"]


def test_photos_in_folders_below_are_read_and_counted(tmp_path: Path) -> None:
    for name in ("1.png", "day1/1.png", "day1/2.png", "day2/line a/3.png"):
        _write(tmp_path / name)
    found = good_images(tmp_path)
    assert len(found) == 4
    assert counted(tmp_path, found) == ". (1), day1 (2), day2/line a (1)"


@pytest.mark.parametrize("name", ["good", "Good", "OK", "ok", "Normal"])
def test_the_folder_of_good_photos_has_several_names(tmp_path: Path, name: str) -> None:
    for root in (tmp_path / "mvtec" / "Train", tmp_path / "two"):
        _write(root / name / "1.png")
        _write(root / "crack" / "2.png")
    assert good_images(tmp_path / "mvtec") == [tmp_path / "mvtec" / "Train" / name / "1.png"]
    assert good_images(tmp_path / "two") == [tmp_path / "two" / name / "1.png"]


@pytest.mark.parametrize("name", ["NG", "bad", "defects", "Anomaly", "test", "ground_truth", "rejected"])
def test_folders_that_may_not_be_of_good_parts_are_no_training_data(tmp_path: Path, name: str) -> None:
    for photo in ("1.png", f"{name}/2.png", f"day1/{name}/3.png"):
        _write(tmp_path / photo)
    with pytest.raises(DataError, match=rf"2 of 3 images lie in folders .*{name} \(1\).*a folder named good"):
        good_images(tmp_path)


def test_a_training_folder_without_good_photos_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "train" / "crack" / "1.png")
    with pytest.raises(DataError, match="train: no folder of good photos in it: name it good, ok or normal"):
        good_images(tmp_path)
    _write(tmp_path / "train" / "ok" / "1.png")
    _write(tmp_path / "train" / "Good" / "1.png")
    with pytest.raises(DataError, match="Good and ok mean the same: keep one"):
        good_images(tmp_path)


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="nowhere: no such folder"):
        good_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no images"):
        find_images(tmp_path)
    with pytest.raises(DataError, match=r"no images .*; good photos are looked for in train/good"):
        good_images(tmp_path)


def test_what_editors_and_file_servers_leave_behind_is_no_photo(tmp_path: Path) -> None:
    _write(tmp_path / "1.png")
    for stray in (".hidden.png", "._1.png", ".thumbnails/1.png", "@eaDir/1.png", "__MACOSX/1.png"):
        _write(tmp_path / stray)
    assert find_images(tmp_path) == [tmp_path / "1.png"]


def test_linked_folders_are_entered_once(tmp_path: Path) -> None:
    _write(tmp_path / "elsewhere" / "wood" / "1.png")
    (tmp_path / "textures").mkdir()
    (tmp_path / "textures" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "wood" / "round").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert find_images(tmp_path / "textures") == [tmp_path / "textures" / "linked" / "wood" / "1.png"]
    assert len(load_textures(tmp_path / "textures", 8, limit=0, seed=0)) == 1


def test_names_that_cannot_be_written_down_are_refused_before_the_training(tmp_path: Path) -> None:
    _write(tmp_path / "1.png")
    try:
        (tmp_path / os.fsdecode(b"teil_\xe4.png")).write_bytes((tmp_path / "1.png").read_bytes())
    except OSError:
        pytest.skip("this file system has UTF-8 names alone")
    with pytest.raises(DataError, match=r"1 of 2 names are not UTF-8 .*teil_\\xe4\.png: rename") as caught:
        good_images(tmp_path)
    str(caught.value).encode()


def test_links_that_lead_nowhere_and_pipes_are_named_and_nothing_waits_for_them(tmp_path: Path) -> None:
    _write(tmp_path / "1.png")
    (tmp_path / "2.png").symlink_to("gone.png")
    with pytest.raises(DataError, match=r"1 of 2 images are no files that are there, such as .*2\.png: remove"):
        good_images(tmp_path)
    (tmp_path / "2.png").unlink()
    os.mkfifo(tmp_path / "3.png")
    with pytest.raises(DataError, match=r"3\.png: remove"):
        good_images(tmp_path)
    with pytest.raises(DataError, match=r"3\.png: no file that is there"):
        mask_pixels(tmp_path / "3.png")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_the_split_leaves_photos_to_train_on_and_to_hold_out(share: float) -> None:
    parts = split([Path(f"{i}.png") for i in range(10)], share, seed=0)
    assert min(map(len, parts)) >= 2
    assert sum(map(len, parts)) == 10
