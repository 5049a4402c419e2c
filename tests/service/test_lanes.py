import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bundles import SIZE
from fakes import brightness

from service.backends.base import BackendChoice
from service.backends.lanes import Lanes
from service.backends.opening import open_backend
from service.bundle.folder import read_bundle


def _lanes(threads: int) -> Lanes[str]:
    return Lanes(
        min(2, threads),
        threads,
        lambda threads: f"wide {threads}",
        lambda lanes, threads: [f"narrow {threads}"] * lanes,
    )


def test_sessions_are_opened_one_after_the_other_by_the_thread_that_asks() -> None:
    opened: list[tuple[str, int]] = []

    def open_one(name: str) -> str:
        opened.append((name, threading.get_ident()))
        return name

    Lanes(2, 2, lambda threads: open_one("wide"), lambda lanes, threads: [open_one("narrow")] * lanes)
    assert opened == [("wide", threading.get_ident()), ("narrow", threading.get_ident())]


def test_alone_all_threads_side_by_side_a_half_each() -> None:
    lanes = _lanes(4)
    with lanes.session() as first, lanes.session() as second:
        assert (lanes.count, first, second) == (2, "wide 4", "narrow 2")
    with lanes.session() as again:
        assert again == "wide 4"


def test_a_wide_run_that_ends_first_leaves_a_narrow_neighbour_and_a_narrow_place() -> None:
    lanes = _lanes(2)
    first, second = lanes.session(), lanes.session()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with lanes.session() as third:
        assert third == "narrow 1"
    second.__exit__(None, None, None)


def test_a_failed_run_gives_its_place_back() -> None:
    lanes = _lanes(2)
    for _ in range(3):
        with pytest.raises(RuntimeError), lanes.session(), lanes.session():
            raise RuntimeError
    with lanes.session() as session:
        assert session == "wide 2"


def test_one_thread_is_one_lane() -> None:
    assert _lanes(1).count == 1


@pytest.mark.parametrize("choice", ["ort-cpu", "openvino"])
def test_runs_side_by_side_do_not_mix_their_images(models: Path, choice: BackendChoice) -> None:
    backend = open_backend(read_bundle(models / "part" / "1"), choice, precision="fp32", threads=2)
    images = np.random.default_rng(0).integers(0, 256, (40, 1, SIZE, SIZE, 3), np.uint8)
    with ThreadPoolExecutor(backend.lanes) as pool:
        for image, (maps, scores) in zip(images, pool.map(backend.run, images), strict=True):
            expected_maps, expected_scores = brightness(image)
            np.testing.assert_allclose(maps, expected_maps, atol=1e-5)
            np.testing.assert_allclose(scores, expected_scores, atol=1e-5)


@pytest.mark.parametrize("choice", ["ort-cpu", "openvino"])
def test_what_a_run_gives_keeps_nothing_of_the_runtime(models: Path, choice: BackendChoice) -> None:
    """A map that is kept for a while would keep all memory of a model that was replaced."""
    backend = open_backend(read_bundle(models / "part" / "1"), choice, precision="fp32", threads=2)
    for array in backend.run(np.zeros((1, SIZE, SIZE, 3), np.uint8)):
        assert array.base is None


def test_sessions_rest_only_where_none_is_taken() -> None:
    lanes, rested = _lanes(2), list[str]()
    with lanes.session():
        lanes.rest(rested.append)
    assert rested == []
    lanes.rest(rested.append)
    assert rested == ["wide 2", "narrow 1", "narrow 1"]
