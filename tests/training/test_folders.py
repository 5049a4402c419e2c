from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data.folders import (
    DataError,
    find_images,
    good_images,
    labelled_images,
    load_images,
    read_mask,
    require_readable,
    split,
)
from training.simulation.textures import load_textures


def _write(path: Path, value: int = 128, size: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((size, size, 3), value, np.uint8))


def test_plain_folder_and_mvtec_layout_are_understood(tmp_path: Path) -> None:
    _write(tmp_path / "plain" / "b.jpg")
    _write(tmp_path / "plain" / "a.PNG")
    (tmp_path / "plain" / "notes.txt").write_text("x")
    assert [path.name for path in good_images(tmp_path / "plain")] == ["a.PNG", "b.jpg"]
    _write(tmp_path / "mvtec" / "train" / "good" / "000.png")
    assert good_images(tmp_path / "mvtec") == [tmp_path / "mvtec" / "train" / "good" / "000.png"]


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no images"):
        find_images(tmp_path)


def test_a_folder_of_folders_is_told_what_was_looked_for(tmp_path: Path) -> None:
    _write(tmp_path / "ok" / "1.png")
    with pytest.raises(DataError, match=r"no images .*: good photos are looked for in it and in its train/good"):
        good_images(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_the_split_leaves_photos_to_train_on_and_to_hold_out(share: float) -> None:
    parts = split([Path(f"{i}.png") for i in range(10)], share, seed=0)
    assert min(map(len, parts)) >= 2
    assert sum(map(len, parts)) == 10


def test_label_masks_count_where_they_are_not_zero(tmp_path: Path) -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[10:30, 10:30] = 1
    labels[40:50, 40:50] = 2
    cv2.imwrite(str(tmp_path / "labels.png"), labels)
    assert np.array_equal(read_mask(tmp_path / "labels.png", 64), labels > 0)


def test_masks_of_16_bits_and_jpeg_masks_count_like_others(tmp_path: Path) -> None:
    defect = np.zeros((64, 64), np.uint8)
    defect[16:40, 8:24] = 1
    cv2.imwrite(str(tmp_path / "labels.png"), defect.astype(np.uint16))
    cv2.imwrite(str(tmp_path / "white.png"), defect.astype(np.uint16) * 65535)
    cv2.imwrite(str(tmp_path / "soft.JPG"), defect * 254, [cv2.IMWRITE_JPEG_QUALITY, 75])
    for name in ("labels.png", "white.png", "soft.JPG"):
        assert np.array_equal(read_mask(tmp_path / name, 64), defect == 1), name


def test_names_in_capitals_and_folders_of_editors_are_no_obstacle(tmp_path: Path) -> None:
    for name in ("test/good/1.PNG", "test/crack/1.PNG", "ground_truth/crack/1_MASK.PNG"):
        _write(tmp_path / name, 255)
    for stray in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        _write(tmp_path / "test" / stray / "1.png", 255)
    crack, good = labelled_images(tmp_path)
    assert (crack.mask, good.mask) == (tmp_path / "ground_truth/crack/1_MASK.PNG", None)


def test_unreadable_textures_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        _write(tmp_path / f"{number}.png", 50 * number)
    (tmp_path / "1.png").write_bytes(b"text")
    assert load_textures(tmp_path, 8, limit=0, seed=0)[:, 0, 0, 0].tolist() == [0, 100]
    assert "1 of 3 textures cannot be read and are left out" in capsys.readouterr().err
    for number in (0, 2):
        (tmp_path / f"{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match="3 of 3 textures cannot be read"):
        load_textures(tmp_path, 8, limit=0, seed=0)


def test_masks_may_be_named_like_their_photos(tmp_path: Path) -> None:
    for name in ("good/1.png", "crack/1.bmp"):
        _write(tmp_path / "test" / name)
    _write(tmp_path / "ground_truth" / "crack" / "1.png", 255)
    assert labelled_images(tmp_path)[0].mask == tmp_path / "ground_truth" / "crack" / "1.png"


def test_a_test_split_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name in ("test/good/1.png", "test/crack/1.png", "ground_truth/crack/1_mask.png"):
        _write(tmp_path / name)
    images = labelled_images(tmp_path)
    require_readable(images, 32)
    for name in ("ground_truth/crack/1_mask.png", "test/crack/1.png"):
        (tmp_path / name).write_bytes(b"no picture")
        with pytest.raises(DataError, match=name.rsplit("/", 1)[-1]):
            require_readable(images, 32)


def test_images_become_rgb_tensors_of_one_size(tmp_path: Path) -> None:
    red = np.zeros((50, 30, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "red.png"), red)
    loaded = load_images([tmp_path / "red.png"], 32, "photos")
    assert loaded.shape == (1, 3, 32, 32)
    assert loaded[0, :, 0, 0].tolist() == [255, 0, 0]


def test_unreadable_images_are_all_named_at_once_with_the_remedy(tmp_path: Path) -> None:
    _write(tmp_path / "fine.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"3 of 4 good photos cannot be read: replace or remove them") as caught:
        load_images(find_images(tmp_path), 32, "good photos")
    assert all(name in str(caught.value) for name in ("broken.png", "empty.jpg", "lost.png"))
    assert "fine.png" not in str(caught.value)


def test_labelled_split_pairs_masks_and_needs_them(tmp_path: Path) -> None:
    _write(tmp_path / "test" / "good" / "000.png")
    _write(tmp_path / "test" / "hole" / "000.png")
    with pytest.raises(DataError, match=r"000_mask\.png: no ground truth"):
        labelled_images(tmp_path)
    _write(tmp_path / "ground_truth" / "hole" / "000_mask.png", 255)
    good, hole = labelled_images(tmp_path)
    assert (good.defect, good.mask, good.is_defect) == ("good", None, False)
    assert (hole.defect, hole.mask) == ("hole", tmp_path / "ground_truth" / "hole" / "000_mask.png")


def test_mask_loses_its_interpolated_border(tmp_path: Path) -> None:
    """As in the authors' evaluation: after the bilinear resize only pixels of exactly 255 stay."""
    mask = np.zeros((64, 64), np.uint8)
    mask[15:33, 15:33] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    half = read_mask(tmp_path / "mask.png", 32)
    assert half.sum() == 8 * 8
    assert half[8:16, 8:16].all()
