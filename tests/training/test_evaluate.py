import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import gray
from pydantic import JsonValue

from service.backends.base import Scored
from service.bundle.manifest import Calibration, Thresholds
from training.data.labels import labelled_images
from training.evaluation.evaluate import evaluate, markdown

CALIBRATION = Calibration(
    target_false_reject_rate=0.01, good_images=0, false_rejects=0, false_reject_interval=(0.0, 1.0)
)
THRESHOLDS = Thresholds(review=0.3, reject=0.6, pixel=0.5, calibration=CALIBRATION)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four good parts and three defects whose file name is their score in percent."""
    for kind, scores in (("good", (5, 10, 35, 70)), ("hole", (20, 90)), ("dirt", (50,))):
        for score in scores:
            path = tmp_path / "test" / kind / f"{score:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), gray(0))
            if kind != "good":
                mask = tmp_path / "ground_truth" / kind / f"{score:03}_mask.png"
                mask.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(mask), np.pad(np.full((8, 8), 255, np.uint8), ((0, 56), (0, 56))))
    return tmp_path


def _score(path: Path) -> Scored:
    score = int(path.stem) / 100
    anomaly_map = np.zeros((64, 64), np.float32)
    anomaly_map[:8, :8] = score
    return Scored(anomaly_map, score)


def _evaluated(folder: Path) -> dict[str, JsonValue]:
    images = labelled_images(folder)
    return evaluate(images, (_score(image.path) for image in images), THRESHOLDS)


def test_verdicts_are_counted_at_the_thresholds(folder: Path) -> None:
    results = _evaluated(folder)
    assert results["good_ok_review_ng"] == [2, 1, 1]
    assert results["defects_ok_review_ng"] == [1, 1, 1]
    assert results["false_reject_rate"] == pytest.approx(1 / 4)
    assert results["escape_rate"] == pytest.approx(1 / 3)
    low, high = results["escape_interval"]  # type: ignore[misc]
    assert low < 1 / 3 < high


def test_figures_per_defect_type_are_against_all_good_parts(folder: Path) -> None:
    results = _evaluated(folder)
    per_defect: dict[str, dict[str, object]] = results["per_defect"]  # type: ignore[assignment]
    assert {kind: (row["images"], row["image_auroc"], row["escapes"]) for kind, row in per_defect.items()} == {
        "dirt": (1, 3 / 4, 0),
        "hole": (2, (2 + 4) / 8, 1),
    }
    assert per_defect["hole"]["escape_interval"] == pytest.approx([0.0126, 0.9874], abs=1e-4)
    table = markdown({"part": results})
    assert "| part: hole | 75.00 |" in table
    assert "1 OK, 1 REVIEW, 1 NG" in table


def test_the_fingerprint_follows_the_contents(folder: Path) -> None:
    first = _evaluated(folder)["data_sha256"]
    assert _evaluated(folder)["data_sha256"] == first
    cv2.imwrite(str(folder / "test" / "good" / "005.png"), gray(1))
    assert _evaluated(folder)["data_sha256"] != first


def test_labels_without_masks_give_image_figures(folder: Path) -> None:
    whole = _evaluated(folder)
    shutil.rmtree(folder / "ground_truth")
    bare = _evaluated(folder)
    assert {"pixel_auroc", "pixel_ap", "pro"} <= whole.keys()
    assert not {"pixel_auroc", "pixel_ap", "pro"} & bare.keys()
    for name in ("image_auroc", "image_ap", "per_defect", "escape_rate", "false_reject_rate"):
        assert bare[name] == whole[name]
    assert "| part | 75.00 | 75.56 |  |  |  |" in markdown({"part": bare})


def test_a_defect_without_mask_or_with_an_empty_one_has_no_good_pixels(folder: Path) -> None:
    """Its map is high where nobody marked anything: that must not count as a false alarm."""
    masks = folder / "ground_truth" / "hole"
    before = _evaluated(folder)
    (masks / "090_mask.png").unlink()
    without = _evaluated(folder)
    cv2.imwrite(str(masks / "090_mask.png"), np.zeros((64, 64), np.uint8))
    empty = _evaluated(folder)
    assert without["pixel_auroc"] == empty["pixel_auroc"] != before["pixel_auroc"]
    assert without["image_auroc"] == empty["image_auroc"] == before["image_auroc"]
