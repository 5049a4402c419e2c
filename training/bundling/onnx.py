"""From the inspection graph to ONNX, and the proof that nothing changed on the way."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from service.backends.base import Backend, Scored, score_images
from service.backends.graphs import OnnxModel
from service.backends.ort import OrtBackend
from service.bundle.manifest import InputSpec, Precision
from service.images.decoding import Pixels
from training.bundling.graph import InspectionGraph, score_with_torch
from training.errors import UserError

OPSET = 18
# float32 sums in another order: seen up to 2e-5 on maps; ten times that already points to a wrong graph.
PARITY = 1e-3


class ExportError(UserError):
    """The exported graph does not give what the network gives; nothing was written."""


def to_onnx(graph: InspectionGraph, height: int, width: int) -> bytes:
    """ONNX bytes of the inspection graph for images `(height, width)`, N dynamic, checked by onnx.

    BatchNorm is folded into the convolutions.
    """
    # Nobody asks for gradients, and the exporter traces a fifth less without them.
    folded = fold_batch_norm(graph).requires_grad_(False)
    example = torch.zeros((2, height, width, 3), dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        # torch 2.13 warns of its own internals while it exports.
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            folded,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["anomaly_map", "score"],
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
            verbose=False,
        )
    if program is None:
        raise ExportError("the torch exporter returned no program")
    model = _without_traces(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the exporter's notes: they hold source lines and paths of the machine that trained it."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model


def fold_batch_norm(graph: InspectionGraph) -> InspectionGraph:
    """A copy in eval mode whose BatchNorm layers are folded into the convolutions before them: exact up to rounding."""
    folded = copy.deepcopy(graph).cpu().eval()
    for block in [module for module in folded.modules() if isinstance(module, nn.Sequential)]:
        for i, layer in enumerate(block):
            convolution = block[i - 1]
            if isinstance(layer, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d):
                transposed = isinstance(convolution, nn.ConvTranspose2d)
                block[i - 1] = fuse_conv_bn_eval(convolution, layer, transpose=transposed)
                block[i] = nn.Identity()
    return folded


def largest_difference(one: Scored, other: Scored) -> float:
    """Of the maps and of the scores, whichever is larger."""
    return max(float(np.abs(one.anomaly_map - other.anomaly_map).max()), abs(one.score - other.score))


def check_parity(graph: InspectionGraph, backend: Backend, images: Sequence[Pixels]) -> float:
    """Largest difference between torch and the backend on maps and scores; raises ExportError above PARITY."""
    pairs = zip(score_with_torch(graph, images), score_images(backend, images), strict=True)
    difference = max(largest_difference(expected, actual) for expected, actual in pairs)
    if not difference <= PARITY:
        raise ExportError(f"the exported graph differs from torch by {difference:.2e}, more than {PARITY:.0e}")
    return difference


@contextmanager
def opened(model: bytes, spec: InputSpec, precision: Precision = "fp32") -> Iterator[OrtBackend]:
    """The graph in ONNX Runtime on the CPU, as long as the block lasts."""
    backend = OrtBackend(OnnxModel("the exported graph", model), spec, precision, threads=torch.get_num_threads())
    try:
        yield backend
    finally:
        backend.close()
