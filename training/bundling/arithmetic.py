"""How much an ONNX graph computes."""

from __future__ import annotations

from math import prod

import onnx


def macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates of every convolution for one image, by its node's name; weights must be initializers."""
    single = onnx.ModelProto()
    single.CopyFrom(model)
    single.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(single).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.value_info}
    weights = {tensor.name: prod(tensor.dims) for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    return {node.name: weights[node.input[1]] * prod(shapes[node.output[0]][2:]) for node in convolutions}
