"""A recipe that inspects a part of the photo: cut out before it is resized, answered in pixels of the whole photo."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import make_bundle, png, wait_until_loaded
from fakes import wait_for
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from replies import assert_problem, post

from service.app import create_app
from service.bundle.manifest import Crop, InputSpec
from service.images.cropping import box_of, crop_of, cut, inspected_part, shape_of_whole, whole_map
from service.settings import Settings

CROP = Crop(left=0.25, top=0.5, width=0.5, height=0.25)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    make_bundle(tmp_path / "models", crop=CROP)
    settings = Settings(models_dir=tmp_path / "models", records_dir=tmp_path / "records", record_images="all")
    with TestClient(create_app(settings)) as client:
        wait_until_loaded(client)
        yield client


def _photo(width: int = 400, height: int = 320) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 40, np.uint8)


def test_a_defect_inside_is_found_at_full_resolution_where_it_lies(client: TestClient) -> None:
    photo = _photo()
    # Of the photo at the size of the network this would be 2x2 pixels, mixed with those around.
    photo[180:190, 150:160] = 255
    reply = post(client, png(photo)).json()
    assert reply["verdict"] == "NG"
    assert reply["inspected"] == {"x": 100, "y": 160, "width": 200, "height": 80}
    (region,) = reply["regions"]
    # A pixel of the map is 3 x 1.25 of the photo.
    assert region["x"] == pytest.approx(150, abs=4)
    assert region["x"] + region["width"] == pytest.approx(160, abs=4)
    assert region["y"] == pytest.approx(180, abs=2)
    assert region["y"] + region["height"] == pytest.approx(190, abs=2)


@pytest.mark.parametrize("place", [(0, 0), (150, 120), (250, 150), (180, 310)])
def test_what_lies_outside_is_not_inspected(client: TestClient, place: tuple[int, int]) -> None:
    photo = _photo()
    photo[place[0] : place[0] + 9, place[1] : place[1] + 9] = 255
    reply = post(client, png(photo)).json()
    assert (reply["verdict"], reply["regions"]) == ("OK", [])


def test_another_resolution_of_the_same_camera_is_scaled_and_another_shape_is_no_photo_of_it(
    client: TestClient,
) -> None:
    photo = _photo(800, 640)
    photo[360:380, 300:320] = 255
    reply = post(client, png(photo)).json()
    assert reply["inspected"] == {"x": 200, "y": 320, "width": 400, "height": 160}
    assert reply["regions"][0]["x"] == pytest.approx(300, abs=8)
    reply = post(client, png(_photo(800, 320))).json()
    assert reply["verdict"] == "NOT_INSPECTED"
    assert "wrong shape" in reply["faults"][0]


def test_maps_and_overlays_are_of_the_whole_photo_and_never_hot_outside(client: TestClient) -> None:
    photo = _photo()
    photo[160:240, 100:300] = 250
    photo[160:240, 100:102] = photo[160:162, 100:300] = 40
    reply = post(client, png(photo), params={"heatmap": "npy"}).json()
    whole = np.load(io.BytesIO(base64.b64decode(reply["heatmap"]["data"])))
    assert whole.shape == (256, 128)
    inside = np.zeros(whole.shape, bool)
    inside[128:192, 32:96] = True
    assert (whole[~inside] == 0).all()
    assert whole[inside].max() > 0.9
    overlay = post(client, png(photo), headers={"Accept": "image/png"})
    shown = cv2.imdecode(np.frombuffer(overlay.content, np.uint8), cv2.IMREAD_COLOR_RGB).astype(int)
    outside = np.ones(shown.shape[:2], bool)
    outside[160:240, 100:300] = False
    assert (shown[outside] == 20).all()
    assert np.abs(shown - photo)[200, 200].max() > 40
    url = f"/inspections/{reply['inspection_id']}/overlay.jpg"
    wait_for(lambda: client.get(url).status_code == 200)
    record = client.get(url)
    kept = cv2.imdecode(np.frombuffer(record.content, np.uint8), cv2.IMREAD_COLOR_RGB).astype(int)
    assert np.abs(kept - shown).mean() < 4
    live = client.get(f"/events/{reply['inspection_id']}/overlay.jpg")
    assert (
        live.content == record.content
        or np.abs(cv2.imdecode(np.frombuffer(live.content, np.uint8), cv2.IMREAD_COLOR_RGB).astype(int) - shown).mean()
        < 4
    )


def test_bare_pixels_are_cropped_and_tensors_of_the_networks_size_refused(client: TestClient) -> None:
    photo = _photo()
    photo[180:190, 150:160] = 255
    layout = {"width": 400, "height": 320, "pixel_format": "RGB8"}
    bare = post(client, photo.tobytes(), "application/octet-stream", params=layout).json()
    assert bare["regions"] == post(client, png(photo)).json()["regions"]
    shown = client.get("/v2/models/part").json()
    assert [one["name"] for one in shown["inputs"]] == ["image_bytes"]
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 64, 64, 3], "data": [0] * 64 * 64 * 3}
    assert_problem(client.post("/v2/models/part/infer", json={"inputs": [tensor]}), 422, "invalid_request")
    encoded = base64.b64encode(png(photo)).decode()
    pictures = {"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": [encoded]}
    outputs = client.post("/v2/models/part/infer", json={"inputs": [pictures]}).json()["outputs"]
    assert outputs[0]["shape"][1:] == shown["outputs"][0]["shape"][1:] == [256, 128]
    assert outputs[2]["data"] == ["NG"]
    assert client.get("/recipes").json()[0]["crop"] == CROP.model_dump()


def test_a_crop_that_leaves_the_photo_is_no_crop() -> None:
    with pytest.raises(ValidationError, match="beyond the photo"):
        Crop(left=0.5, top=0, width=0.6, height=1)


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.floats(0, 0.95),
    st.floats(0, 0.95),
    st.floats(0.001, 1),
    st.floats(0.001, 1),
)
def test_any_crop_of_any_photo_holds_pixels_and_comes_back_whole(
    width: int, height: int, left: float, top: float, across: float, down: float
) -> None:
    crop = Crop(left=left, top=top, width=min(across, 1 - left), height=min(down, 1 - top))
    box = box_of(crop, (height, width))
    assert 0 <= box.x < box.x + box.width <= width
    assert 0 <= box.y < box.y + box.height <= height
    # Nothing that the crop touches is left out, and no row more.
    assert box.x <= left * width + 1e-5
    assert box.x + box.width >= (left + crop.width) * width - 1e-5
    assert box.width <= crop.width * width + 2
    assert box_of(crop_of(box, (height, width)), (height, width)) == box
    spec = InputSpec(height=32, width=64, crop=crop)
    small = np.arange(32 * 64, dtype=np.float32).reshape(32, 64) / 2048
    whole = whole_map(small, spec)
    assert whole.shape == shape_of_whole(spec)
    assert max(whole.shape) <= 2200
    part = inspected_part(whole, spec)
    assert part.max() == small.max()
    assert whole.sum(dtype=np.float64) == pytest.approx(part.sum(dtype=np.float64))
    if part.shape == small.shape:
        np.testing.assert_array_equal(part, small)
    assert cut(np.zeros((height, width)), crop).size > 0
