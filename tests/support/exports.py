"""One export for all graphs of one structure, with the weights of each: torch takes seconds for an export, and tests
that are about something else make many. Whoever bundles a graph compares it with torch, here as everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

_known: dict[str, onnx.ModelProto] = {}


@contextmanager
def remembered_exports() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", partial(_export, torch.onnx.export))
        # Nobody adds to torch's operators, and to list them takes a second of each export.
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


def _export(export: Callable[..., Any], graph: nn.Module, args: tuple[Tensor, ...], **options: Any) -> Any:
    weights = dict(graph.named_parameters())
    structure = _structure(graph, args)
    if structure in _known:
        model = onnx.ModelProto()
        model.CopyFrom(_known[structure])
        for tensor in model.graph.initializer:
            if tensor.name in weights:
                tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name].numpy(), tensor.name))
        return SimpleNamespace(model_proto=model)
    program = export(graph, args, **options)
    exported = {tensor.name: tensor for tensor in program.model_proto.graph.initializer}
    # Where the exporter made something else of a weight, others cannot take its place.
    if all(
        name in exported and (numpy_helper.to_array(exported[name]) == weight.numpy()).all()
        for name, weight in weights.items()
    ):
        _known[structure] = onnx.ModelProto()
        _known[structure].CopyFrom(program.model_proto)
    return program


def _structure(graph: nn.Module, args: tuple[Tensor, ...]) -> str:
    """The same for graphs that differ in their weights alone."""
    found = hashlib.sha256(repr([(one.shape, one.dtype) for one in args]).encode())
    for name, module in graph.named_modules():
        found.update(f"{name} {type(module).__module__}.{type(module).__qualname__}".encode())
        for key, value in sorted(vars(module).items()):
            if key not in {"_parameters", "_buffers", "_modules"}:
                found.update(f"{key}={value!r}".encode())
        for key, tensor in module.named_parameters(recurse=False):
            found.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
        for key, tensor in module.named_buffers(recurse=False):
            found.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode() + tensor.numpy().tobytes())
    return found.hexdigest()
