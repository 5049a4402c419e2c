"""HTTP: requests to inspections, inspections to replies."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from service.http.accept import wanted_picture
from service.http.collecting import keep_photo
from service.http.context import is_collecting, station_of
from service.http.identifiers import CameraId, LotId, PartId, TriggerId
from service.http.orders import DeadlineMs, take_order, while_connected
from service.http.problems import ProblemBody, openapi_responses, problem_body
from service.http.refusals import note_refusal
from service.http.replies import InspectionReply, as_json, json_reply, picture_reply, replay, stored
from service.http.uploads import FIELD, RAW_TYPES, read_image, read_images, refuse_text
from service.images.decoding import PixelFormat, decode, decode_raw
from service.station.inspection import HeatmapMode
from service.station.problem import ProblemError

router = APIRouter()


RecipeName = Annotated[
    str | None, Query(min_length=1, description="recipe; may be left out where there is one or a default")
]
_MAX_BATCH_FILES = 64
_IMAGE = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "required": [FIELD], "properties": {FIELD: {"type": "array", "items": _IMAGE}}}
_REQUEST_BODY = {
    "required": True,
    "content": {
        **{media_type: {"schema": _IMAGE} for media_type in RAW_TYPES},
        "multipart/form-data": {
            "schema": {"type": "object", "required": [FIELD], "properties": {FIELD: _IMAGE}},
        },
    },
}


@router.post(
    "/inspect",
    response_model=InspectionReply,
    responses=openapi_responses(examples=True),
    openapi_extra={"requestBody": _REQUEST_BODY},
)
async def inspect(
    request: Request,
    recipe: RecipeName = None,
    heatmap: Annotated[
        Literal["none", "auto", "overlay", "map", "npy"],
        Query(description="image in the reply; auto: overlay for REVIEW and NG"),
    ] = "none",
    width: Annotated[int | None, Query(ge=1, le=65_535, description="of bare pixels")] = None,
    height: Annotated[int | None, Query(ge=1, le=65_535, description="of bare pixels")] = None,
    pixel_format: Annotated[PixelFormat | None, Query(description="of bare pixels, a GenICam name")] = None,
    x_deadline_ms: DeadlineMs = None,
    x_part_id: PartId = None,
    x_trigger_id: TriggerId = None,
    x_camera_id: CameraId = None,
    x_lot_id: LotId = None,
) -> Response:
    """Verdict, score and regions of one image.

    The body is an encoded image, or bare pixels of a `width`, `height` and `pixel_format` (rows without padding).
    With `Accept: image/png` or `image/jpeg` the reply is the overlay image itself, the result in `X-` headers.

        curl -F image=@part.png 'http://localhost:8000/inspect?recipe=demo&heatmap=auto'
        curl --data-binary @part.jpg -H 'Content-Type: image/jpeg' -H 'X-Deadline-Ms: 80' http://localhost:8000/inspect
        curl --data-binary @frame.raw -H 'Content-Type: application/octet-stream' \\
             'http://localhost:8000/inspect?width=2448&height=2048&pixel_format=BayerRG8'
    """
    if recipe is not None and is_collecting(station_of(request), recipe):
        layout_of = partial(_raw_layout, width, height, pixel_format)
        names = {"part": x_part_id, "camera": x_camera_id, "lot": x_lot_id}
        return await keep_photo(request, recipe, x_deadline_ms, layout_of, **names)
    order = take_order(request, recipe, x_deadline_ms, part=x_part_id, camera=x_camera_id, lot=x_lot_id)
    picture = wanted_picture(request.headers.getlist("accept"))
    mode: HeatmapMode = {"png": "overlay", "jpeg": "jpeg"}[picture] if picture else heatmap  # type: ignore[assignment]
    raw = _raw_layout(width, height, pixel_format)
    data = await order.read(read_image)
    if not raw:
        refuse_text(data)
    limit = order.station.settings.max_pixels
    decoder = partial(decode_raw, data, max_pixels=limit, **raw) if raw else partial(decode, data, max_pixels=limit)
    asked = await order.ask(x_trigger_id, data, str(raw or ""))
    if asked.before is not None:
        return order.answer(replay(asked.before))
    (inspection,) = await while_connected(request, order.inspect([decoder], mode))
    reply = order.conclude(inspection, data, asked.trigger, raw or None)
    if x_trigger_id is not None:
        order.settle.append(partial(asked.give, stored(reply)))
    return order.answer(picture_reply(reply, inspection.heatmap) if picture else json_reply(reply))


@router.post(
    "/inspect/batch",
    response_model=list[InspectionReply | ProblemBody],
    responses=openapi_responses(),
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
)
async def inspect_batch(
    request: Request,
    recipe: RecipeName = None,
    x_deadline_ms: DeadlineMs = None,
    x_part_id: PartId = None,
    x_lot_id: LotId = None,
) -> Response:
    """Several images in one form: one result each, in order; what cannot be inspected is a problem in its place."""
    order = take_order(request, recipe, x_deadline_ms, part=x_part_id, lot=x_lot_id)
    images = await order.read(partial(read_images, max_files=_MAX_BATCH_FILES))

    async def one(data: bytes) -> dict[str, Any]:
        try:
            refuse_text(data)
            (inspection,) = await order.inspect([partial(decode, data, max_pixels=order.station.settings.max_pixels)])
        except ProblemError as problem:
            order.station.metrics.errors.labels(problem.code).inc()
            note_refusal(request, problem)
            return problem_body(problem, request.state.request_id).model_dump(mode="json")
        return order.conclude(inspection, data)

    async def all_of_them() -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(one(data) for data in images)))

    replies = await while_connected(request, all_of_them())
    return order.answer(Response(as_json(replies), media_type="application/json"))


def _raw_layout(width: int | None, height: int | None, pixel_format: PixelFormat | None) -> dict[str, Any]:
    given = {"width": width, "height": height, "pixel_format": pixel_format}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise ProblemError(
            "invalid_request", f"bare pixels need width, height and pixel_format: no {', '.join(missing)}"
        )
    return {} if missing else given
