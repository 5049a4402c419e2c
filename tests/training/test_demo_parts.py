from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from training.data.demo_parts import KINDS, SIZE, render_defect, render_good, write_dataset


def _grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)).astype(np.bool_)


def test_a_seed_gives_one_part_and_another_seed_another() -> None:
    first, again, other = (render_good(np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


def test_a_good_part_is_bright_metal_on_a_dark_belt_with_a_dark_bore() -> None:
    image = render_good(np.random.default_rng(0)).astype(float).mean(axis=2)
    y, x = np.indices(image.shape)
    radius = np.hypot(x - SIZE / 2, y - SIZE / 2)
    face = image[(radius > 56) & (radius < 62)].mean()
    assert face > 2 * image[radius > 118].mean()
    assert face > 3 * image[radius < 20].mean()


@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_changes_its_mask_and_nothing_else(kind: str) -> None:
    """The same seed gives the good twin: same pose, light, turning marks and sensor noise."""
    for seed in range(3):
        good = render_good(np.random.default_rng(seed)).astype(int)
        image, mask = render_defect(np.random.default_rng(seed), kind)
        difference = np.abs(image - good).max(axis=2)
        assert 30 <= mask.sum() < 0.1 * SIZE * SIZE
        assert difference[mask].mean() > 8
        assert np.mean(difference[~_grown(mask, 2)] > 8) == 0
        assert difference[~_grown(mask, 12)].max() <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_is_deterministic(kind: str) -> None:
    (image, mask), (image_again, mask_again) = (render_defect(np.random.default_rng(7), kind) for _ in range(2))
    np.testing.assert_array_equal(image, image_again)
    np.testing.assert_array_equal(mask, mask_again)


def test_the_mask_of_a_missing_hole_is_about_a_bolt_hole() -> None:
    for seed in range(4):
        _, mask = render_defect(np.random.default_rng(seed), "missing_hole")
        count, _, stats, centroids = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        assert count == 2  # the background and one hole
        assert stats[1, cv2.CC_STAT_WIDTH] == pytest.approx(24, abs=5)
        assert np.hypot(*(centroids[1] - SIZE / 2)) == pytest.approx(77, abs=7)


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'rust'.*scratch"):
        render_defect(np.random.default_rng(0), "rust")


def test_a_dataset_has_the_layout_of_mvtec_ad(tmp_path: Path) -> None:
    write_dataset(tmp_path, good=2, test_good=1, defects_per_kind=1, seed=5)
    written = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")}
    expected = {"train/good/000.png", "train/good/001.png", "test/good/000.png"}
    for kind in KINDS:
        expected |= {f"test/{kind}/000.png", f"ground_truth/{kind}/000_mask.png"}
    assert written == expected
    first = cv2.imread(str(tmp_path / "train/good/000.png"))
    assert first is not None
    np.testing.assert_array_equal(first[..., ::-1], render_good(np.random.default_rng(5)))
    for path in (tmp_path / "ground_truth").rglob("*.png"):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert mask is not None
        assert mask.shape == (SIZE, SIZE)
        assert set(np.unique(mask)) == {0, 255}


def test_a_dataset_is_deterministic(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_dataset(tmp_path / name, good=1, test_good=1, defects_per_kind=1, seed=9)
    for path in (tmp_path / "one").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
