"""A request of the Open Inference Protocol, as JSON with or without binary behind it, and the images in it."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from service.http.bodies import read_json
from service.http.tensor_json import take_numbers
from service.images.decoding import Decoder, Pixels, decode
from service.settings import Settings
from service.station.loading import Recipe
from service.station.problem import ProblemError

Output = Literal["anomaly_map", "score", "verdict"]

_UNKNOWN = (
    "not known: a request has id, inputs, outputs and the parameter binary_data_output; an input has name, shape, "
    "datatype, data and the parameter binary_data_size; an output has name and the parameter binary_data"
)


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
    name: Output
    parameters: OutputParameters = OutputParameters()


class InferRequest(_Strict):
    id: str | None = None
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[RequestedOutput], Field(max_length=3)] = []


@dataclass(frozen=True)
class SentImage:
    """An image of a request as it was sent, and what decodes it."""

    sent: bytes | Pixels
    decode: Decoder


def read_tensors(body: bytes, split: int, recipe: Recipe, settings: Settings) -> tuple[InferRequest, list[SentImage]]:
    """The request and its images; `split` bytes of `body` are JSON. Raises ProblemError."""
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
            return asked, [SentImage(pixels, partial(np.asarray, pixels)) for pixels in images]
        return asked, [
            SentImage(picture, partial(decode, picture, max_pixels=settings.max_pixels))
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
