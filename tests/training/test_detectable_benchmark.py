import numpy as np
import pytest

from training.benchmarks.detectable import Row, draw_scratch, draw_square, render_plate, smallest_found, tabulate


@pytest.mark.parametrize(
    ("shares", "smallest"),
    [({}, 1), ({3: 0.8}, 4), ({3: 0.8, 2: 1.0}, 4), ({32: 0.5}, None), ({1: 0.89, 2: 0.9}, 2)],
)
def test_the_smallest_is_the_one_from_which_on_all_are_found(shares: dict[int, float], smallest: int | None) -> None:
    assert smallest_found(lambda side: shares.get(side, 1.0)) == smallest


@pytest.mark.parametrize(("draw", "pixels"), [(draw_square, (16, 16)), (draw_scratch, (4 * 90, 5 * 150))])
def test_a_defect_has_its_size_and_its_contrast_in_pixels_of_the_photo(draw: object, pixels: tuple[int, int]) -> None:
    plate = render_plate(np.random.default_rng(0), 256)
    drawn = draw(plate, (128, 128), 4, 40.0, np.random.default_rng(1))  # type: ignore[operator]
    change = np.abs(drawn.astype(int) - plate).max(axis=2)
    assert pixels[0] <= (change > 0).sum() <= pixels[1]
    assert change.max() == 40


def test_the_table_says_what_was_not_found() -> None:
    table = tabulate([Row("size 256", 4.0, None, 6, 12.4)])
    assert table.endswith("| size 256 | 4.0 | over 32 | 6 | 12 |")
