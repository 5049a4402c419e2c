"""Open Inference Protocol v2 (KServe, Triton) over REST: tensors in, maps, scores and verdicts out.

A tensor in the body is JSON, or bytes behind the JSON header (extension `binary_tensor_data`). Every image passes the
same quality gate, queue and judge as in `/inspect`; a request is answered for all of its images or for none.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import time
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.images import Pixels, decode
from service.inspection import Decoder, Judged
from service.problems import ProblemError, openapi_responses
from service.recipes import Recipe
from service.settings import Settings
from service.station import choose_recipe, station_of, why_not_ready
from service.uploads import arrival, read_body

_LENGTH = struct.Struct("<I")
_DATATYPES = {"anomaly_map": "FP32", "score": "FP32", "verdict": "BYTES"}
_BINARY = {"type": "string", "format": "binary"}
_REQUEST_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"type": "object", "required": ["inputs"]}},
        "application/octet-stream": {"schema": _BINARY},
    },
}

_RESPONSES: dict[int | str, dict[str, Any]] = dict(openapi_responses())
_RESPONSES_INFER = _RESPONSES | {200: {"content": {"application/octet-stream": {"schema": _BINARY}}}}
_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "Not ready"}}

router = APIRouter(prefix="/v2")

Deadline = Annotated[float | None, Header(ge=1, le=600_000, description="time this request may take")]
HeaderLength = Annotated[
    int | None, Header(ge=0, alias="Inference-Header-Content-Length", description="bytes of JSON before binary tensors")
]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class InputTensor(_Strict):
    """`image` UINT8 `[N, H, W, 3]` of the recipe's size, or `image_bytes` BYTES `[N]`, encoded pictures."""

    name: Literal["image", "image_bytes"]
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=4)]
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class OutputParameters(_Strict):
    model_config = ConfigDict(extra="forbid")

    binary_data: bool | None = None


class RequestedOutput(_Strict):
    name: Literal["anomaly_map", "score", "verdict"]
    parameters: OutputParameters = OutputParameters()


class RequestParameters(_Strict):
    binary_data_output: bool = False


class InferRequest(_Strict):
    """The JSON part of a request; without `outputs` all of them are sent."""

    id: str | None = None
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[RequestedOutput], Field(max_length=3)] = []


@router.get("")
async def server_metadata(request: Request) -> dict[str, Any]:
    """What answers here."""
    return {"name": request.app.title, "version": request.app.version, "extensions": ["binary_tensor_data"]}


@router.get("/health/live")
async def live() -> dict[str, bool]:
    """200 while the process can answer at all."""
    return {"live": True}


@router.get("/health/ready", responses=_NOT_READY)
async def ready(request: Request) -> JSONResponse:
    """200 when images can be inspected; 503 otherwise, as `/readyz`."""
    reason = why_not_ready(station_of(request))
    return JSONResponse({"ready": reason is None, "reason": reason}, 503 if reason else 200)


@router.get("/models/{model}", responses=_RESPONSES)
async def model_metadata(request: Request, model: str) -> dict[str, Any]:
    """Tensors of a recipe."""
    return _metadata(_choose(request, model, None))


@router.get("/models/{model}/versions/{version}", responses=_RESPONSES)
async def version_metadata(request: Request, model: str, version: str) -> dict[str, Any]:
    """Tensors of a recipe, where this version is in service."""
    return _metadata(_choose(request, model, version))


@router.get("/models/{model}/ready", responses=_RESPONSES | _NOT_READY)
async def model_ready(request: Request, model: str) -> JSONResponse:
    """200 when the recipe can inspect."""
    return _ready(request, model, None)


@router.get("/models/{model}/versions/{version}/ready", responses=_RESPONSES | _NOT_READY)
async def version_ready(request: Request, model: str, version: str) -> JSONResponse:
    """200 when the recipe can inspect and this version is in service."""
    return _ready(request, model, version)


@router.post("/models/{model}/infer", responses=_RESPONSES_INFER, openapi_extra={"requestBody": _REQUEST_BODY})
async def infer(
    request: Request, model: str, header_length: HeaderLength = None, x_deadline_ms: Deadline = None
) -> Response:
    """Map, score and verdict of each image."""
    return await _infer(request, model, None, header_length, x_deadline_ms)


