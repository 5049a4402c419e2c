"""Open Inference Protocol v2 (KServe, Triton) over REST: tensors in, maps, scores and verdicts out.

Images pass the quality gate, queue, judge and records of `/inspect`; a request is answered for all of its images or for
none.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from service.http.bodies import read_json
from service.http.context import choose_recipe, reason_for, station_of, why_not_alive, why_not_ready
from service.http.orders import CameraId, DeadlineMs, LotId, PartId, TriggerId, take_order, while_connected
from service.http.problems import openapi_responses
from service.http.replies import stored
from service.http.tensor_json import take_numbers
from service.http.uploads import arrival, read_body, require_type
from service.images.cropping import shape_of_whole
from service.images.decoding import Pixels, decode
from service.settings import Settings
from service.station.inspection import Decoder, Inspection
from service.station.loading import Recipe
from service.station.problem import ProblemError

_Output = Literal["anomaly_map", "score", "verdict"]
_DATATYPES: dict[_Output, str] = {"anomaly_map": "FP32", "score": "FP32", "verdict": "BYTES"}
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_BODY = {"application/json": {"schema": {"type": "object", "required": ["inputs"]}}, **_BINARY}
_IMAGE_HINT = "; a bare image file goes to /inspect"
_IN_PATH = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
_VERSION: dict[str, Any] = {"parameters": [_IN_PATH]}
_POST: dict[str, Any] = {"requestBody": {"required": True, "content": _BODY}}
_RESPONSES: dict[int | str, dict[str, Any]] = openapi_responses()
_NOT_ALIVE: dict[int | str, dict[str, Any]] = {503: {"description": "Only a new process may help"}}
_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "Not ready"}}
_TENSORS: dict[int | str, dict[str, Any]] = {**_RESPONSES, 200: {"content": _BINARY}}

_UNKNOWN = (
    "not known: a request has id, inputs, outputs and the parameter binary_data_output; an input has name, shape, "
    "datatype, data and the parameter binary_data_size; an output has name and the parameter binary_data"
)

router = APIRouter(prefix="/v2")


class _Strict(BaseModel, strict=True, extra="forbid"):
    """What is not known is refused: what is passed over in silence could have mattered."""


class InputParameters(_Strict):
    binary_data_size: Annotated[int, Field(ge=0)] | None = None


class OutputParameters(_Strict):
    binary_data: bool | None = None


class RequestParameters(_Strict):
    binary_data_output: bool = False


class InputTensor(_Strict):
    """`image` UINT8 `[N, H, W, 3]` of the recipe's size, or `image_bytes` BYTES `[N]`, encoded images."""

    name: Literal["image", "image_bytes"]
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=4)]
    datatype: str
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class RequestedOutput(_Strict):
    name: _Output
    parameters: OutputParameters = OutputParameters()


class InferRequest(_Strict):
    id: str | None = None
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[RequestedOutput], Field(max_length=3)] = []


@dataclass(frozen=True)
class _Picture:
    """An image of a request as it was sent, and what decodes it."""

    sent: bytes | Pixels
    decode: Decoder


@router.get("")
async def server_metadata(request: Request) -> dict[str, Any]:
    """What answers here."""
    return {"name": request.app.title, "version": request.app.version, "extensions": ["binary_tensor_data"]}


@router.get("/health/live", responses=_NOT_ALIVE)
async def live(request: Request) -> JSONResponse:
    """200 while this process may inspect, now or later; 503 otherwise, as `/livez`."""
    reason = reason_for(request, why_not_alive(station_of(request)))
    return JSONResponse({"live": reason is None, "reason": reason}, 503 if reason else 200)


@router.get("/health/ready", responses=_NOT_READY)
async def ready(request: Request) -> JSONResponse:
    """200 when images can be inspected; 503 otherwise, as `/readyz`."""
    reason = reason_for(request, why_not_ready(station_of(request)))
    return JSONResponse({"ready": reason is None, "reason": reason}, 503 if reason else 200)


