from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from training.evaluation.metrics import pixel_metrics
from training.evaluation.pixels import PixelFigures


def _counted(maps: Iterable[NDArray[np.float32]], masks: Iterable[NDArray[np.bool_]]) -> dict[str, float]:
    pixels = PixelFigures()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        pixels.add(anomaly_map, mask)
    return pixel_metrics(pixels)


def _exact(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> dict[str, float]:
    """The definitions, one threshold for every distinct value of the map."""
    share, regions = np.zeros(masks.shape), 0
    for mask, out in zip(masks, share, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        out[mask] = 1 / np.bincount(labels.ravel())[labels[mask]]
        regions += count
    order = np.argsort(-maps.ravel(), kind="stable")
    last = np.append(np.diff(maps.ravel()[order]) != 0, True)
    x = np.append(0, np.cumsum(~masks.ravel()[order])[last] / (~masks).sum())
    y = np.append(0, np.cumsum(share.ravel()[order])[last] / regions)
    grid = np.unique(np.concatenate((x[x < 0.3], [0.3])))
    return {
        "pixel_auroc": float(roc_auc_score(masks.ravel(), maps.ravel())),
        "pixel_ap": float(average_precision_score(masks.ravel(), maps.ravel())),
        "pro": float(np.trapezoid(np.append(y[x < 0.3], np.interp(0.3, x, y)), np.append(x[x < 0.3], 0.3)) / grid[-1]),
    }


@pytest.mark.parametrize(("spread", "shift"), [(1.0, 1.0), (4.0, 2.0), (12.0, 6.0), (0.02, 0.01)])
def test_the_figures_are_those_of_sorted_pixels(spread: float, shift: float) -> None:
    """From maps that hardly vary to those of a softmax that saturates at 0 and 1, with ties."""
    rng = np.random.default_rng(0)
    masks = np.zeros((6, 64, 64), np.bool_)
    for mask in masks[:4]:
        for _ in range(3):
            top, left, height, width = rng.integers(0, 40, 2).tolist() + rng.integers(1, 24, 2).tolist()
            mask[top : top + height, left : left + width] = True
    logits = rng.normal(0, spread, masks.shape) + shift * masks
    maps = (1 / (1 + np.exp(-logits))).astype(np.float32)
    maps[5, :20] = 0
    expected = _exact(maps, masks)
    assert 0.5 < expected["pixel_auroc"] < 1
    found = _counted(maps, masks)
    assert found == {name: pytest.approx(value, abs=1e-4) for name, value in expected.items()}


def test_perfect_and_inverted_maps() -> None:
    masks = np.zeros((2, 16, 16), bool)
    masks[0, 2:5, 2:5] = True
    masks[1, 8:16, 8:16] = True
    assert _counted(masks.astype(np.float32), masks) == {"pixel_auroc": 1.0, "pixel_ap": 1.0, "pro": 1.0}
    inverted = _counted(1 - masks.astype(np.float32), masks)
    assert (inverted["pixel_auroc"], inverted["pro"]) == (0.0, 0.0)


def test_pro_weighs_small_regions_like_large_ones() -> None:
    """Missing one of two regions, whatever its size, halves the overlap at every false positive rate below 1."""
    masks = np.zeros((1, 32, 32), bool)
    masks[0, 0:2, 0:2] = True
    masks[0, 10:30, 10:30] = True
    for missed in (np.s_[0, 0:2, 0:2], np.s_[0, 10:30, 10:30]):
        maps = np.where(masks, 1, 0.5).astype(np.float32)
        maps[missed] = 0
        assert _counted(maps, masks)["pro"] == pytest.approx(0.5, abs=0.01)


def test_pro_of_a_constant_map_is_the_diagonal() -> None:
    """Overlap equals the false positive rate, whatever the order of the pixels: the area up to 0.3 is 0.15 of 1."""
    masks = np.zeros((1, 8, 8), bool)
    masks[0, 0, 0] = True
    assert _counted(np.full((1, 8, 8), 0.3, np.float32), masks)["pro"] == pytest.approx(0.15, abs=1e-6)


def test_without_a_defect_or_without_a_good_pixel_there_are_no_figures() -> None:
    maps = np.full((1, 8, 8), 0.3, np.float32)
    assert _counted(maps, np.zeros((1, 8, 8), np.bool_)) == {}
    assert _counted(maps, np.ones((1, 8, 8), np.bool_)) == {}
    assert _counted([], []) == {}
