from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import gray, make_bundle, png
from fastapi.testclient import TestClient

from service.bundle.manifest import QualityLimits
from service.images.decoding import read
from service.images.quality import find_faults, learn_limits, measure
from service.images.resizing import resize
from service.station.cameras import FrozenCameras, digest
from training.data.demo_parts import render_defect, render_good
from training.data.folders import good_images

GOOD = [render_good(np.random.default_rng(seed)) for seed in range(12)]


@pytest.fixture(scope="module")
def limits() -> QualityLimits:
    return learn_limits([measure(photo, photo) for photo in GOOD[:8]])


def _faults(photo: np.ndarray, limits: QualityLimits) -> str:
    return "; ".join(find_faults(measure(photo, resize(photo, 256, 256)), limits))


def test_figures_are_those_of_their_definitions() -> None:
    photo = GOOD[0].copy()
    photo[:20], photo[-30:] = 0, 255
    gray_values = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float64)
    q = measure(photo[:, :200], photo)
    assert q.sharpness == pytest.approx(cv2.Laplacian(gray_values, cv2.CV_64F).var())
    assert (q.brightness, q.contrast) == pytest.approx((gray_values.mean(), gray_values.std()))
    assert (q.dark, q.bright) == ((gray_values <= 7).mean(), (gray_values >= 248).mean())
    assert q.aspect == 200 / photo.shape[0]


@pytest.mark.parametrize("shape", [(2, 2), (2, 7), (9, 2), (3, 3), (64, 48)])
def test_figures_of_noise_are_those_of_their_definitions_at_any_size(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    values = cv2.cvtColor(noise, cv2.COLOR_RGB2GRAY).astype(np.float64)
    q = measure(noise, noise)
    assert q.sharpness == pytest.approx(cv2.Laplacian(values, cv2.CV_64F).var())
    assert (q.brightness, q.contrast) == pytest.approx((values.mean(), values.std()))


def test_new_good_parts_and_defects_pass(limits: QualityLimits) -> None:
    for photo in GOOD[8:]:
        assert _faults(photo, limits) == ""
    for kind in ("scratch", "stain", "chip"):
        assert _faults(render_defect(np.random.default_rng(0), kind)[0], limits) == ""


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda photo: np.zeros_like(photo), "too dark"),
        (lambda photo: np.full_like(photo, 255), "overexposed"),
        (lambda photo: np.full_like(photo, 128), "no contrast"),
        (lambda photo: cv2.GaussianBlur(photo, (0, 0), 3), "blurred"),
        (lambda photo: np.clip(photo.astype(int) + 110, 0, 255).astype(np.uint8), "too bright"),
        (lambda photo: photo // 4, "too dark"),
        (lambda photo: photo[:128], "wrong shape"),
    ],
)
def test_spoiled_pictures_are_named(limits: QualityLimits, spoil: object, fault: str) -> None:
    assert fault in _faults(spoil(GOOD[9]), limits)  # type: ignore[operator]


def test_limits_hold_for_any_camera_resolution(limits: QualityLimits) -> None:
    larger = cv2.resize(GOOD[9], (1024, 1024), interpolation=cv2.INTER_CUBIC)
    assert _faults(larger, limits) == ""


def test_real_good_photos_pass_and_spoiled_ones_do_not(test_data: Path) -> None:
    folder = test_data / "mvtec_ad_256" / "bottle"
    photos = [read(path) for path in good_images(folder)]
    limits = learn_limits([measure(photo, photo) for photo in photos[:100]])
    assert [fault for photo in photos[100:] for fault in find_faults(measure(photo, photo), limits)] == []
    for photo in photos[:5]:
        assert "blurred" in _faults(cv2.GaussianBlur(photo, (0, 0), 3), limits)
        assert _faults(np.zeros_like(photo), limits)


def test_an_unfit_picture_is_never_ok_over_http(client: TestClient) -> None:
    reply = client.post("/inspect", files={"image": png(gray(0))}).json()
    assert (reply["verdict"], reply["score"]) == ("NOT_INSPECTED", 0.0)
    assert any(fault.startswith("too dark") for fault in reply["faults"])
    assert client.post("/inspect", files={"image": png(gray(51))}).json()["faults"] == []


def test_a_named_camera_that_repeats_itself_is_frozen(client: TestClient) -> None:
    def verdict(value: int, camera: str | None) -> str:
        headers = {"X-Camera-Id": camera} if camera else {}
        answer: str = client.post("/inspect", files={"image": png(gray(value))}, headers=headers).json()["verdict"]
        return answer

    assert [verdict(51, None), verdict(51, None)] == ["OK", "OK"]
    assert [verdict(51, "a"), verdict(51, "b"), verdict(52, "a")] == ["OK"] * 3
    assert [verdict(52, "a"), verdict(52, "a"), verdict(51, "a")] == ["NOT_INSPECTED", "NOT_INSPECTED", "OK"]


def test_remembered_cameras_are_bounded() -> None:
    cameras = FrozenCameras()
    assert not cameras.is_frozen("first", "part", b"a")
    for i in range(4096):
        cameras.is_frozen(f"camera {i}", "part", b"a")
    assert not cameras.is_frozen("first", "part", b"a")
    assert cameras.is_frozen("camera 4095", "part", b"a")


def test_a_camera_is_watched_for_each_recipe_on_its_own() -> None:
    """Recipes of two sizes make two images of one: neither may hide that the other has not changed."""
    cameras = FrozenCameras()
    small, large = digest(gray(7, 8)), digest(gray(7, 16))
    assert small != large
    assert [cameras.is_frozen("a", recipe, seen) for recipe, seen in (("s", small), ("l", large))] == [False, False]
    assert [cameras.is_frozen("a", recipe, seen) for recipe, seen in (("s", small), ("l", large))] == [True, True]


def test_a_picture_that_two_recipes_judge_is_not_frozen(models: Path, client: TestClient) -> None:
    make_bundle(models, "other")
    assert client.post("/recipes/other/activate", params={"version": "1"}).status_code == 200
    headers = {"X-Camera-Id": "a"}
    verdicts = [
        client.post("/inspect", params={"recipe": recipe}, files={"image": png(gray(51))}, headers=headers).json()
        for recipe in ("part", "other", "part")
    ]
    assert [reply["verdict"] for reply in verdicts] == ["OK", "OK", "NOT_INSPECTED"]
    assert verdicts[2]["faults"] == ["frozen: camera 'a' sent exactly this image before"]
