import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from training.data.simulated_defects import KINDS, ImpossibleDefectError, apply, foreground_mask, part_masks

ADDS_MATERIAL = (
    "scratch",
    "hairline",
    "stain",
    "foreign",
    "spots",
)  # these need no structure in the photograph to be seen


def _part(seed: int = 0, size: tuple[int, int] = (256, 256)) -> NDArray[np.uint8]:
    """A textured disc on a plain bright background, with sensor noise."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.indices(size)
    radius = np.hypot(x - width / 2, y - height / 2) / (min(size) / 2)
    face = 110 + 30 * np.cos(25 * radius) + 25 * x / width
    grey = np.where(radius < 0.75, face, 225) + rng.normal(0, 2, size)
    return np.clip(np.stack([grey, grey * 0.95, grey * 0.9], axis=2), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_changes_its_mask_and_nothing_else(kind: str) -> None:
    image = _part()
    untouched = image.copy()
    for seed in range(8):
        changed, mask = apply(image, kind, np.random.default_rng(seed))
        difference = cv2.absdiff(image, changed).max(axis=2)
        assert changed.dtype == np.uint8
        assert changed.shape == image.shape
        assert 12 <= mask.sum() < 0.12 * mask.size
        assert difference[mask].mean() > 8
        assert (difference > 0).mean() < 0.15
        # what is left outside is too faint, or too fine, to be called a defect
        outside = np.where(cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) == 1, 0, difference)
        assert cv2.blur(outside, (5, 5)).max() <= 12
    np.testing.assert_array_equal(image, untouched)


@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_is_deterministic_by_seed(kind: str) -> None:
    image = _part()
    first, again, other = (apply(image, kind, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(128, 128), (256, 320)])
def test_every_kind_works_on_every_size(kind: str, size: tuple[int, int]) -> None:
    changed, mask = apply(_part(size=size), kind, np.random.default_rng(3))
    assert changed.shape == (*size, 3)
    assert mask.shape == size
    assert mask.any()


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("kind", ADDS_MATERIAL)
def test_a_constant_image_shows_added_material(kind: str, level: int) -> None:
    image = np.full((256, 256, 3), level, np.uint8)
    if kind == "stain" and level == 0:
        with pytest.raises(ImpossibleDefectError):
            apply(image, kind, np.random.default_rng(0))
        return
    _, mask = apply(image, kind, np.random.default_rng(0))
    assert mask.sum() >= 12


@pytest.mark.parametrize("kind", ["warp", "blur"])
def test_where_there_is_no_structure_none_can_be_moved_or_smeared(kind: str) -> None:
    with pytest.raises(ImpossibleDefectError, match=kind):
        apply(np.full((256, 256, 3), 128, np.uint8), kind, np.random.default_rng(0))


def _image_and_mask(kind: str, seed: int) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """What a kind adds to the part, `(256, 256)`, and where."""
    changed, mask = apply(_part(), kind, np.random.default_rng(seed))
    return (changed.astype(np.int16) - _part()).mean(axis=2).astype(np.int16), mask


def test_a_hairline_is_long_and_thin() -> None:
    shapes = []
    for seed in range(10):
        _, mask = _image_and_mask("hairline", seed)
        (_, sides, _) = cv2.minAreaRect(np.argwhere(mask).astype(np.float32))
        shapes.append((max(sides), mask.sum() / max(sides)))
    lengths, widths = np.array(shapes).T
    assert np.median(lengths) > 20
    assert np.median(widths) < 4.5


def test_a_dent_has_a_bright_side_and_a_dark_one() -> None:
    for seed in range(6):
        change, mask = _image_and_mask("dent", seed)
        assert change[mask].max() > 8
        assert change[mask].min() < -8


def test_cracks_are_dark_and_clouds_large_and_faint() -> None:
    for seed in range(6):
        change, mask = _image_and_mask("crack", seed)
        assert change[mask].mean() < -8
        change, mask = _image_and_mask("cloud", seed)
        assert mask.sum() > 250
        assert abs(change[mask].mean()) < 60


def test_contrast_is_from_just_visible_to_strong() -> None:
    strengths = [
        np.abs(change[mask]).mean() for change, mask in (_image_and_mask("scratch", seed) for seed in range(30))
    ]
    assert min(strengths) < 22
    assert max(strengths) > 45


def test_sizes_range_from_specks_to_large_areas() -> None:
    areas = [apply(_part(), "stain", np.random.default_rng(seed))[1].sum() for seed in range(40)]
    assert min(areas) < 60
    assert max(areas) > 900
    assert np.median(areas) < 500  # log-uniform: half of the diameters are below 17 pixels


def test_a_border_defect_touches_the_border() -> None:
    for seed in range(8):
        _, mask = apply(_part(), "border", np.random.default_rng(seed))
        assert mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {"border", "blur"}])  # that place is smooth
def test_the_foreground_holds_the_defect(kind: str) -> None:
    foreground = np.zeros((256, 256), np.bool_)
    foreground[118:138, 60:80] = True
    for seed in range(6):
        _, mask = apply(_part(), kind, np.random.default_rng(seed), foreground)
        rows, columns = np.nonzero(mask)
        # half of the largest defect, or of a scratch one and a half times as long
        assert np.hypot(columns.mean() - 70, rows.mean() - 128) < 14 + 45


def test_a_stain_on_a_monochrome_photo_stays_grey() -> None:
    image = np.repeat(_part()[..., :1], 3, axis=2)
    for kind in KINDS:
        changed, _ = apply(image, kind, np.random.default_rng(4))
        assert (changed == changed[..., :1]).all()


def test_bad_arguments_are_refused() -> None:
    image, rng = _part(), np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"'rust'.*scratch"):
        apply(image, "rust", rng)
    with pytest.raises(ValueError, match="foreground is"):
        apply(image, "stain", rng, np.ones((8, 8), np.bool_))
    centre_only = np.zeros((256, 256), np.bool_)
    centre_only[100:150, 100:150] = True
    with pytest.raises(ImpossibleDefectError, match="no place"):
        apply(image, "border", rng, centre_only)


def test_the_part_is_found_before_a_plain_background() -> None:
    found = foreground_mask([_part(seed) for seed in range(4)])
    assert found is not None
    y, x = np.indices((256, 256))
    disc = np.hypot(x - 128, y - 128) < 0.75 * 128
    assert (found & disc).sum() / (found | disc).sum() > 0.97


def test_a_texture_has_no_foreground() -> None:
    rng = np.random.default_rng(0)
    assert foreground_mask([rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(3)]) is None
    assert foreground_mask([np.full((64, 64, 3), 90, np.uint8)]) is None


def test_parts_that_lie_anyhow_are_found_on_each_photo() -> None:
    bar = np.full((256, 256, 3), 200, np.uint8)
    bar[100:150, 40:220] = 80
    standing = np.ascontiguousarray(bar.transpose(1, 0, 2))
    for photo, found in zip((bar, standing), part_masks([bar, standing]), strict=True):
        assert found is not None
        assert ((photo[..., 0] == 80) == found).mean() > 0.99
