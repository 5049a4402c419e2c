"""The Open Inference Protocol over gRPC, with Triton's own client: verdicts, refusals and records as by HTTP."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import numpy as np
import pytest
import tritonclient.grpc as triton
from bundles import gray, make_bundle, png
from fakes import wait_for
from ports import free_port
from processes import running_service
from tritonclient.grpc import service_pb2

from service.http.access import new_key
from service.http.grpc_messages import MESSAGES, SERVICE

GOOD, BAD = png(gray(51)), png(gray(204))
Station = tuple[subprocess.Popen[bytes], httpx2.Client, str]


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    folder = tmp_path_factory.mktemp("station")
    make_bundle(folder / "models")
    port = free_port()
    with running_service(
        folder / "models", folder / "log", grpc_port=port, max_upload_bytes=100_000, drain_grace_s=0
    ) as (process, http):
        yield process, http, f"127.0.0.1:{port}"
        assert "Traceback" not in (folder / "log").read_text()


@pytest.fixture
def client(station: Station) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(station[2]) as found:
        yield found


def _tensor(*pictures: np.ndarray) -> triton.InferInput:
    images = np.stack(pictures)
    tensor = triton.InferInput("image", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    return tensor


def _pictures(*pictures: bytes) -> triton.InferInput:
    tensor = triton.InferInput("image_bytes", [len(pictures)], "BYTES")
    tensor.set_data_from_numpy(np.array(pictures, object))
    return tensor


def _refused(call: Any) -> tuple[str, str]:
    with pytest.raises(triton.InferenceServerException) as told:
        call()
    return str(told.value.status()).removeprefix("StatusCode."), str(told.value.message())


def test_the_messages_are_those_of_the_protocol() -> None:
    inner = (
        service_pb2.ModelInferRequest,
        service_pb2.ModelInferResponse,
        service_pb2.ModelMetadataResponse,
        service_pb2,
    )
    for name, message in MESSAGES.items():
        theirs = next(getattr(one, name) for one in inner if hasattr(one, name)).DESCRIPTOR
        expected = {field.name: (field.number, field.type) for field in theirs.fields}
        assert {field.name: (field.number, field.type) for field in message.DESCRIPTOR.fields} == expected, name
    assert service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name == SERVICE


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("part")
    assert client.is_model_ready("part", "1")
    assert client.get_server_metadata().name == "draem-inspect"
    model = client.get_model_metadata("part")
    assert (model.name, list(model.versions)) == ("part", ["1"])
    assert {one.name: list(one.shape) for one in model.inputs} == {"image": [-1, 64, 64, 3], "image_bytes": [-1]}
    assert _refused(lambda: client.get_model_metadata("none"))[0] == "NOT_FOUND"
    assert _refused(lambda: client.is_model_ready("part", "9"))[0] == "NOT_FOUND"


def test_verdicts_scores_and_maps_are_those_of_http(station: Station, client: triton.InferenceServerClient) -> None:
    by_http = [station[1].post("/inspect", content=one, headers={"Content-Type": "image/png"}) for one in (GOOD, BAD)]
    for tensor in (_tensor(gray(51), gray(204)), _pictures(GOOD, BAD)):
        found = client.infer("part", [tensor], request_id="42")
        assert found.get_response().id == "42"
        assert [one.decode() for one in found.as_numpy("verdict")] == [one.json()["verdict"] for one in by_http]
        np.testing.assert_allclose(found.as_numpy("score"), [one.json()["score"] for one in by_http], atol=1e-6)
        assert found.as_numpy("anomaly_map").shape == (2, 64, 64)
    some = client.infer("part", [_tensor(gray(51))], model_version="1", outputs=[triton.InferRequestedOutput("score")])
    assert [output.name for output in some.get_response().outputs] == ["score"]


def test_typed_contents_are_read_too(station: Station) -> None:
    request = service_pb2.ModelInferRequest(model_name="part")
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=[1, 64, 64, 3])
    tensor.contents.uint_contents.extend(gray(51).ravel().tolist())
    encoded = service_pb2.ModelInferRequest(model_name="part")
    encoded.inputs.add(name="image_bytes", datatype="BYTES", shape=[1]).contents.bytes_contents.append(GOOD)
    with grpc.insecure_channel(station[2]) as channel:
        infer = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        for sent in (request, encoded):
            reply = infer(sent)
            verdict = next(i for i, output in enumerate(reply.outputs) if output.name == "verdict")
            assert reply.raw_output_contents[verdict] == b"\x02\0\0\0OK"


def test_a_part_is_on_record_with_its_names_and_a_trigger_gets_its_answer_again(
    station: Station, client: triton.InferenceServerClient
) -> None:
    headers = {"x-part-id": "A 17", "x-trigger-id": "t 1", "x-lot-id": "L 4"}
    score = [triton.InferRequestedOutput("score"), triton.InferRequestedOutput("verdict")]
    first, again = (client.infer("part", [_pictures(GOOD)], outputs=score, headers=headers) for _ in range(2))
    assert first.as_numpy("score") == again.as_numpy("score")
    assert again.get_response().parameters["replayed"].bool_param
    wait_for(lambda: len(station[1].get("/inspections?part_id=A 17&lot=L 4").json()) == 1)
    status, sentence = _refused(lambda: client.infer("part", [_pictures(BAD)], outputs=score, headers=headers))
    assert status == "FAILED_PRECONDITION"
    assert "trigger 't 1' was answered for another image" in sentence


REFUSED = {
    "no recipe": ("NOT_FOUND", lambda client: client.infer("none", [_pictures(GOOD)])),
    "a name with a path": ("NOT_FOUND", lambda client: client.infer("part/infer", [_pictures(GOOD)])),
    "no image": ("INVALID_ARGUMENT", lambda client: client.infer("part", [_pictures(b"no picture")])),
    "another shape": ("INVALID_ARGUMENT", lambda client: client.infer("part", [_tensor(gray(51, 32))])),
    "two inputs": ("INVALID_ARGUMENT", lambda client: client.infer("part", [_pictures(GOOD), _pictures(GOOD)])),
    "no input": ("INVALID_ARGUMENT", lambda client: client.infer("part", [])),
    "an unknown output": (
        "INVALID_ARGUMENT",
        lambda client: client.infer("part", [_pictures(GOOD)], outputs=[triton.InferRequestedOutput("mask")]),
    ),
    "an unknown parameter": (
        "INVALID_ARGUMENT",
        lambda client: client.infer("part", [_pictures(GOOD)], parameters={"threshold": "0.1"}),
    ),
    "an unknown header": (
        "INVALID_ARGUMENT",
        lambda client: client.infer("part", [_pictures(GOOD)], headers={"x-part-number": "1"}),
    ),
    "a deadline that is none": (
        "INVALID_ARGUMENT",
        lambda client: client.infer("part", [_pictures(GOOD)], headers={"x-deadline-ms": "soon"}, client_timeout=99),
    ),
    "too large": ("RESOURCE_EXHAUSTED", lambda client: client.infer("part", [_pictures(bytes(500_000))])),
    "too large for the app": ("RESOURCE_EXHAUSTED", lambda client: client.infer("part", [_pictures(bytes(120_000))])),
}


@pytest.mark.parametrize("name", REFUSED)
def test_each_refusal_is_a_status_with_a_sentence(client: triton.InferenceServerClient, name: str) -> None:
    expected, call = REFUSED[name]
    status, sentence = _refused(lambda: call(client))
    assert status == expected
    assert len(sentence) > 10


def test_a_refusal_has_a_verdict_and_is_on_record(station: Station) -> None:
    request = service_pb2.ModelInferRequest(model_name="part")
    request.inputs.add(name="image_bytes", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"nothing")
    with grpc.insecure_channel(station[2]) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer", service_pb2.ModelInferRequest.SerializeToString)
        with pytest.raises(grpc.RpcError) as told:
            infer(request, metadata=[("x-part-id", "refused by gRPC")])
        metadata = dict(told.value.trailing_metadata())
        assert (metadata["x-verdict"], metadata["code"]) == ("NOT_INSPECTED", "unsupported_image")
        # A field that the protocol does not have, number 99.
        odd = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        with pytest.raises(grpc.RpcError, match="field 99"):
            odd(request.SerializeToString() + b"\x98\x06\x01")
    wait_for(lambda: len(station[1].get("/inspections?part_id=refused by gRPC&verdict=NOT_INSPECTED").json()) == 1)


def test_contents_of_two_kinds_are_refused_by_name(station: Station) -> None:
    request = service_pb2.ModelInferRequest(model_name="part")
    contents = request.inputs.add(name="image_bytes", datatype="BYTES", shape=[1]).contents
    contents.bytes_contents.append(GOOD)
    contents.int_contents.append(7)
    with grpc.insecure_channel(station[2]) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer", service_pb2.ModelInferRequest.SerializeToString)
        with pytest.raises(grpc.RpcError, match=r"inputs\.0\.bytes_contents: not known"):
            infer(request)


@pytest.mark.slow
def test_a_call_that_waited_while_the_service_stood_still_is_late(station: Station) -> None:
    request = service_pb2.ModelInferRequest(model_name="part")
    request.inputs.add(name="image_bytes", datatype="BYTES", shape=[1]).contents.bytes_contents.append(GOOD)
    names = [("x-deadline-ms", "1000")]
    with grpc.insecure_channel(station[2]) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer", service_pb2.ModelInferRequest.SerializeToString)
        infer(request, metadata=names)
        station[0].send_signal(signal.SIGSTOP)
        try:
            waiting = infer.future(request, metadata=names)
            time.sleep(1.5)
        finally:
            station[0].send_signal(signal.SIGCONT)
        with pytest.raises(grpc.RpcError) as told:
            waiting.result()
    # Too late already when it is let in.
    assert told.value.code() in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}


@pytest.mark.slow
def test_keys_are_asked_for_and_running_calls_end_before_the_service(tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    key, line = new_key("inspect", "camera")
    (keys := tmp_path / "keys").write_text(line + "\n")
    keys.chmod(0o600)
    address = f"127.0.0.1:{(port := free_port())}"
    with (
        running_service(tmp_path / "models", tmp_path / "log", grpc_port=port, api_keys_file=keys) as (process, _),
        triton.InferenceServerClient(address) as client,
    ):
        assert _refused(lambda: client.infer("part", [_pictures(GOOD)]))[0] == "UNAUTHENTICATED"
        assert _refused(lambda: client.get_model_metadata("part"))[0] == "UNAUTHENTICATED"
        for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
            assert client.infer("part", [_pictures(GOOD)], headers=headers).as_numpy("verdict") == [b"OK"]
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: "draining:" in (tmp_path / "log").read_text())
        # Images are still taken.
        assert not client.is_server_ready()
        assert client.infer("part", [_pictures(GOOD)], headers={"x-api-key": key}).as_numpy("verdict") == [b"OK"]
        assert process.wait() == -signal.SIGTERM
        assert _refused(lambda: client.is_server_live())[0] == "UNAVAILABLE"