@router.get("/models/{model}", responses=_RESPONSES)
@router.get("/models/{model}/versions/{version}", responses=_RESPONSES, openapi_extra=_VERSION)
async def model_metadata(request: Request, model: str) -> dict[str, Any]:
    """Tensors of the recipe in service; a request brings one of the inputs."""
    recipe = _choose(request, model)
    spec = recipe.bundle.manifest.input
    shapes: dict[_Output, list[int]] = {"anomaly_map": [-1, *shape_of_whole(spec)], "score": [-1], "verdict": [-1]}
    tensor = {"name": "image", "datatype": "UINT8", "shape": [-1, spec.height, spec.width, 3]}
    return {
        "name": recipe.name,
        "versions": [recipe.version],
        "platform": "onnxruntime_onnx",
        "inputs": [
            *([tensor] if spec.crop is None else []),
            {"name": "image_bytes", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [{"name": name, "datatype": _DATATYPES[name], "shape": shape} for name, shape in shapes.items()],
    }


@router.get("/models/{model}/ready", responses=_RESPONSES | _NOT_READY)
@router.get("/models/{model}/versions/{version}/ready", responses=_RESPONSES | _NOT_READY, openapi_extra=_VERSION)
async def model_ready(request: Request, model: str) -> JSONResponse:
    """200 when the recipe can inspect; 503 after its backend failed or while the service shuts down."""
    recipe = _choose(request, model)
    can = recipe.model.failures == 0 and not station_of(request).drain.begun
    return JSONResponse({"name": recipe.name, "ready": can}, 200 if can else 503)


@router.post("/models/{model}/infer", responses=_TENSORS, openapi_extra=_POST)
@router.post("/models/{model}/versions/{version}/infer", responses=_TENSORS, openapi_extra=_POST | _VERSION)
async def infer(
    request: Request,
    model: str,
    inference_header_content_length: Annotated[int | None, Header(ge=0, description="bytes of JSON, if less")] = None,
    x_deadline_ms: DeadlineMs = None,
    x_part_id: PartId = None,
    x_trigger_id: TriggerId = None,
    x_camera_id: CameraId = None,
    x_lot_id: LotId = None,
) -> Response:
    """Map, score and verdict of each image, or the `outputs` asked for.

    A trigger is of one image. When it comes again with it, it gets the score and verdict it got before; the map is not
    kept.
    """
    order = take_order(request, model, x_deadline_ms, part=x_part_id, camera=x_camera_id, lot=x_lot_id)
    recipe, station = order.recipe, order.station
    # Triton's own client names no type.
    require_type(request, list(_BODY), _IMAGE_HINT, may_be_missing=True)
    body = await order.read(read_body)
    split = len(body) if inference_header_content_length is None else inference_header_content_length
    async with arrival(order.deadline):
        asked, pictures = await asyncio.to_thread(_parse, body, split, recipe, station.settings)
    if x_trigger_id is not None and len(pictures) != 1:
        raise ProblemError("invalid_request", f"X-Trigger-Id is of one image, not of {len(pictures)}")
    if asked.inputs[0].name == "image":
        order = replace(order, recipe=_of_any_shape(recipe), adapt=_of_any_shape)
    trigger = await order.hold(
        station.triggers.ask(
            recipe.name, x_trigger_id, pictures[0].sent, order.deadline, judge=order.judge, part=order.part
        )
    )
    if trigger.before is not None:
        return order.answer(_replay(asked, trigger.before))
    found = await while_connected(request, order.inspect([picture.decode for picture in pictures]))
    arrays = await asyncio.to_thread(_arrays, found)
    response = await asyncio.to_thread(_response, asked, (recipe.name, recipe.version), arrays)
    layout = {"tensor": True} if asked.inputs[0].name == "image" else None
    replies = [order.conclude(one, p.sent, trigger.trigger, layout) for one, p in zip(found, pictures, strict=True)]
    order.settle.append(partial(trigger.give, stored(replies[0])))
    return order.answer(response)


def _choose(request: Request, model: str) -> Recipe:
    station = station_of(request)
    station.access.require(request, "view")
    return choose_recipe(station, model, request.path_params.get("version"))


def _of_any_shape(recipe: Recipe) -> Recipe:
    """The recipe without limits on width over height: a tensor's is the network's, whatever the photo's was."""
    quality = recipe.limits.quality.model_copy(update={"aspect_min": 0.0, "aspect_max": math.inf})
    return replace(recipe, limits=replace(recipe.limits, quality=quality))


def _parse(body: bytes, split: int, recipe: Recipe, settings: Settings) -> tuple[InferRequest, list[_Picture]]:
    """The request and its images; `split` bytes of `body` are JSON."""
    if split > len(body):
        raise ProblemError("invalid_request", f"Inference-Header-Content-Length: {split} of {len(body)} bytes")
    try:
        text, numbers = take_numbers(body[:split], settings.max_batch * math.prod(recipe.shape) * 3)
    except ValueError as error:
        raise ProblemError("invalid_request", str(error)) from error
    try:
        asked = InferRequest.model_validate(read_json(text))
    except ValidationError as error:
        raise ProblemError("invalid_request", _named(error)) from error
    if len({output.name for output in asked.outputs}) < len(asked.outputs):
        raise ProblemError("invalid_request", "outputs: one is named twice")
    tensor = asked.inputs[0]
    try:
        _check_layout(tensor, len(body) - split, recipe, settings.max_batch)
        data = body[split:] if tensor.data is None else tensor.data
        if tensor.name == "image":
            # Copied, or a record of one of them would keep the whole request in memory.
            pixels = _pixels(data, tensor.shape) if numbers is None else numbers.pixels(tensor.shape)
            images = map(np.copy, pixels)
            return asked, [_Picture(pixels, partial(np.asarray, pixels)) for pixels in images]
        return asked, [
            _Picture(picture, partial(decode, picture, max_pixels=settings.max_pixels))
            for picture in _pictures(data, tensor.shape[0])
        ]
    except (TypeError, ValueError) as error:
        raise ProblemError("invalid_request", f"{tensor.name}: {error}") from error


def _named(error: ValidationError) -> str:
    """The first things that are wrong, each with its place and, for a name that is not known, those that are."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc']))[:128] or 'body'}: {_UNKNOWN if e['type'] == 'extra_forbidden' else e['msg']}"
        for e in error.errors(include_url=False, include_context=False, include_input=False)[:5]
    )


def _check_layout(tensor: InputTensor, binary_size: int, recipe: Recipe, max_batch: int) -> None:
    datatype, rest = ("UINT8", [*recipe.shape, 3]) if tensor.name == "image" else ("BYTES", [])
    # A tensor of the network's size has lost what the crop is there to keep, and a part of it is no photo.
    if tensor.name == "image" and recipe.bundle.manifest.input.crop:
        raise ValueError("the recipe inspects a part of the photo: send whole photos, encoded, as image_bytes")
    if tensor.datatype != datatype:
        raise ValueError(f"datatype is {tensor.datatype}, not {datatype}")
    if tensor.shape[1:] != rest:
        raise ValueError(f"shape is {tensor.shape}, not {['N', *rest]}")
    if tensor.shape[0] > max_batch:
        raise ValueError(f"{tensor.shape[0]} images in one request, more than {max_batch}")
    declared = tensor.parameters.binary_data_size
    if (declared is None) == (tensor.data is None):
        raise ValueError("needs either data or the parameter binary_data_size")
    if (declared or 0) != binary_size:
        raise ValueError(f"binary_data_size is {declared}, behind the JSON are {binary_size} bytes")


def _pixels(data: bytes | list[Any], shape: Sequence[int]) -> Pixels:
    """UINT8 `(N, H, W, 3)` from bytes."""
    if isinstance(data, list):
        raise ValueError("data is no array of whole numbers")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _pictures(data: bytes | list[Any], count: int) -> list[bytes]:
    """Encoded images from BYTES elements or base64 strings."""
    if isinstance(data, bytes):
        pictures = list(islice(_elements(data), count + 1))
    else:
        pictures = [base64.b64decode(text, validate=True) for text in data[: count + 1]]
    if len(pictures) != count:
        raise ValueError(f"shape says {count} images, data has {'more' if len(pictures) > count else len(pictures)}")
    return pictures


def _elements(binary: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(binary):
        begin = start + 4
        start = begin + int.from_bytes(binary[start:begin], "little")
        if start > len(binary):
            raise ValueError("the last element of the data is cut short")
        yield binary[begin:start]


def _arrays(found: Sequence[Inspection]) -> dict[_Output, NDArray[Any]]:
    """Outputs `anomaly_map` `[N, H, W]`, `score` `[N]` and `verdict` `[N]`."""
    return {
        "anomaly_map": np.array([one.anomaly_map for one in found], "<f4"),
        "score": np.array([one.score for one in found], "<f4"),
        "verdict": np.array([str(one.verdict) for one in found]),
    }


def _replay(asked: InferRequest, before: dict[str, Any]) -> Response:
    """What a trigger got before, as the answer to the same trigger."""
    if any(output.name == "anomaly_map" for output in asked.outputs):
        raise ProblemError("invalid_request", "this trigger was answered before and its anomaly_map is not kept")
    arrays: dict[_Output, NDArray[Any]] = {
        "score": np.array([before["score"]], "<f4"),
        "verdict": np.array([before["verdict"]]),
    }
    response = _response(asked, (before["recipe"], before["version"]), arrays, replayed=True)
    response.headers["X-Replayed"] = "true"
    return response


def _response(
    asked: InferRequest, model: tuple[str, str], arrays: dict[_Output, NDArray[Any]], *, replayed: bool = False
) -> Response:
    """The outputs asked for, or all of `arrays`; `model` is name and version."""
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for output in asked.outputs or [RequestedOutput(name=name) for name in arrays]:
        array, asks = arrays[output.name], output.parameters.binary_data
        outputs.append({"name": output.name, "datatype": _DATATYPES[output.name], "shape": array.shape})
        if asked.parameters.binary_data_output if asks is None else asks:
            words = (
                [len(word).to_bytes(4, "little") + word.encode() for word in array] if output.name == "verdict" else []
            )
            parts.append(b"".join(words) or array.tobytes())
            outputs[-1]["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            outputs[-1]["data"] = array.ravel().tolist()
    header: dict[str, Any] = {"model_name": model[0], "model_version": model[1], "outputs": outputs}
    if replayed:
        header["parameters"] = {"replayed": True}
    text = json.dumps(header if asked.id is None else header | {"id": asked.id}, allow_nan=False).encode()
    media_type = "application/octet-stream" if parts else "application/json"
    headers = {"Inference-Header-Content-Length": str(len(text))} if parts else {}
    return Response(b"".join([text, *parts]), headers=headers, media_type=media_type)
