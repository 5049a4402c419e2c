import numpy as np
import pytest

from training.evaluation.metrics import image_metrics, per_region_overlap, pixel_metrics


def test_image_auroc_counts_ordered_pairs() -> None:
    figures = image_metrics(np.array([0.1, 0.4, 0.35, 0.8], np.float32), np.array([False, False, True, True]))
    assert figures["image_auroc"] == pytest.approx(0.75)


def test_perfect_and_inverted_maps() -> None:
    masks = np.zeros((2, 16, 16), bool)
    masks[0, 2:5, 2:5] = True
    masks[1, 8:16, 8:16] = True
    perfect = pixel_metrics(masks.astype(np.float32), masks)
    assert perfect == {"pixel_auroc": 1.0, "pixel_ap": 1.0, "pro": 1.0}
    assert per_region_overlap(1 - masks.astype(np.float32), masks) == 0.0


def test_pro_weighs_small_regions_like_large_ones() -> None:
    """Missing one of two regions, whatever its size, halves the overlap at every false positive rate below 1."""
    masks = np.zeros((1, 32, 32), bool)
    masks[0, 0:2, 0:2] = True
    masks[0, 10:30, 10:30] = True
    for missed in (np.s_[0, 0:2, 0:2], np.s_[0, 10:30, 10:30]):
        maps = masks.astype(np.float32)
        maps[missed] = -1
        assert per_region_overlap(maps, masks) == pytest.approx(0.5, abs=0.01)


def test_pro_of_noise_is_the_diagonal() -> None:
    """Overlap equals the false positive rate for random maps: the area up to 0.3 is 0.15 of 1."""
    rng = np.random.default_rng(0)
    masks = np.zeros((8, 64, 64), bool)
    masks[:, 10:30, 10:40] = True
    assert per_region_overlap(rng.random(masks.shape).astype(np.float32), masks) == pytest.approx(0.15, abs=0.02)


def test_pro_of_a_constant_map_does_not_depend_on_pixel_order() -> None:
    masks = np.zeros((1, 8, 8), bool)
    masks[0, 0, 0] = True
    assert per_region_overlap(np.full((1, 8, 8), 0.3, np.float32), masks) == pytest.approx(0.15, abs=1e-6)
