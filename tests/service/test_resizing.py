"""Every pixel of an image must count, whatever its size: a defect between the samples would be OK."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from bundles import gray, make_bundle, png, wait_until_loaded
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from replies import post

from service.app import create_app
from service.bundle.folder import read_bundle
from service.bundle.manifest import MANIFEST, InputSpec
from service.images.decoding import Pixels, encode, read
from service.images.headers import ImageError
from service.images.resizing import fit, resize, resize_area
from service.settings import Settings


def _shares(before: int, after: int) -> np.ndarray:
    """`(after, before)`: the share of every input pixel in every output pixel, by the definition of the area mean."""
    edges = np.arange(after + 1) * before / after
    pixels = np.arange(before)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    shares: np.ndarray = np.clip(covered, 0, None) * after / before
    return shares


def _area_means(picture: Pixels, height: int, width: int) -> np.ndarray:
    rows = np.tensordot(_shares(picture.shape[0], height), picture, 1)
    return np.tensordot(_shares(picture.shape[1], width), rows, (1, 1)).transpose(1, 0, 2)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 64), st.integers(1, 64), st.integers(0, 2**31))
def test_a_shrink_is_the_mean_over_the_exact_area(height: int, width: int, rows: int, columns: int, seed: int) -> None:
    rows, columns = min(rows, height), min(columns, width)
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    # OpenCV leaves out shares below a thousandth of a pixel, and rounds.
    assert np.abs(resize(picture, rows, columns) - _area_means(picture, rows, columns)).max() <= 1.01


@pytest.mark.parametrize("size", [(401, 300), (640, 333), (1000, 64), (777, 1024)])
def test_a_large_shrink_is_opencvs_own_but_for_halves(size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    exact = _area_means(picture, 64, 64)
    found = resize(picture, 64, 64)
    differs = found != cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(exact - found).max() < 0.51
    assert (np.abs(exact % 1 - 0.5) < 0.01)[differs].all()
    # An image that is a part of another one, and no array of its own.
    np.testing.assert_array_equal(resize(np.pad(picture, ((0, 0), (5, 9), (0, 0)))[:, 5:-9], 64, 64), found)


def test_the_map_does_not_tell_how_a_large_picture_was_shrunk(demo: Path, good: Pixels) -> None:
    large = cv2.GaussianBlur(_enlarged(good, 2000), (0, 0), 1)
    session = onnxruntime.InferenceSession(demo / "model.onnx", providers=["CPUExecutionProvider"])
    shrunk = [resize(large, 256, 256), cv2.resize(large, (256, 256), interpolation=cv2.INTER_AREA)]
    (one, other), (score, other_score) = session.run(["anomaly_map", "score"], {"image": np.stack(shrunk)})
    tolerance = read_bundle(demo).manifest.tolerances["fp32"]
    assert np.abs(one - other).max() <= tolerance.anomaly_map
    assert abs(score - other_score) <= tolerance.score


@pytest.mark.parametrize("size", [(16, 640), (640, 16), (63, 65), (10, 6400)])
def test_where_one_axis_grows_every_pixel_of_the_other_counts(size: tuple[int, int]) -> None:
    """OpenCV's INTER_AREA alone is linear in both axes then, and skips pixels."""
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    shrunk = _area_means(picture, min(64, size[0]), min(64, size[1]))
    expected = cv2.resize(shrunk, (64, 64), interpolation=cv2.INTER_LINEAR)
    assert np.abs(resize(picture, 64, 64) - expected).max() <= 2


