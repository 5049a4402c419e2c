"""The golden gate: the backend that runs must reproduce the golden images of its bundle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.bundle import Bundle, Precision, Tolerance
from service.images import Pixels, read, resize


class GoldenError(Exception):
    """The backend does not reproduce a golden image; the message says which and by how much."""


def golden_images(bundle: Bundle) -> list[Pixels]:
    """The golden images as the graph takes them."""
    size = bundle.manifest.input.height, bundle.manifest.input.width
    return [resize(read(bundle.file(golden.image)), *size) for golden in bundle.manifest.golden]


def require_golden(
    bundle: Bundle, precision: Precision, run: Callable[[Pixels], list[tuple[NDArray[np.float32], float]]]
) -> None:
    """Give every golden image to `run`, which returns its map and score, or those of several runs; raises GoldenError
    where one of them is above the tolerance that the manifest has for this precision.
    """
    manifest = bundle.manifest
    for golden, image in zip(manifest.golden, golden_images(bundle), strict=True):
        expected = np.load(bundle.file(golden.anomaly_map), allow_pickle=False)
        for anomaly_map, score in run(image):
            name = f"{bundle.path}: {golden.image}"
            _compare(name, anomaly_map, score, expected, golden.score, manifest.tolerances[precision])


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
