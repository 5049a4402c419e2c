"""The inspection graph in half precision, typed in the file: strongly typed TensorRT networks run what the file says.

ONNX Runtime's own converter is not used: where several Resize share one initializer, as here, it writes the nodes in
an order that ONNX does not allow.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper


def to_half(model: bytes) -> bytes:
    """The graph with float16 networks, from the first convolution to the last; inputs and outputs stay as they are.

    The rest stays float32: it costs nothing, and in half precision the score, a mean of 441 values, would be rounded.
    """
    proto = onnx.load_from_string(model)
    graph = proto.graph
    after, before = _downstream(graph.node), _upstream(graph.node)
    halves = {
        name
        for node in graph.node
        for name in node.output
        if name in after and (node.op_type == "Conv" or name in before)
    }
    constants = {tensor.name: tensor for tensor in graph.initializer}
    made: set[str] = set()
    nodes: list[NodeProto] = []
    for node in graph.node:
        inside = node.output[0] in halves
        # Resize takes its region and scales in float32, whatever it resizes.
        for i, name in enumerate(node.input[:1] if node.op_type == "Resize" else node.input):
            is_float = name in constants and constants[name].data_type == TensorProto.FLOAT
            if not name or (name in halves) == inside or (name in constants and not (inside and is_float)):
                continue
            node.input[i] = other = f"{name}_{'half' if inside else 'float'}"
            if other in made:
                continue
            made.add(other)
            if name in constants:
                values = numpy_helper.to_array(constants[name]).astype(np.float16)
                graph.initializer.append(numpy_helper.from_array(values, other))
            else:
                target = TensorProto.FLOAT16 if inside else TensorProto.FLOAT
                nodes.append(helper.make_node("Cast", [name], [other], other, to=target))
        nodes.append(node)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    onnx.checker.check_model(proto, full_check=True)
    data: bytes = proto.SerializeToString()
    return data


def _downstream(nodes: Iterable[NodeProto]) -> set[str]:
    """Tensors that follow a convolution."""
    names: set[str] = set()
    for node in nodes:
        if node.op_type == "Conv" or names.intersection(node.input):
            names.update(node.output)
    return names


def _upstream(nodes: Iterable[NodeProto]) -> set[str]:
    """Tensors that lead to a convolution."""
    names: set[str] = set()
    for node in reversed(list(nodes)):
        if node.op_type == "Conv" or names.intersection(node.output):
            names.update(node.input)
    return names