@pytest.mark.parametrize("factor", [1.1, 1.9, 2, 2.5, 3, 3.7, 4, 8, 10])
@pytest.mark.parametrize("phase", range(4))
def test_a_bright_line_counts_wherever_it_lies(factor: float, phase: int) -> None:
    side = round(64 * factor)
    for line in (np.s_[side // 2 + phase, :], np.s_[:, side // 2 + phase]):
        picture = gray(0, side)
        picture[line] = 255
        share = resize(picture, 64, 64).mean() / 255 * side
        assert share == pytest.approx(1, abs=0.05)


def test_checkerboards_become_gray_and_nothing_is_invented() -> None:
    for side in (128, 160, 192, 256, 1000):
        board = (np.indices((side, side)).sum(0) % 2 * 255).astype(np.uint8)
        found = resize(np.dstack([board] * 3), 64, 64).astype(int)
        assert np.abs(found - 127.5).max() <= 255 / (side / 64) ** 2
    for value in (0, 1, 77, 254, 255):
        assert (resize(gray(value, 333), 64, 50) == value).all()


def test_a_picture_of_the_right_size_is_left_alone_and_a_small_one_is_linear() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    assert resize(picture, 20, 30) is picture
    larger = cv2.resize(picture, (64, 40), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(resize(picture, 40, 64), larger)


def test_floats_keep_what_bytes_would_round_away() -> None:
    one = np.zeros((1000, 1000), np.float32)
    one[617, 333] = 1
    assert (resize_area(one, 10, 10) > 0).sum() == 1


def test_linear_reads_what_it_sees_and_refuses_what_it_would_skip() -> None:
    """Bundles made before `area` keep their kernel where it looks at every pixel."""
    spec = InputSpec(height=64, width=64, interpolation="linear")
    picture = np.random.default_rng(0).integers(0, 256, (128, 100, 3), np.uint8)
    np.testing.assert_array_equal(fit(picture, spec), cv2.resize(picture, (64, 64), interpolation=cv2.INTER_LINEAR))
    for height, width in ((129, 64), (64, 129), (1024, 1024)):
        with pytest.raises(ImageError, match="send at most 128x128, or train the recipe again") as told:
            fit(np.zeros((height, width, 3), np.uint8), spec)
        assert told.value.code == "image_too_large"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The service with the demo recipe, whose network is 256x256."""
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(Path(__file__).parents[2] / "models" / "demo" / "1", models / "demo" / "1")
    app = create_app(Settings(records_dir=None, models_dir=models, backend="ort-cpu", precision="fp32"))
    with TestClient(app, base_url="http://localhost") as running:
        wait_until_loaded(running)
        yield running


@pytest.fixture
def good(demo: Path) -> Pixels:
    return read(demo / "golden" / "0.png")


def _enlarged(picture: Pixels, side: int) -> Pixels:
    return np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def _between_the_samples(picture: Pixels, factor: int, value: int = 0) -> Pixels:
    """Enlarged by whole pixels, all painted over that a linear shrink by the same factor does not read."""
    large = picture.repeat(factor, 0).repeat(factor, 1)
    read_at = np.isin(np.arange(256 * factor) % factor, ((factor - 1) // 2, factor // 2))
    large[~(read_at[:, None] & read_at)] = value
    return large


def test_enlarged_good_parts_are_still_ok(shipped: TestClient, good: Pixels) -> None:
    for side in (256, 500, 1024, 2560):
        assert post(shipped, png(_enlarged(good, side))).json()["verdict"] == "OK", side
    assert post(shipped, encode(_enlarged(good, 1024), ".jpg")).json()["verdict"] == "OK"


@pytest.mark.parametrize(("factor", "value"), [(4, 0), (4, 255), (3, 0), (5, 0), (8, 128)])
def test_a_part_painted_over_between_the_samples_is_not_ok(
    shipped: TestClient, good: Pixels, factor: int, value: int
) -> None:
    assert post(shipped, png(_between_the_samples(good, factor, value))).json()["verdict"] != "OK"


@pytest.mark.parametrize(
    "scratch", [np.s_[1276:1284, 512:2048], np.s_[1285:1293, 512:2048], np.s_[512:2048, 1101:1109]]
)
@pytest.mark.parametrize("encoded", [png, lambda picture: encode(picture, ".jpg")], ids=["png", "jpeg"])
def test_a_thin_scratch_on_a_large_picture_is_ng(
    shipped: TestClient, good: Pixels, scratch: tuple[slice, slice], encoded: Callable[[Pixels], bytes]
) -> None:
    picture = _enlarged(good, 2560)
    picture[scratch] = 0
    assert post(shipped, encoded(picture)).json()["verdict"] == "NG"


def test_a_bundle_of_before_is_never_blind(models: Path) -> None:
    bundle = make_bundle(models, "old").path
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["input"]["interpolation"] = "linear"
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    assert read_bundle(bundle).manifest.input.interpolation == "linear"
    app = create_app(Settings(records_dir=None, models_dir=models, backend="ort-cpu"))
    with TestClient(app, base_url="http://localhost") as client:
        wait_until_loaded(client)
        assert post(client, png(gray(51, 128)), params={"recipe": "old"}).json()["verdict"] == "OK"
        told = post(client, png(gray(51, 129)), params={"recipe": "old"})
        assert (told.status_code, told.json()["verdict"]) == (413, "NOT_INSPECTED")
        assert "train the recipe again" in told.json()["detail"]
        assert post(client, png(gray(51, 129)), params={"recipe": "part"}).json()["verdict"] == "OK"
