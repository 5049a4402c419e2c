"""An ONNX file as bytes that were read once: what was hashed is what a runtime loads, and nothing from beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from service.backends.base import BackendError
from service.bundle.folder import Bundle
from service.bundle.manifest import Precision

# Where messages of onnx.proto hold tensors, and messages that hold tensors: message -> field -> message.
_PLACES = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
# TensorProto: the entries that name another file, and the field that says so.
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
# NodeProto: an EPContext node names a file with a device's own program.
_OP_TYPE, _FOREIGN_PROGRAM = 4, b"EPContext"
_DEEPEST = 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class OnnxModel:
    """The content of an ONNX file that refers to no other file; `name` is for messages."""

    name: str
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        try:
            other = next(_outside(memoryview(self.data), "model", 0), None)
        except (IndexError, ValueError) as error:
            raise BackendError(f"{self.name}: not an ONNX file: {error}") from error
        if other:
            raise BackendError(f"{self.name}: {other}, of which no hash is known: export it as one file")

    @classmethod
    def read(cls, file: Path) -> Self:
        """The model in `file`; raises BackendError where it cannot be read or refers to another file."""
        try:
            return cls(str(file), file.read_bytes())
        except OSError as error:
            raise BackendError(f"{file}: cannot be read: {error.strerror}") from error

    @classmethod
    def of(cls, bundle: Bundle, precision: Precision) -> Self:
        """The model of a bundle, as its manifest knows it; raises BundleError, BackendError or OSError."""
        file = bundle.manifest.models[precision]
        return cls(str(bundle.file(file)), bundle.read(file))

    def __str__(self) -> str:
        return self.name


def _outside(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    """What in a message refers to another file."""
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    for number, wire, value in _fields(message):
        if kind == "tensor":
            if (number == _DATA_LOCATION and value == 1) or number == _EXTERNAL_DATA:
                yield "its weights are in another file"
        elif (
            kind == "node"
            and number == _OP_TYPE
            and isinstance(value, memoryview)
            and value.tobytes() == _FOREIGN_PROGRAM
        ):
            yield "a node runs a program in another file"
        elif isinstance(value, memoryview) and wire == _BYTES and (inner := _PLACES[kind].get(number)):
            yield from _outside(value, inner, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Field number, wire type and value of a protobuf message."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, position = _varint(message, position)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"field {number} has wire type {wire}")
        if position + size > len(message):
            raise ValueError("cut short")
        yield number, wire, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
