"""Open Inference Protocol v2 as a Triton or KServe client meets it; the bytes are packed by hand, as the text says."""

import json
import struct
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bundles import SIZE, gray, make_bundle, png, wait_until_loaded
from fakes import FakeBackend, brightness, wait_for
from fastapi.testclient import TestClient
from httpx2 import Response
from replies import assert_problem, post
from stations import opens, station
from tensors import INFER, binary_input, bytes_input, image_input

from service.app import create_app
from service.http.access import new_key
from service.settings import Settings

LEVELS = {"OK": 51, "REVIEW": 102, "NG": 204, "NOT_INSPECTED": 0}


def send_binary(client: TestClient, request: dict[str, Any], tail: bytes, url: str = INFER) -> Response:
    header = json.dumps(request).encode()
    headers = {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}
    return client.post(url, content=header + tail, headers=headers)


def elements(pictures: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(picture)) + picture for picture in pictures)


def outputs_of(response: Response) -> dict[str, Any]:
    """Output name to its values, from JSON or from the bytes behind it."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get("inference-header-content-length", len(response.content)))
    tail, found = response.content[length:], {}
    for output in json.loads(response.content[:length])["outputs"]:
        if "data" in output:
            found[output["name"]] = np.array(output["data"]).reshape(output["shape"])
            continue
        size = output["parameters"]["binary_data_size"]
        raw, tail = tail[:size], tail[size:]
        found[output["name"]] = np.array(_texts(raw)) if output["datatype"] == "BYTES" else np.frombuffer(raw, "<f4")
        found[output["name"]] = found[output["name"]].reshape(output["shape"])
    assert tail == b""
    return found


def _texts(raw: bytes) -> list[str]:
    texts: list[str] = []
    while raw:
        (length,) = struct.unpack("<I", raw[:4])
        texts.append(raw[4 : 4 + length].decode())
        raw = raw[4 + length :]
    return texts


def assert_levels(response: Response) -> None:
    found = outputs_of(response)
    assert found["verdict"].tolist() == list(LEVELS)
    expected = np.array(list(LEVELS.values())) / 255
    np.testing.assert_allclose(found["score"], expected, atol=1e-6)
    assert found["anomaly_map"].shape == (4, SIZE, SIZE)
    np.testing.assert_allclose(found["anomaly_map"].max(axis=(1, 2)), expected, atol=1e-6)
    np.testing.assert_allclose(found["anomaly_map"].min(axis=(1, 2)), expected, atol=1e-6)


IMAGES = np.stack([gray(level) for level in LEVELS.values()])
PICTURES = [png(image) for image in IMAGES]


def test_metadata_and_health(client: TestClient) -> None:
    server = client.get("/v2").json()
    assert (server["name"], server["extensions"]) == ("draem-inspect", ["binary_tensor_data"])
    for url in ("/v2/health/live", "/v2/health/ready", "/v2/models/part/ready", "/v2/models/part/versions/1/ready"):
        assert client.get(url).status_code == 200
    metadata = client.get("/v2/models/part").json()
    assert metadata == client.get("/v2/models/part/versions/1").json()
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("part", ["1"], "onnxruntime_onnx")
    assert metadata["inputs"] == [
        {"name": "image", "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]},
        {"name": "image_bytes", "datatype": "BYTES", "shape": [-1]},
    ]
    assert {output["name"]: (output["datatype"], output["shape"]) for output in metadata["outputs"]} == {
        "anomaly_map": ("FP32", [-1, SIZE, SIZE]),
        "score": ("FP32", [-1]),
        "verdict": ("BYTES", [-1]),
    }


@pytest.mark.parametrize("nested", [True, False])
def test_json_tensors(client: TestClient, nested: bool) -> None:
    data = IMAGES.tolist() if nested else IMAGES.ravel().tolist()
    response = client.post(INFER, json=image_input(IMAGES, data=data) | {"id": "17"})
    assert_levels(response)
    reply = response.json()
    assert (reply["id"], reply["model_name"], reply["model_version"]) == ("17", "part", "1")
    assert [output["datatype"] for output in reply["outputs"]] == ["FP32", "FP32", "BYTES"]


def test_encoded_pictures_in_json(client: TestClient) -> None:
    assert_levels(client.post(INFER, json=bytes_input(PICTURES)))


def test_binary_in_and_out(client: TestClient) -> None:
    tail = IMAGES.tobytes()
    request = {
        "inputs": [binary_input("image", "UINT8", list(IMAGES.shape), len(tail))],
        "parameters": {"binary_data_output": True},
    }
    response = send_binary(client, request, tail, "/v2/models/part/versions/1/infer")
    assert response.headers["content-type"] == "application/octet-stream"
    assert all("data" not in o for o in json.loads(response.content.split(b"]}", 1)[0] + b"]}")["outputs"])
    assert_levels(response)
    packed = elements(PICTURES)
    assert_levels(send_binary(client, {"inputs": [binary_input("image_bytes", "BYTES", [4], len(packed))]}, packed))


def test_only_the_outputs_asked_for_each_as_asked(client: TestClient) -> None:
    asked = [{"name": "verdict", "parameters": {"binary_data": False}}, {"name": "score"}]
    request = image_input(IMAGES[2:3]) | {"outputs": asked, "parameters": {"binary_data_output": True}}
    response = client.post(INFER, json=request)
    length = int(response.headers["inference-header-content-length"])
    verdict, score = json.loads(response.content[:length])["outputs"]
    assert verdict["data"] == ["NG"]
    assert (score["name"], score["parameters"]) == ("score", {"binary_data_size": 4})
    assert struct.unpack("<f", response.content[length:])[0] == pytest.approx(0.8)


def test_the_same_as_inspect_for_a_picture_of_another_size(client: TestClient) -> None:
    picture = gray(50, 2 * SIZE)
    picture[20:40, 60:120] = 140
    found = outputs_of(client.post(INFER, json=bytes_input([png(picture)])))
    reply = post(client, png(picture)).json()
    assert (found["verdict"][0], float(found["score"][0])) == (reply["verdict"], pytest.approx(reply["score"]))
    stretched = np.full((SIZE, 3 * SIZE, 3), 51, np.uint8)
    assert outputs_of(client.post(INFER, json=bytes_input([png(stretched)])))["verdict"][0] == "NOT_INSPECTED"


def test_a_tensor_has_the_shape_of_the_network_whatever_that_of_the_photos(client: TestClient) -> None:
    change = {"quality": {"aspect_min": 1.3, "aspect_max": 1.4, "brightness_min": 60.0}}
    assert client.patch("/recipes/part/limits", json=change).status_code == 200
    images = np.stack([gray(51), gray(102), gray(204)])
    patient = {"X-Deadline-Ms": "600000"}
    # The other limits stay.
    verdicts = outputs_of(client.post(INFER, json=image_input(images), headers=patient))["verdict"].tolist()
    assert verdicts == ["NOT_INSPECTED", "REVIEW", "NG"]
    pictures = bytes_input([png(image) for image in images])
    verdicts = outputs_of(client.post(INFER, json=pictures, headers=patient))["verdict"].tolist()
    assert verdicts == ["NOT_INSPECTED"] * 3
    assert client.get("/recipes").json()[0]["quality"]["aspect_min"] == 1.3


ONE = gray(51)[None]
FLAT = ONE.ravel().tolist()


@pytest.mark.parametrize(
    ("request_body", "named"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": image_input(ONE)["inputs"] * 2}, "inputs"),
        (image_input(ONE, name="pixels"), "name"),
        (image_input(ONE, datatype="FP32"), "FP32"),
        (image_input(ONE, shape=[1, 3, SIZE, SIZE]), "shape"),
        (image_input(ONE, shape=[1, 3, SIZE, SIZE], data=FLAT), "shape"),
        (image_input(ONE[:, : SIZE // 2]), "shape"),
        (image_input(ONE, shape=[0, SIZE, SIZE, 3]), "shape"),
        (image_input(ONE, shape=[True, SIZE, SIZE, 3]), "shape"),
        (image_input(np.repeat(ONE, 9, axis=0)), "send fewer images"),
        (image_input(ONE, data=FLAT[:-1]), "image: "),
        (image_input(ONE, data=[256, *FLAT[1:]]), "image: "),
        (image_input(ONE, data=[0.5, *FLAT[1:]]), "image: "),
        (image_input(ONE, data=["51", *FLAT[1:]]), "image: "),
        (image_input(ONE, data=ONE.transpose(0, 3, 1, 2).tolist()), "nested"),
        (image_input(ONE, data=None), "binary_data_size"),
        (image_input(ONE, parameters={"binary_data_size": 12288}), "binary_data_size"),
        (image_input(ONE) | {"outputs": [{"name": "mask"}]}, "outputs"),
        (image_input(ONE) | {"outputs": [{"name": "score"}] * 2}, "outputs"),
        (image_input(ONE) | {"parameters": {"binary_data_output": "yes"}}, "binary_data_output"),
        (bytes_input([PICTURES[0]], shape=[2]), "2 images"),
        (bytes_input([PICTURES[0]] * 2, shape=[1]), "1 images"),
        (bytes_input([PICTURES[0]], data=["no base64!"]), "image_bytes: "),
        (bytes_input([PICTURES[0]], data=[7]), "image_bytes: "),
        (bytes_input([PICTURES[0]], datatype="UINT8"), "UINT8"),
    ],
)
def test_malformed_requests_name_what_is_wrong(client: TestClient, request_body: dict[str, Any], named: str) -> None:
    body = assert_problem(client.post(INFER, json=request_body), 422, "invalid_request")
    assert named in str(body["detail"])
    assert body["error"] == body["detail"]


def test_no_json_is_named(client: TestClient) -> None:
    for content in (b"", b"{", b"\xff", b"[" * 100_000, b"7"):
        assert_problem(client.post(INFER, content=content), 422, "invalid_request")


def test_binary_sizes_must_add_up(client: TestClient) -> None:
    tail = ONE.tobytes()
    whole = binary_input("image", "UINT8", list(ONE.shape), len(tail))
    short = binary_input("image", "UINT8", list(ONE.shape), len(tail) - 1)
    for tensor, sent in ((whole, tail[:-1]), (whole, tail + b"x"), (short, tail[:-1]), (short, tail)):
        assert_problem(send_binary(client, {"inputs": [tensor]}, sent), 422, "invalid_request")
    assert_problem(send_binary(client, image_input(ONE), b"x"), 422, "invalid_request")
    packed = elements(PICTURES[:1])
    for sent in (packed[:-1], packed[:3], packed + b"\0", b"\xff\xff\xff\xff" + packed[4:], elements(PICTURES[:2])):
        tensor = binary_input("image_bytes", "BYTES", [1], len(sent))
        assert_problem(send_binary(client, {"inputs": [tensor]}, sent), 422, "invalid_request")
    beyond = client.post(INFER, json=image_input(ONE), headers={"Inference-Header-Content-Length": "99999999"})
    assert "Inference-Header-Content-Length" in str(assert_problem(beyond, 422, "invalid_request")["detail"])
    assert outputs_of(send_binary(client, {"inputs": [whole]}, tail))["verdict"].tolist() == ["OK"]


def test_one_damaged_picture_fails_the_request_and_no_verdict_is_counted(client: TestClient) -> None:
    response = client.post(INFER, json=bytes_input([PICTURES[0], b"text"]))
    assert_problem(response, 400, "unsupported_image")
    counted = client.get("/counters").json()["part"]
    assert (counted["total"], counted["not_inspected"]) == (1, {"unsupported_image": 1})


def test_every_picture_is_counted_by_its_verdict(client: TestClient) -> None:
    outputs_of(client.post(INFER, json=image_input(IMAGES[[0, 0, 2]])))
    text = client.get("/metrics").text
    assert 'inspect_verdicts_total{recipe="part",verdict="OK"} 2.0' in text
    assert 'inspect_verdicts_total{recipe="part",verdict="NG"} 1.0' in text
    assert client.get("/counters").json()["part"]["total"] == 3


def test_other_names_and_versions_are_unknown(models: Path) -> None:
    make_bundle(models, version="2")
    with TestClient(create_app(Settings(records_dir=None, models_dir=models))) as client:
        wait_until_loaded(client)
        for url in ("/v2/models/part/versions/1", "/v2/models/part/versions/1/ready"):
            assert "2 is" in str(assert_problem(client.get(url), 404, "unknown_recipe")["detail"])
        old = client.post("/v2/models/part/versions/1/infer", json=image_input(ONE))
        assert_problem(old, 404, "unknown_recipe")
        assert_problem(client.post("/v2/models/bottle/infer", json=image_input(ONE)), 404, "unknown_recipe")
        assert client.post("/v2/models/part/versions/2/infer", json=image_input(ONE)).json()["model_version"] == "2"


def test_a_key_is_needed_where_there_are_keys(models: Path, tmp_path: Path) -> None:
    key, line = new_key("inspect", "camera 4")
    (tmp_path / "keys").write_text(line)
    settings = Settings(records_dir=None, models_dir=models, api_keys_file=tmp_path / "keys", max_upload_bytes=200_000)
    with TestClient(create_app(settings)) as client:
        wait_until_loaded(client)
        assert_problem(client.post(INFER, json=image_input(ONE)), 401, "unauthorized")
        assert client.post(INFER, json=image_input(ONE), headers={"X-API-Key": key}).status_code == 200
        large = client.post(INFER, content=bytes(200_001), headers={"X-API-Key": key})
        assert_problem(large, 413, "body_too_large")


def test_the_images_of_a_request_share_a_batch(models: Path) -> None:
    backend = FakeBackend()
    with station(models, opens(backend)) as client:
        backend.batches.clear()
        held = backend.release = threading.Semaphore(0)
        replies: list[Response] = []
        asking = threading.Thread(target=lambda: replies.append(client.post(INFER, json=image_input(IMAGES))))
        asking.start()
        while not (sum(backend.batches) and sum(backend.batches) + client.get("/state").json()["queue_depth"] == 4):
            assert asking.is_alive()
        held.release(4)
        asking.join(300)
        assert len(backend.batches) <= 2
        assert outputs_of(replies[0])["verdict"].tolist() == list(LEVELS)


def test_failures_are_problems_and_never_verdicts(models: Path) -> None:
    broken, poisoned, slow, held = (threading.Event() for _ in range(4))

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if broken.is_set():
            raise RuntimeError("device lost")
        if slow.is_set():
            held.wait(0.6)
        maps, scores = brightness(images)
        if poisoned.is_set():
            maps[-1, 0, 0] = np.nan
        return maps, scores

    backend = FakeBackend(run)
    with station(models, opens(backend)) as client:
        two = image_input(IMAGES[:2])
        poisoned.set()
        assert_problem(client.post(INFER, json=two), 500, "untrusted_result")
        poisoned.clear()
        broken.set()
        assert_problem(client.post(INFER, json=two), 503, "backend_failed")
        assert client.get("/v2/health/ready").status_code == client.get("/v2/models/part/ready").status_code == 503
        broken.clear()
        assert outputs_of(client.post(INFER, json=two))["verdict"].tolist() == ["OK", "REVIEW"]
        assert client.get("/v2/health/ready").status_code == client.get("/v2/models/part/ready").status_code == 200
        slow.set()
        # One image on an idle device is always tried: its result comes, too late.
        late = client.post(INFER, json=image_input(ONE), headers={"X-Deadline-Ms": "500"})
        assert_problem(late, 504, "deadline_passed")
        counted = client.get("/counters").json()["part"]
        assert (counted["OK"], counted["REVIEW"], counted["NOT_INSPECTED"]) == (1, 1, 3)


def test_requests_are_recorded_with_part_picture_and_stages(models: Path, tmp_path: Path) -> None:
    settings = Settings(models_dir=models, records_dir=tmp_path / "records", record_images="all")
    with TestClient(create_app(settings)) as client:
        wait_until_loaded(client)
        two = client.post(INFER, json=image_input(IMAGES[[0, 2]]), headers={"X-Part-Id": "A 17"})
        assert outputs_of(two)["verdict"].tolist() == ["OK", "NG"]
        outputs_of(client.post(INFER, json=bytes_input([PICTURES[1]])))
        text = client.get("/metrics").text
        assert 'inspect_stage_seconds_count{recipe="part",stage="model"} 3.0' in text
        wait_for(lambda: len(client.get("/inspections").json()) == 3)
        last, *both = replies = client.get("/inspections").json()
        for reply in replies:
            # Images are written after all rows.
            image = f"/inspections/{reply['inspection_id']}/image"
            wait_for(lambda image=image: client.get(image).status_code == 200)
        assert (last["verdict"], last["part_id"]) == ("REVIEW", None)
        assert client.get(f"/inspections/{last['inspection_id']}/image").content == PICTURES[1]
        assert {(reply["verdict"], reply["part_id"]) for reply in both} == {("OK", "A 17"), ("NG", "A 17")}
        for reply in both:
            assert reply["timings_ms"].keys() >= {"read", "decode", "queue", "model", "postprocess", "total"}
            picture = client.get(f"/inspections/{reply['inspection_id']}/image").content
            level = LEVELS[reply["verdict"]]
            assert (cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR) == level).all()


def test_a_trigger_gets_the_answer_it_got_before(models: Path, tmp_path: Path) -> None:
    settings = Settings(models_dir=models, records_dir=tmp_path / "records")
    trigger = {"X-Trigger-Id": "T 4"}
    with TestClient(create_app(settings)) as client:
        wait_until_loaded(client)
        assert outputs_of(client.post(INFER, json=image_input(IMAGES[1:2]), headers=trigger)).keys() == {
            *("anomaly_map", "score", "verdict")
        }
        many = client.post(INFER, json=image_input(IMAGES[:2]), headers=trigger)
        assert_problem(many, 422, "invalid_request")
    with TestClient(create_app(settings)) as client:
        wait_until_loaded(client)
        again = client.post(INFER, json=image_input(IMAGES[1:2]), headers=trigger)
        assert again.headers["x-replayed"] == "true"
        found = outputs_of(again)
        assert (found["verdict"].tolist(), found["score"].tolist()) == (["REVIEW"], [pytest.approx(0.4)])
        assert "anomaly_map" not in found
        wants_map = image_input(IMAGES[1:2]) | {"outputs": [{"name": "anomaly_map"}]}
        assert_problem(client.post(INFER, json=wants_map, headers=trigger), 422, "invalid_request")
        other = client.post(INFER, json=image_input(IMAGES[2:3]), headers=trigger)
        assert_problem(other, 409, "trigger_reused")
        counted = client.get("/counters").json()["part"]
        # Of both runs: counters come from the records. An answer that is given again is no part.
        assert counted["not_inspected"] == {"invalid_request": 2, "trigger_reused": 1}
        assert counted["total"] == 4


def test_a_frozen_camera_is_noticed(client: TestClient) -> None:
    camera = {"X-Camera-Id": "17"}
    assert outputs_of(client.post(INFER, json=image_input(ONE), headers=camera))["verdict"].tolist() == ["OK"]
    again = client.post(INFER, json=image_input(ONE), headers=camera)
    assert outputs_of(again)["verdict"].tolist() == ["NOT_INSPECTED"]