@router.post(
    "/models/{model}/versions/{version}/infer",
    responses=_RESPONSES_INFER,
    openapi_extra={"requestBody": _REQUEST_BODY},
)
async def version_infer(
    request: Request, model: str, version: str, header_length: HeaderLength = None, x_deadline_ms: Deadline = None
) -> Response:
    """Map, score and verdict of each image, where this version is in service."""
    return await _infer(request, model, version, header_length, x_deadline_ms)


async def _infer(
    request: Request, model: str, version: str | None, header_length: int | None, deadline_ms: float | None
) -> Response:
    started = time.monotonic()
    station = station_of(request)
    station.access.require(request, "inspect")
    if station.draining:
        raise ProblemError("draining", "the service is shutting down: send it to another", retry_after_s=1.0)
    deadline = started + (deadline_ms or station.settings.deadline_ms) / 1000
    recipe = _choose(request, model, version)
    station.inspector.admit(deadline)
    async with arrival(deadline):
        body = await read_body(request, station.settings.max_upload_bytes)
    asked, decoders = await asyncio.to_thread(_parse, body, header_length, recipe, station.settings)
    judged = await station.inspector.judge_all(decoders, recipe, deadline)
    response = await asyncio.to_thread(_response, asked, recipe, judged)
    if time.monotonic() > deadline:
        raise ProblemError("deadline_passed", "the deadline passed while the result was being encoded")
    for one in judged:
        station.inspector.count(recipe, one)
    return response


def _choose(request: Request, model: str, version: str | None) -> Recipe:
    recipe = choose_recipe(station_of(request), model)
    if version not in {None, recipe.version}:
        raise ProblemError("unknown_recipe", f"version {version!r} of {model!r} is not in service: {recipe.version} is")
    return recipe


def _ready(request: Request, model: str, version: str | None) -> JSONResponse:
    recipe = _choose(request, model, version)
    can = recipe.model.failures == 0 and not station_of(request).draining
    return JSONResponse({"name": recipe.name, "ready": can}, 200 if can else 503)


def _metadata(recipe: Recipe) -> dict[str, Any]:
    height, width = recipe.shape
    shapes = {"anomaly_map": [-1, height, width], "score": [-1], "verdict": [-1]}
    return {
        "name": recipe.name,
        "versions": [recipe.version],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, height, width, 3]}],
        "outputs": [{"name": name, "datatype": _DATATYPES[name], "shape": shape} for name, shape in shapes.items()],
    }


def _invalid(detail: str) -> ProblemError:
    return ProblemError("invalid_request", detail)


def _parse(
    body: bytes, header_length: int | None, recipe: Recipe, settings: Settings
) -> tuple[InferRequest, list[Decoder]]:
    """The request and one decoder for each of its images."""
    split = len(body) if header_length is None else header_length
    if split > len(body):
        raise _invalid(f"Inference-Header-Content-Length is {split}, the body has {len(body)} bytes")
    try:
        asked = InferRequest.model_validate_json(body[:split])
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)[:5]
        details = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in found)
        raise _invalid(details) from error
    if len({output.name for output in asked.outputs}) < len(asked.outputs):
        raise _invalid("outputs: one is named twice")
    tensor = asked.inputs[0]
    _check_layout(tensor, recipe, settings.max_batch)
    binary = _binary_part(tensor, body[split:])
    if tensor.name == "image":
        return asked, [partial(_as_is, pixels) for pixels in _pixels(tensor, binary)]
    pictures = _texts(tensor) if binary is None else _split(binary)
    if len(pictures) != tensor.shape[0]:
        raise _invalid(f"image_bytes: shape says {tensor.shape[0]} pictures, data has {len(pictures)}")
    return asked, [partial(decode, picture, max_pixels=settings.max_pixels) for picture in pictures]


def _as_is(pixels: Pixels) -> Pixels:
    return pixels


def _check_layout(tensor: InputTensor, recipe: Recipe, max_batch: int) -> None:
    datatype, rest = ("UINT8", [*recipe.shape, 3]) if tensor.name == "image" else ("BYTES", [])
    if tensor.datatype != datatype:
        raise _invalid(f"{tensor.name}: datatype is {tensor.datatype}, not {datatype}")
    if tensor.shape[1:] != rest:
        raise _invalid(f"{tensor.name}: shape is {tensor.shape}, not {['N', *rest]}")
    if tensor.shape[0] > max_batch:
        raise _invalid(f"{tensor.name}: {tensor.shape[0]} images in one request, more than {max_batch}")


