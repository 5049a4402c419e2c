import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from service.bundle.manifest import InputSpec
from training.data.regions import RegionError, keep_mask

SPEC = InputSpec(height=64, width=64)


def test_polygons_and_pictures_give_the_same_region(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text(json.dumps([[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]))
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, :30] = 255
    cv2.imwrite(str(tmp_path / "half.png"), picture)
    polygon, png = (keep_mask(tmp_path / f"half.{kind}", None, SPEC) for kind in ("json", "png"))
    assert polygon is not None
    assert png is not None
    assert abs(polygon.mean() - 0.5) < 0.03
    assert (polygon != png).mean() < 0.03


def test_ignored_areas_are_taken_out_of_the_region_of_interest(tmp_path: Path) -> None:
    (tmp_path / "all.json").write_text("[[[0, 0], [1, 0], [1, 1], [0, 1]]]")
    (tmp_path / "corner.json").write_text("[[[0, 0], [0.25, 0], [0.25, 0.25], [0, 0.25]]]")
    keep = keep_mask(tmp_path / "all.json", tmp_path / "corner.json", SPEC)
    assert keep is not None
    assert not keep[:14, :14].any()
    assert keep[20:, 20:].all()
    assert keep_mask(None, None, SPEC) is None


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "[[[0, 0], [1, 1]]]", "[[[0, 0], [2, 0], [1, 1]]]", "[1, 2]"])
def test_malformed_regions_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "region.json").write_text(text)
    with pytest.raises(RegionError, match=r"region\.json"):
        keep_mask(tmp_path / "region.json", None, SPEC)


def test_a_region_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "all.json").write_text("[[[0, 0], [1, 0], [1, 1], [0, 1]]]")
    with pytest.raises(RegionError, match="nothing is left"):
        keep_mask(None, tmp_path / "all.json", SPEC)
