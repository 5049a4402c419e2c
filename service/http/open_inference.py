"""Open Inference Protocol v2 (KServe, Triton) over REST: tensors in, maps, scores and verdicts out.

Images pass the quality gate, queue, judge and records of `/inspect`; a request is answered for all of its images or for
none.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from service.http.context import choose_recipe, reason_for, station_of, why_not_alive, why_not_ready
from service.http.identifiers import CameraId, LotId, PartId, TriggerId
from service.http.orders import DeadlineMs, take_order, while_connected
from service.http.problems import openapi_responses
from service.http.replies import stored
from service.http.tensors import InferRequest, Output, RequestedOutput, read_tensors
from service.http.uploads import arrival, read_body, require_type
from service.images.cropping import shape_of_whole
from service.station.inspection import Inspection
from service.station.loading import Recipe
from service.station.problem import ProblemError

_DATATYPES: dict[Output, str] = {"anomaly_map": "FP32", "score": "FP32", "verdict": "BYTES"}
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

router = APIRouter(prefix="/v2")


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
    shapes: dict[Output, list[int]] = {"anomaly_map": [-1, *shape_of_whole(spec)], "score": [-1], "verdict": [-1]}
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
    recipe = order.recipe
    # Triton's own client names no type.
    require_type(request, list(_BODY), _IMAGE_HINT, may_be_missing=True)
    body = await order.read(read_body)
    split = len(body) if inference_header_content_length is None else inference_header_content_length
    async with arrival(order.deadline):
        asked, pictures = await asyncio.to_thread(read_tensors, body, split, recipe, order.station.settings)
    if x_trigger_id is not None and len(pictures) != 1:
        raise ProblemError("invalid_request", f"X-Trigger-Id is of one image, not of {len(pictures)}")
    if asked.inputs[0].name == "image":
        order = replace(order, recipe=_of_any_shape(recipe), adapt=_of_any_shape)
    trigger = await order.ask(x_trigger_id, pictures[0].sent)
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


def _arrays(found: Sequence[Inspection]) -> dict[Output, NDArray[Any]]:
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
    arrays: dict[Output, NDArray[Any]] = {
        "score": np.array([before["score"]], "<f4"),
        "verdict": np.array([before["verdict"]]),
    }
    response = _response(asked, (before["recipe"], before["version"]), arrays, replayed=True)
    response.headers["X-Replayed"] = "true"
    return response


def _response(
    asked: InferRequest, model: tuple[str, str], arrays: dict[Output, NDArray[Any]], *, replayed: bool = False
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