def _binary_part(tensor: InputTensor, rest: bytes) -> bytes | None:
    """The bytes of a tensor behind the header, None for one in JSON."""
    size = tensor.parameters.get("binary_data_size")
    if (size is None) == (tensor.data is None):
        raise _invalid(f"{tensor.name}: needs either data or the parameter binary_data_size")
    if (size or 0) != len(rest) or isinstance(size, bool):
        raise _invalid(f"{tensor.name}: binary_data_size is {size}, behind the header are {len(rest)} bytes")
    return None if size is None else rest


def _pixels(tensor: InputTensor, binary: bytes | None) -> Pixels:
    """UINT8 `(N, H, W, 3)`."""
    raw = _flatten(tensor.data or [], tensor.shape) if binary is None else binary
    if len(raw) != (expected := int(np.prod(tensor.shape))):
        raise _invalid(f"image: shape {tensor.shape} is {expected} values, data has {len(raw)}")
    return np.frombuffer(raw, np.uint8).reshape(tensor.shape)


def _flatten(data: list[Any], shape: Sequence[int]) -> bytes:
    """Integers of 0 to 255, flat or nested as `shape`, as bytes."""
    try:
        for length in shape[1:]:
            if not (data and isinstance(data[0], list)):
                break
            if any(len(row) != length for row in data):
                raise _invalid(f"image: data is not nested as shape {list(shape)}")
            data = list(chain.from_iterable(data))
        return bytes(data)
    except (TypeError, ValueError) as error:
        raise _invalid("image: data holds something else than integers from 0 to 255") from error


def _texts(tensor: InputTensor) -> list[bytes]:
    """Encoded pictures from base64."""
    try:
        return [base64.b64decode(text, validate=True) for text in tensor.data or []]
    except (TypeError, ValueError) as error:
        raise _invalid("image_bytes: data holds something else than base64 strings") from error


def _split(binary: bytes) -> list[bytes]:
    """BYTES elements: each its length, 4 bytes little-endian, and then itself."""
    elements: list[bytes] = []
    start = 0
    while start < len(binary):
        if start + _LENGTH.size > len(binary):
            raise _invalid("image_bytes: the length of an element is cut short")
        (length,) = _LENGTH.unpack_from(binary, start)
        start += _LENGTH.size
        if start + length > len(binary):
            raise _invalid(f"image_bytes: element {len(elements)} is cut short")
        elements.append(binary[start : start + length])
        start += length
    return elements


def _response(asked: InferRequest, recipe: Recipe, judged: Sequence[Judged]) -> Response:
    wanted = asked.outputs or [RequestedOutput(name=name) for name in ("anomaly_map", "score", "verdict")]
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for output in wanted:
        asks = output.parameters.binary_data
        entry, part = _output(output.name, judged, asked.parameters.binary_data_output if asks is None else asks)
        outputs.append(entry)
        parts.extend([] if part is None else [part])
    header: dict[str, Any] = {"model_name": recipe.name, "model_version": recipe.version, "outputs": outputs}
    if asked.id is not None:
        header["id"] = asked.id
    text = json.dumps(header, allow_nan=False).encode()
    if not parts:
        return Response(text, media_type="application/json")
    headers = {"Inference-Header-Content-Length": str(len(text))}
    return Response(b"".join([text, *parts]), media_type="application/octet-stream", headers=headers)


def _output(name: str, judged: Sequence[Judged], binary: bool) -> tuple[dict[str, Any], bytes | None]:
    """The entry of an output: `anomaly_map` `[N, H, W]`, `score` `[N]` or `verdict` `[N]`; its bytes if `binary`."""
    if name == "verdict":
        words = [str(one.verdict) for one in judged]
        shape, data = [len(words)], words if not binary else []
        raw = b"".join(_LENGTH.pack(len(word)) + word.encode() for word in words)
    else:
        array = np.stack([one.anomaly_map if name == "anomaly_map" else np.float32(one.score) for one in judged])
        array = array.astype("<f4", copy=False)
        shape, data = list(array.shape), [] if binary else array.ravel().tolist()
        raw = array.tobytes()
    entry = {"name": name, "datatype": _DATATYPES[name], "shape": shape}
    if binary:
        return entry | {"parameters": {"binary_data_size": len(raw)}}, raw
    return entry | {"data": data}, None
