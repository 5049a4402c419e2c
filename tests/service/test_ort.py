from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from service.backends.opening import open_backend
from service.bundle.folder import read_bundle


@pytest.mark.parametrize(("threads", "lanes"), [(1, 1), (2, 2), (3, 2)])
def test_images_side_by_side_give_what_each_gives_alone(demo: Path, threads: int, lanes: int) -> None:
    backend = open_backend(read_bundle(demo), "auto", threads=threads)
    assert backend.lanes == lanes
    images = np.random.default_rng(0).integers(0, 256, (8, 256, 256, 3), np.uint8)
    alone = [backend.run(image[None]) for image in images]
    with ThreadPoolExecutor(lanes) as pool:
        together = list(pool.map(lambda image: backend.run(image[None]), images))
    for (map_alone, score_alone), (map_together, score_together) in zip(alone, together, strict=True):
        np.testing.assert_allclose(map_together, map_alone, atol=1e-5)
        np.testing.assert_allclose(score_together, score_alone, atol=1e-5)
    backend.close()
