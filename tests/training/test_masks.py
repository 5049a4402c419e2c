from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data.folders import DataError
from training.data.labels import LabelledImage
from training.data.masks import read_mask, resize_mask, unlikely_masks


def _mask(side: int, *squares: tuple[int, int, int]) -> np.ndarray:
    """White squares, each of a first row, a first column and pixels across."""
    mask = np.zeros((side, side), np.uint8)
    for row, column, across in squares:
        mask[row : row + across, column : column + across] = 255
    return mask


def _authors(mask: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(cv2.resize(mask, (size, size), interpolation=cv2.INTER_LINEAR) == 255)


@pytest.mark.parametrize("side", [64, 200, 256, 1000, 1024])
def test_defects_that_the_authors_see_are_theirs(side: int) -> None:
    """So that figures stay comparable with those that the authors' evaluation gives."""
    mask = _mask(side, (side // 8, side // 8, side // 4), (side // 2, side // 2, side // 3))
    found = resize_mask(mask, 64, 64)
    assert found.any()
    np.testing.assert_array_equal(found, _authors(mask, 64))


@pytest.mark.parametrize("side", [65, 90, 256, 640, 1000, 2500])
@pytest.mark.parametrize("across", [1, 2, 3])
def test_no_defect_vanishes(side: int, across: int) -> None:
    for place in range(40, 56, 3):
        found = resize_mask(_mask(side, (place, side - place, across)), 64, 64)
        row, column = ((at + across / 2) * 64 / side for at in (place, side - place))
        assert 1 <= found.sum() <= (across * 64 / side + 2) ** 2
        assert found[int(row), int(column)]


def test_a_small_defect_beside_a_large_one_does_not_vanish_either() -> None:
    found = resize_mask(_mask(1024, (100, 100, 400), (801, 801, 1)), 64, 64)
    assert found[50, 50]
    assert cv2.connectedComponents(found.astype(np.uint8))[0] == 3


def test_an_empty_mask_stays_empty_and_a_full_one_full() -> None:
    assert not resize_mask(_mask(1000), 64, 64).any()
    assert resize_mask(_mask(1000, (0, 0, 1000)), 64, 64).all()
    long = np.zeros((64, 6400), np.uint8)
    long[:, 3217] = 255
    assert resize_mask(long, 64, 64)[:, 32].all()


_DEFECT = np.zeros((64, 64), np.uint8)
_DEFECT[16:40, 8:24] = 1


def _transparent(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.dstack((colours, colours, colours, alpha))


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("labels.png", _DEFECT),
        ("two labels.png", _DEFECT + (np.arange(64) > 15) * _DEFECT),
        ("16 bit labels.png", _DEFECT.astype(np.uint16)),
        ("16 bit white.png", _DEFECT.astype(np.uint16) * 65535),
        ("16 bit.tif", _DEFECT.astype(np.uint16) * 65535),
        ("off-white.png", _DEFECT * 240),
        ("both whites.png", _DEFECT * 240 + (np.arange(64) > 15).astype(np.uint8) * _DEFECT * 15),
        ("grey.png", _DEFECT * 200),
        ("soft.JPG", _DEFECT * 254),
        ("red.png", np.dstack((0 * _DEFECT, 0 * _DEFECT, 128 * _DEFECT))),
        ("alpha.png", _transparent(0 * _DEFECT, 255 * _DEFECT)),
        ("white alpha.png", _transparent(0 * _DEFECT + 255, 255 * _DEFECT)),
        ("opaque.png", _transparent(255 * _DEFECT, 0 * _DEFECT + 255)),
    ],
)
def test_masks_as_people_save_them_mean_the_same(tmp_path: Path, name: str, pixels: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / name), pixels)
    assert np.array_equal(read_mask(tmp_path / name, 64, 64), _DEFECT == 1)


def _labelled(folder: Path, *masks: np.ndarray) -> list[LabelledImage]:
    images = []
    for number, mask in enumerate(masks):
        photo, file = folder / f"{number}.png", folder / f"{number}_mask.png"
        cv2.imwrite(str(photo), np.full((64, 64, 3), 100, np.uint8))
        cv2.imwrite(str(file), mask)
        images.append(LabelledImage(photo, "hole", file))
    return images


def test_usual_masks_have_nothing_said_of_them(tmp_path: Path) -> None:
    images = _labelled(tmp_path, 255 * _DEFECT, cv2.resize(255 * _DEFECT, (128, 128)))
    assert unlikely_masks([*images, LabelledImage(tmp_path / "0.png", "hole", None)]) == []


def test_an_empty_mask_is_named_and_so_are_only_empty_ones(tmp_path: Path) -> None:
    (said,) = unlikely_masks(_labelled(tmp_path, 255 * _DEFECT, 0 * _DEFECT))
    assert said.endswith("1_mask.png: no defect in it: 1.png counts in the image figures alone")
    assert unlikely_masks(_labelled(tmp_path, 0 * _DEFECT, 0 * _DEFECT))[-1].startswith("all 2 masks are empty")


def test_inverted_masks_are_refused_and_a_single_one_is_named(tmp_path: Path) -> None:
    inverted = 255 - 255 * _DEFECT
    with pytest.raises(DataError, match=r"2 of 3 masks are white on more than half of the image.*inverted"):
        unlikely_masks(_labelled(tmp_path, inverted, inverted, 255 * _DEFECT))
    (said,) = unlikely_masks(_labelled(tmp_path, inverted, 255 * _DEFECT, 255 * _DEFECT))
    assert "0_mask.png: 91% of it is defect: is it inverted?" in said


def test_a_mask_of_another_shape_than_its_photo_is_named(tmp_path: Path) -> None:
    (said,) = unlikely_masks(_labelled(tmp_path, cv2.resize(255 * _DEFECT, (80, 64))))
    assert "0_mask.png: 80x64 is another shape than 64x64 of 0.png: stretched" in said


def test_a_mask_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (image,) = _labelled(tmp_path, 255 * _DEFECT)
    for contents in (b"", b"no picture"):
        image.mask.write_bytes(contents)  # type: ignore[union-attr]
        with pytest.raises(DataError, match=r"0_mask\.png: not a readable mask"):
            unlikely_masks([image])
