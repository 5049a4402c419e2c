"""What needs an NVIDIA GPU: every GPU backend against the CPU."""

from pathlib import Path

import numpy as np
import pytest

from service.backends.base import BackendChoice
from service.backends.opening import open_backend
from service.bundle.folder import read_bundle


@pytest.mark.gpu
@pytest.mark.parametrize("choice", ["ort-cuda", "ort-tensorrt", "tensorrt"])
def test_every_batch_scores_like_the_cpu(choice: BackendChoice, nvidia: None, demo: Path, tmp_path: Path) -> None:
    bundle = read_bundle(demo)
    reference = open_backend(bundle, "ort-cpu", threads=1)
    backend = open_backend(bundle, choice, threads=1, max_batch=4, cache=tmp_path)
    size = bundle.manifest.input.height
    for count in (1, 4, 2, 1):
        images = np.random.default_rng(count).integers(0, 256, (count, size, size, 3), np.uint8)
        maps, scores = backend.run(images)
        for i in range(count):
            expected_maps, expected_scores = reference.run(images[i : i + 1])
            np.testing.assert_allclose(maps[i], expected_maps[0], atol=5e-3)
            np.testing.assert_allclose(scores[i], expected_scores[0], atol=2e-3)
    backend.close()
