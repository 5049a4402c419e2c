"""The golden gate: the backend that runs must reproduce the golden images of its bundle."""

from __future__ import annotations

import math

import numpy as np

from service.batching import Batcher, Model
from service.bundle import Bundle, Tolerance
from service.images import read, resize


class GoldenError(Exception):
    """The backend does not reproduce a golden image; the message says which and by how much."""


def check_golden(bundle: Bundle, model: Model, batcher: Batcher) -> None:
    """Run the golden images the way every image is run; raises GoldenError above the manifest's tolerance."""
    manifest = bundle.manifest
    tolerance = manifest.tolerances[model.backend.precision]
    for golden in manifest.golden:
        image = resize(read(bundle.file(golden.image)), manifest.input.height, manifest.input.width)
        result = batcher.submit(model, image, math.inf).result()
        expected = np.load(bundle.file(golden.anomaly_map), allow_pickle=False)
        _compare(f"{bundle.path}: {golden.image}", result.anomaly_map, result.score, expected, golden.score, tolerance)


def _compare(
    name: str,
    anomaly_map: np.ndarray,
    score: float,
    expected_map: np.ndarray,
    expected_score: float,
    tolerance: Tolerance,
) -> None:
    if anomaly_map.shape != expected_map.shape:
        raise GoldenError(f"{name}: the map is {anomaly_map.shape}, the golden one {expected_map.shape}")
    score_error = abs(score - expected_score)
    map_error = float(np.abs(anomaly_map - expected_map).max())
    # Not "error > tolerance": NaN must fail too.
    if not (score_error <= tolerance.score and map_error <= tolerance.anomaly_map):
        raise GoldenError(
            f"{name}: score is off by {score_error:.2e} (allowed {tolerance.score:.0e}), "
            f"map by {map_error:.2e} (allowed {tolerance.anomaly_map:.0e})"
        )
