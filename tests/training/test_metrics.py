import numpy as np
import pytest

from training.evaluation.metrics import image_metrics


def test_image_auroc_counts_ordered_pairs() -> None:
    figures = image_metrics(np.array([0.1, 0.4, 0.35, 0.8], np.float32), np.array([False, False, True, True]))
    assert figures["image_auroc"] == pytest.approx(0.75)
