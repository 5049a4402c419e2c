"""The messages of the Open Inference Protocol's gRPC form, as its public definition numbers their fields.

They are made here and not by a compiler: the definition fits on a page. They have a pool of their own, for clients of
Triton in the same process define messages of the same names.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "double": _Field.TYPE_DOUBLE,
    "float": _Field.TYPE_FLOAT,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
}
# Fields in the order of their numbers, from 1 on; `*` may come several times, `map` is of parameters by name.
_MESSAGES: dict[str, str] = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready",
    "ModelReadyRequest": "string name, string version",
    "ModelReadyResponse": "bool ready",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name, string version, *string extensions",
    "ModelMetadataRequest": "string name, string version",
    "ModelMetadataResponse": "string name, *string versions, string platform, *TensorMetadata inputs, "
    "*TensorMetadata outputs",
    "TensorMetadata": "string name, string datatype, *int64 shape",
    "InferParameter": "bool bool_param, int64 int64_param, string string_param, double double_param, "
    "uint64 uint64_param",
    "InferTensorContents": "*bool bool_contents, *int32 int_contents, *int64 int64_contents, *uint32 uint_contents, "
    "*uint64 uint64_contents, *float fp32_contents, *double fp64_contents, *bytes bytes_contents",
    "InferInputTensor": "string name, string datatype, *int64 shape, map parameters, InferTensorContents contents",
    "InferRequestedOutputTensor": "string name, map parameters",
    "InferOutputTensor": "string name, string datatype, *int64 shape, map parameters, InferTensorContents contents",
    "ModelInferRequest": "string model_name, string model_version, string id, map parameters, "
    "*InferInputTensor inputs, *InferRequestedOutputTensor outputs, *bytes raw_input_contents",
    "ModelInferResponse": "string model_name, string model_version, string id, map parameters, "
    "*InferOutputTensor outputs, *bytes raw_output_contents",
}
# Of these fields one is set.
_ONE_OF = "InferParameter"


def _define() -> dict[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(
        name="draem_inspect/open_inference.proto", package=PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if name == _ONE_OF:
            message.oneof_decl.add(name="parameter_choice")
        for number, field in enumerate(filter(None, fields.split(", ")), start=1):
            kind, label = field.rsplit(" ", 1)
            _add(message, label, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES
    }


def _add(message: Any, name: str, number: int, kind: str) -> None:
    several = kind.startswith("*") or kind == "map"
    field = message.field.add(
        name=name, number=number, label=_Field.LABEL_REPEATED if several else _Field.LABEL_OPTIONAL
    )
    kind = kind.removeprefix("*")
    if message.name == _ONE_OF:
        field.oneof_index = 0
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
        return
    field.type = _Field.TYPE_MESSAGE
    if kind != "map":
        field.type_name = f".{PACKAGE}.{kind}"
        return
    entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
    entry.options.map_entry = True
    _add(entry, "key", 1, "string")
    _add(entry, "value", 2, "InferParameter")
    field.type_name = f".{PACKAGE}.{message.name}.{entry.name}"


MESSAGES: dict[str, type[Message]] = _define()
