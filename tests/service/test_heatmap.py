import numpy as np
import pytest
from bundles import gray

from service.images.cropping import PixelBox
from service.images.heatmap import MAX_SIDE, draw_map, draw_overlay, find_regions, preview


def _map(value: float = 0.0) -> np.ndarray:
    return np.full((64, 64), value, np.float32)


def test_a_good_part_never_glows() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(draw_overlay(picture, _map(0.24), 0.5), picture)


def test_the_same_value_looks_the_same_whatever_else_is_in_the_map() -> None:
    quiet, loud = _map(), _map()
    quiet[10, 10] = loud[10, 10] = 0.45
    loud[40:60, 40:60] = 1.0
    first, second = draw_overlay(gray(0), quiet, 0.5), draw_overlay(gray(0), loud, 0.5)
    np.testing.assert_array_equal(first[5:15, 5:15], second[5:15, 5:15])


def test_a_defect_is_visible_on_bright_and_dark_parts() -> None:
    anomaly_map = _map()
    anomaly_map[20:40, 20:40] = 0.6
    for value in (0, 255):
        change = np.abs(draw_overlay(gray(value), anomaly_map, 0.5).astype(int) - value).max(axis=2)
        assert change[25:35, 25:35].min() > 40
        assert change[:10].max() == 0


def test_large_pictures_are_scaled_down() -> None:
    assert preview(gray(0, 3000)[:1500]).shape == (MAX_SIDE // 2, MAX_SIDE, 3)
    assert preview(gray(0, 800)).shape == (800, 800, 3)


def test_regions_are_scaled_sorted_and_joined_diagonally() -> None:
    anomaly_map = _map()
    anomaly_map[0:2, 0:2] = 0.7
    anomaly_map[2, 2] = 0.9
    anomaly_map[30:40, 20:50] = 0.5
    large, small = find_regions(anomaly_map, 0.5, PixelBox(0, 0, 192, 128))
    assert (large.x, large.y, large.width, large.height, large.area) == (60, 60, 90, 20, 1800)
    assert (small.x, small.y, small.width, small.height, small.area) == (0, 0, 9, 6, 30)
    assert (large.peak, small.peak) == pytest.approx((0.5, 0.9))


def test_noise_gives_at_most_fifty_regions() -> None:
    noise = np.random.default_rng(0).random((256, 256)).astype(np.float32)
    assert len(find_regions(noise, 0.95, PixelBox(0, 0, 256, 256))) == 50


def test_the_map_is_linear_in_gray() -> None:
    np.testing.assert_array_equal(draw_map(np.array([[0.0, 0.5, 1.0]], np.float32)), [[0, 128, 255]])


@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.5, 0.9])
def test_the_threshold_itself_is_plainly_visible_wherever_it_lies(threshold: float) -> None:
    anomaly_map = _map()
    anomaly_map[10:50, 10:50] = threshold
    change = np.abs(draw_overlay(gray(128), anomaly_map, threshold).astype(int) - 128).max(axis=2)
    assert change[20:40, 20:40].min() > 30
    assert change[:8].max() == 0


def test_regions_below_the_minimum_area_are_left_out() -> None:
    anomaly_map = _map()
    anomaly_map[0:3, 0:3] = 0.7
    anomaly_map[30:40, 20:50] = 0.7
    assert [region.area for region in find_regions(anomaly_map, 0.5, PixelBox(0, 0, 64, 64), min_area=10)] == [300]
    assert len(find_regions(anomaly_map, 0.5, PixelBox(0, 0, 64, 64), min_area=9)) == 2
