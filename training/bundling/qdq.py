"""Convolutions of a graph as multiplications of 8-bit integers: ranges that are seen, scales, and nodes for them.

Weights have one scale a channel; everything between is as it was. Scales are evened out among channels first (Nagel et
al. 2019, sec. 4.1: exact where a ReLU follows): one loud channel would leave the others a few of the 255 steps. What
rounded weights add to a channel on average is taken off its bias (sec. 4.2).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from service.images.decoding import Pixels

# uint8 has twice the steps for what a ReLU gives, and ONNX Runtime's fast kernels on x86; TensorRT takes int8 alone,
# zero at zero.
Activations = Literal["uint8", "int8"]
_KEEP_SCALE = ("MaxPool", "Resize", "Concat")  # give no value outside the range of what they read


@dataclass(frozen=True)
class Range:
    """Of a tensor over all calibration images; of each channel `(C,)` the largest magnitude and the mean."""

    low: float
    high: float
    peaks: NDArray[np.float32]
    means: NDArray[np.float32]


def observe(model: bytes, images: Sequence[Pixels]) -> dict[str, Range]:
    """The ranges of what every convolution reads, and of what is resized for one: a peak may not outlive it."""
    proto = onnx.load_from_string(model)
    names = list(dict.fromkeys(node.input[0] for node in proto.graph.node if node.op_type in ("Conv", "Resize")))
    proto.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = open_session(proto.SerializeToString())
    ranges: dict[str, Range] = {}
    for image in images:
        for name, value in zip(names, session.run(names, {"image": image[None]}), strict=True):
            low, high, peaks = float(value.min()), float(value.max()), np.abs(value).max(axis=(0, 2, 3))
            so_far = ranges.get(name, Range(low, high, peaks, np.zeros_like(peaks)))
            means = so_far.means + value.mean(axis=(0, 2, 3)) / len(images)
            ranges[name] = Range(min(low, so_far.low), max(high, so_far.high), np.maximum(peaks, so_far.peaks), means)
    return ranges


def even_channels(model: bytes, calibration: Sequence[Pixels]) -> bytes:
    """The same function with the channels between layers scaled towards one range, by the root of their peaks.

    Between convolutions alone: whatever else reads a channel would see its scale.
    """
    ranges = observe(model, calibration)
    proto = onnx.load_from_string(model)
    makers, weights = _makers(proto), _weights(proto)
    peaks: dict[str, NDArray[np.float32]] = {}
    users: dict[str, list[tuple[NodeProto, int]]] = {}
    convolutions = {node.name: node for node in proto.graph.node if node.op_type == "Conv"}
    for node in convolutions.values():
        for source, start in _rectified(node.input[0], makers, weights, 0):
            count = len(weights[source.input[1]])
            seen = ranges[node.input[0]].peaks[start : start + count]
            peaks[source.name] = np.maximum(peaks.get(source.name, seen), seen)
            users.setdefault(source.name, []).append((node, start))
    readers: dict[str, list[NodeProto]] = {}
    for node in proto.graph.node:
        for read in node.input:
            readers.setdefault(read, []).append(node)
    outputs = {output.name for output in proto.graph.output}
    for name, peak in peaks.items():
        source = convolutions[name]
        if not _reached(source.output[0], readers, outputs) <= {user.name for user, _ in users[name]}:
            continue
        scale = np.sqrt(np.maximum(peak, 1e-3 * peak.max() + 1e-9))
        scale /= np.exp(np.log(scale).mean())
        weights[source.input[1]] /= scale[:, None, None, None]
        if len(source.input) == 3:
            weights[source.input[2]] /= scale
        for user, start in users[name]:
            weights[user.input[1]][:, start : start + len(scale)] *= scale[None, :, None, None]
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return bytes(proto.SerializeToString())


def to_qdq(model: bytes, ranges: dict[str, Range], layers: Collection[str], activations: Activations) -> bytes:
    """The graph with convolutions `layers` in INT8, as QuantizeLinear and DequantizeLinear around what they read.

    What a MaxPool, Resize or Concat reads and gives shares a scale and is quantised before it too: ONNX Runtime runs a
    convolution in INT8 only where its output is quantised at once, and pools bytes faster than floats
    (training/benchmarks/SPEED.md).
    """
    proto = onnx.load_from_string(model)
    graph, makers, weights = proto.graph, _makers(proto), _weights(proto)
    groups = _groups([node for node in graph.node if node.name in layers], makers)
    scales = {name: _scale([ranges[n] for n in group if n in ranges], activations) for name, group in groups.items()}
    quantized: set[str] = set()
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.name in layers:
            _quantize_weights(graph, node, weights, ranges[node.input[0]].means, nodes)
        if node.name in layers or node.op_type in _KEEP_SCALE:
            for i, name in enumerate(node.input):
                node.input[i] = f"{name}_dequantized" if name in quantized else name
        nodes.append(node)
        for name in set(node.output) & scales.keys():
            scale, zero = scales[name]
            graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
            graph.initializer.append(numpy_helper.from_array(zero, f"{name}_zero"))
            nodes += _pair(name)
            quantized.add(name)
    return _rebuilt(proto, nodes)


def _groups(layers: Sequence[NodeProto], makers: dict[str, NodeProto]) -> dict[str, set[str]]:
    """Each tensor to quantise, with all that share its scale."""
    groups: dict[str, set[str]] = {}

    def join(a: str, b: str) -> None:
        merged = groups.setdefault(a, {a}) | groups.setdefault(b, {b})
        for name in merged:
            groups[name] = merged

    def visit(name: str) -> None:
        join(name, name)
        maker = makers.get(name)
        if maker is not None and maker.op_type in _KEEP_SCALE:
            for source in maker.input if maker.op_type == "Concat" else maker.input[:1]:
                join(name, source)
                visit(source)

    for node in layers:
        visit(node.input[0])
    return groups


def _scale(ranges: Sequence[Range], activations: Activations) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
    low, high = min(0.0, *(r.low for r in ranges)), max(0.0, *(r.high for r in ranges))
    if activations == "int8":
        return np.array(max(-low, high, 1e-8) / 127, np.float32), np.array(0, np.int8)
    scale = max(high - low, 1e-8) / 255
    return np.array(scale, np.float32), np.array(round(-low / scale), np.uint8)


def _pair(name: str) -> list[NodeProto]:
    scale, zero, integers = f"{name}_scale", f"{name}_zero", f"{name}_quantized"
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero], [integers], f"{name}_quantize"),
        helper.make_node("DequantizeLinear", [integers, scale, zero], [f"{name}_dequantized"], f"{name}_dequantize"),
    ]


def _quantize_weights(
    graph: onnx.GraphProto,
    node: NodeProto,
    weights: dict[str, NDArray[np.float32]],
    means: NDArray[np.float32],
    nodes: list[NodeProto],
) -> None:
    """Makes a convolution read its weights as int8, symmetric, a scale for each output channel, in float again.

    Its bias takes off what the rounding adds on average, where channels read have such `means` `(C,)`.
    """
    name, values = node.input[1], weights[node.input[1]]  # (O, C / groups, h, w)
    scale = (np.maximum(np.abs(values).max(axis=(1, 2, 3)), 1e-9) / 127).astype(np.float32)
    integers = np.rint(values / scale[:, None, None, None]).astype(np.int8)
    for array, suffix in ((integers, "quantized"), (scale, "scale"), (np.zeros(len(scale), np.int8), "zero")):
        graph.initializer.append(numpy_helper.from_array(array, f"{name}_{suffix}"))
    inputs = [f"{name}_quantized", f"{name}_scale", f"{name}_zero"]
    nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}_dequantized"], f"{name}_dequantize", axis=0))
    lost = (values - integers * scale[:, None, None, None]).sum(axis=(2, 3))  # (O, C / groups)
    read = means.reshape(-1, lost.shape[1])  # (groups, C / groups)
    missing = (lost * read.repeat(len(lost) // len(read), axis=0)).sum(axis=1)
    bias = weights[node.input[2]] if len(node.input) == 3 else np.zeros_like(missing)
    graph.initializer.append(numpy_helper.from_array(bias + missing, f"{name}_bias"))
    del node.input[1:]
    node.input.extend([f"{name}_dequantized", f"{name}_bias"])


def _rebuilt(proto: ModelProto, nodes: list[NodeProto]) -> bytes:
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        proto.graph.name,
        proto.graph.input,
        proto.graph.output,
        [tensor for tensor in proto.graph.initializer if tensor.name in used],
    )
    model = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _rectified(
    name: str, makers: dict[str, NodeProto], weights: dict[str, NDArray[np.float32]], start: int
) -> Iterator[tuple[NodeProto, int]]:
    """Convolutions behind a ReLU that tensor `name` comes from, each with its first channel in it.

    Pooling, interpolation and concatenation keep a channel's scale.
    """
    maker = makers.get(name)
    if maker is None:
        return
    if maker.op_type == "Relu":
        source = makers.get(maker.input[0])
        if source is not None and source.op_type == "Conv":
            yield source, start
    elif maker.op_type in ("MaxPool", "Resize"):
        yield from _rectified(maker.input[0], makers, weights, start)
    elif maker.op_type == "Concat":
        for part in maker.input:
            found = list(_rectified(part, makers, weights, start))
            if not found:  # not behind a ReLU: how wide it is cannot be told here, and what comes after it stays
                return
            yield from found
            start += sum(len(weights[convolution.input[1]]) for convolution, _ in found)


def _reached(name: str, readers: dict[str, list[NodeProto]], outputs: Collection[str]) -> set[str]:
    """The nodes that see the scale of tensor `name`'s channels, "" among them where the graph gives it."""
    found = {""} if name in outputs else set()
    for node in readers.get(name, ()):
        if node.op_type in ("Relu", *_KEEP_SCALE):
            found |= _reached(node.output[0], readers, outputs)
        else:
            found.add(node.name)
    return found


def open_session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # shapes of the additional outputs are not in the file
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _makers(proto: ModelProto) -> dict[str, NodeProto]:
    return {name: node for node in proto.graph.node for name in node.output}


def _weights(proto: ModelProto) -> dict[str, NDArray[np.float32]]:
    """A copy of what convolutions multiply with and add."""
    used = {name for node in proto.graph.node if node.op_type == "Conv" for name in node.input[1:]}
    return {t.name: numpy_helper.to_array(t).copy() for t in proto.graph.initializer if t.name in used}
