import numpy as np
import pytest

from service.bundle.manifest import Calibration, Thresholds
from training.evaluation.breakdown import describe, rows, tables


def _square(side: int, top: int, left: int, size: int = 256) -> np.ndarray:
    mask = np.zeros((size, size), np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


def _thresholds(review: float) -> Thresholds:
    nothing = Calibration(
        target_false_reject_rate=0.01, good_images=0, false_rejects=0, false_reject_interval=(0.0, 1.0)
    )
    return Thresholds(review=review, reject=1.0, pixel=0.5, calibration=nothing)


def test_sizes_are_those_at_256_pixels() -> None:
    found = [describe("dent", _square(side, 100, 100)).size for side in (9, 10, 21, 22)]
    assert found == ["under 10 px", "10 to 21 px", "10 to 21 px", "over 21 px"]
    assert describe("dent", _square(18, 100, 100, size=512)).size == "under 10 px"


def test_a_defect_that_was_cut_off_is_at_the_border() -> None:
    corners = ((100, 100), (2, 2), (1, 100), (100, 246), (246, 100))
    found = [describe("dent", _square(9, *corner)).place for corner in corners]
    assert found == ["inside", "inside", "at the border", "at the border", "at the border"]


def test_rows_count_what_passes_below_review() -> None:
    names, scores = ["b", "a", "b"], np.float32([0.2, 0.9, 0.3])
    found = rows(names, scores, np.float32([0.1, 0.25]), _thresholds(0.25))
    assert list(found) == ["a", "b"]
    assert found["b"] == {
        "images": 2,
        "image_auroc": pytest.approx(3 / 4),
        "escapes": 1,
        "escape_interval": pytest.approx([0.0126, 0.9874], abs=1e-4),
    }
    assert rows(names, scores, np.float32([0.1, 0.25]), None)["a"] == {"images": 1, "image_auroc": 1.0}


def test_a_defect_whose_place_is_not_known_counts_by_kind_alone() -> None:
    defects = [describe("dent", mask) for mask in (_square(9, 100, 100), _square(0, 0, 0), None)]
    found = tables(defects, np.float32([0.5, 0.6, 0.7]), np.float32([0.1]))
    assert {name: {row: figures["images"] for row, figures in table.items()} for name, table in found.items()} == {  # type: ignore[union-attr,index]
        "per_defect": {"dent": 3},
        "per_size": {"under 10 px": 1},
        "per_place": {"inside": 1},
    }
