import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundles import make_bundle

from service.backends.base import Scored
from service.backends.golden import GoldenError, golden_images, require_golden, require_golden_batches
from service.bundle.folder import Bundle, read_bundle


@pytest.fixture
def bundle(demo: Path, tmp_path: Path) -> Bundle:
    """The demo recipe with its three golden images."""
    return read_bundle(shutil.copytree(demo, tmp_path / "demo" / "1"))


def _answers(bundle: Bundle) -> dict[bytes, Scored]:
    """Image -> what the trained network made of it."""
    return {
        image.tobytes(): Scored(np.load(bundle.file(golden.anomaly_map)), golden.score)
        for image, golden in zip(golden_images(bundle), bundle.manifest.golden, strict=True)
    }


def test_batches_are_of_every_size_and_golden_images_take_turns(bundle: Bundle) -> None:
    answers, batches = _answers(bundle), []

    def run(images: list[np.ndarray]) -> list[Scored]:
        batches.append([list(answers).index(image.tobytes()) for image in images])
        return [answers[image.tobytes()] for image in images]

    require_golden_batches(bundle, "fp32", run, 4)
    assert batches == [[0, 1], [2, 0, 1], [0, 1, 2, 0]]
    require_golden_batches(bundle, "fp32", run, 1)
    assert len(batches) == 3


@pytest.mark.parametrize("wrong", ["the first for all", "in another order", "no score"])
def test_every_place_of_a_batch_must_agree_with_its_own_golden(bundle: Bundle, wrong: str) -> None:
    answers = _answers(bundle)

    def run(images: list[np.ndarray]) -> list[Scored]:
        found = [answers[image.tobytes()] for image in images]
        if len(images) < 3:
            return found
        return {
            "the first for all": 3 * found[:1],
            "in another order": [found[0], found[2], found[1]],
            "no score": [found[0], replace(found[1], score=float("nan")), found[2]],
        }[wrong]

    with pytest.raises(GoldenError, match=r"golden/0\.png, image 2 of a batch of 3: score is off by"):
        require_golden_batches(bundle, "fp32", run, 4)


@pytest.mark.parametrize("left", [0, 60, 200])
def test_a_golden_map_that_was_cut_short_is_named(tmp_path: Path, left: int) -> None:
    bundle = make_bundle(tmp_path)
    file = bundle.file("golden/0.npy")
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(GoldenError, match=r"golden/0\.npy: the golden map cannot be read .* copy the bundle again"):
        require_golden(bundle, "fp32", lambda image: [])
