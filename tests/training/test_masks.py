import cv2
import numpy as np
import pytest

from training.data.masks import resize_mask


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
    found = resize_mask(mask, 64)
    assert found.any()
    np.testing.assert_array_equal(found, _authors(mask, 64))


@pytest.mark.parametrize("side", [65, 90, 256, 640, 1000, 2500])
@pytest.mark.parametrize("across", [1, 2, 3])
def test_no_defect_vanishes(side: int, across: int) -> None:
    for place in range(40, 56, 3):
        found = resize_mask(_mask(side, (place, side - place, across)), 64)
        row, column = ((at + across / 2) * 64 / side for at in (place, side - place))
        assert 1 <= found.sum() <= (across * 64 / side + 2) ** 2
        assert found[int(row), int(column)]


def test_a_small_defect_beside_a_large_one_does_not_vanish_either() -> None:
    found = resize_mask(_mask(1024, (100, 100, 400), (801, 801, 1)), 64)
    assert found[50, 50]
    assert cv2.connectedComponents(found.astype(np.uint8))[0] == 3


def test_an_empty_mask_stays_empty_and_a_full_one_full() -> None:
    assert not resize_mask(_mask(1000), 64).any()
    assert resize_mask(_mask(1000, (0, 0, 1000)), 64).all()
    long = np.zeros((64, 6400), np.uint8)
    long[:, 3217] = 255
    assert resize_mask(long, 64)[:, 32].all()
