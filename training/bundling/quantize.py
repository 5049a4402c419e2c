"""INT8 for the inspection graph: static post-training quantisation, layer by layer, as far as the figures allow.

Convolutions multiply 8-bit integers, weights with one scale a channel; everything between is as it was. Scales are
evened out among channels first (Nagel et al. 2019, sec. 4.1: exact where a ReLU follows): one loud channel would leave
the others a few of the 255 steps. What the reconstruction's last layers lose is what the discriminative network
looks for, so layers that hurt stay in float: those that do most damage alone, less those that are not needed then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from sklearn.metrics import average_precision_score

from service.backends.base import Scored
from service.images.decoding import Pixels
from training.bundling.arithmetic import macs
from training.errors import UserError
from training.evaluation.metrics import image_metrics, stacked

# uint8 has twice the steps for what a ReLU gives, and ONNX Runtime's fast kernels on x86; TensorRT takes int8 alone,
# zero at zero.
Activations = Literal["uint8", "int8"]
LARGEST_LOSS = {"image_auroc": 0.002, "pixel_ap": 0.01}
_PROBES = 8  # images on which a layer's damage is measured
_KEEP_SCALE = ("MaxPool", "Resize", "Concat")  # give no value outside the range of what they read


class QuantizationError(UserError):
    """The figures would suffer more than they may; the message has them."""


@dataclass(frozen=True)
class Labelled:
    """Good parts, and parts with a simulated defect each and the masks `(H, W)` of them."""

    good: Sequence[Pixels]
    defects: Sequence[Pixels]
    masks: Sequence[NDArray[np.bool_]]

    @property
    def images(self) -> list[Pixels]:
        return [*self.good, *self.defects]


@dataclass(frozen=True)
class Limits:
    """Where layers are chosen: photos that were trained on hardly err, so that their figures alone would let too much
    pass. A graph that needs more than `most_float` float layers is not worth its name.
    """

    score_error: float = 0.015
    most_float: int = 12


@dataclass(frozen=True)
class Measured:
    figures: dict[str, float]
    scores: list[float]


@dataclass(frozen=True)
class Quantized:
    model: bytes
    float_layers: list[str]


def figures(parts: Labelled, results: Sequence[Scored]) -> dict[str, float]:
    """Image AUROC and pixel AP of what a graph gave for `parts.images`."""
    height, width = parts.good[0].shape[:2]
    masks = np.stack([*np.zeros((len(parts.good), height, width), np.bool_), *parts.masks])
    maps, scores = stacked(results)
    is_defect = np.arange(len(results)) >= len(parts.good)
    return {
        "image_auroc": image_metrics(scores, is_defect)["image_auroc"],
        "pixel_ap": float(average_precision_score(masks.ravel(), maps.ravel())),
    }


def measured(model: bytes, parts: Labelled) -> Measured:
    results = list(map(runner(model), parts.images))
    return Measured(figures(parts, results), [one.score for one in results])


def require_figures(name: str, before: dict[str, float], after: dict[str, float]) -> None:
    """Raises QuantizationError where a figure falls by more than LARGEST_LOSS."""
    if not _close(before, after):
        raise QuantizationError(f"{name} is refused: on held-out simulated anomalies {_told(before, after)}")


def _told(before: dict[str, float], after: dict[str, float]) -> str:
    return ", ".join(
        f"{figure} {100 * before[figure]:.2f} to {100 * after[figure]:.2f} (at most {100 * loss:.1f} less)"
        for figure, loss in LARGEST_LOSS.items()
    )


def quantize(
    model: bytes,
    calibration: Sequence[Pixels],
    parts: Labelled,
    activations: Activations,
    limits: Limits = Limits(),
    measure: Callable[[bytes, Labelled], Measured] = measured,
) -> Quantized:
    """The graph in INT8 with few and cheap float layers that keep the figures and scores on `parts`.

    `calibration` sets the ranges. Neither may be what the result is accepted on. Raises QuantizationError where as
    many float layers as there may be are not enough.
    """
    even = even_channels(model, calibration)
    ranges = observe(even, calibration)
    costs = layers_of(even)
    exact = measure(even, parts)

    def attempt(kept: Collection[str]) -> _Attempt:
        quantized = to_qdq(even, ranges, [name for name in costs if name not in kept], activations)
        found = measure(quantized, parts)
        error = max(abs(one - other) for one, other in zip(exact.scores, found.scores, strict=True))
        return _Attempt(quantized, found.figures, error)

    def holds(tried: _Attempt) -> bool:
        return _close(exact.figures, tried.figures) and tried.score_error <= limits.score_error

    worst = _by_damage(even, ranges, costs, parts, activations)
    for count in range(limits.most_float + 1):
        kept = worst[:count]
        tried = attempt(kept)
        if holds(tried):
            break
    else:
        raise QuantizationError(
            f"INT8 is refused: with {', '.join(kept)} in float scores are off by up to {tried.score_error:.3f} "
            f"(allowed {limits.score_error}); {_told(exact.figures, tried.figures)}"
        )
    # Some stood in line before one that mattered: they go back, what computes most first.
    for name in sorted(kept, key=costs.__getitem__, reverse=True):
        fewer = [other for other in kept if other != name]
        again = attempt(fewer)
        if holds(again):
            tried, kept = again, fewer
    return Quantized(tried.model, kept)


def layers_of(model: bytes) -> dict[str, int]:
    """Convolutions that may be in INT8, with what they compute: those whose weights no other one reads.

    A filter that several share is a formula's, such as the gradients of MSGMS, and was not learned.
    """
    proto = onnx.load_from_string(model)
    readers = Counter(node.input[1] for node in proto.graph.node if node.op_type == "Conv")
    weights = {node.name: node.input[1] for node in proto.graph.node if node.op_type == "Conv"}
    return {name: cost for name, cost in macs(proto).items() if readers[weights[name]] == 1}


@dataclass(frozen=True)
class _Attempt:
    """A quantised graph, its figures, and the largest difference of a score from float."""

    model: bytes
    figures: dict[str, float]
    score_error: float


def _by_damage(
    even: bytes, ranges: dict[str, Range], layers: Collection[str], parts: Labelled, activations: Activations
) -> list[str]:
    """The layers by what each does to the maps when it alone is in INT8, worst first."""
    probes = [*parts.good[: _PROBES // 2], *parts.defects[: _PROBES // 2]]
    expected = [one.anomaly_map for one in map(runner(even), probes)]

    def damage(name: str) -> float:
        run = runner(to_qdq(even, ranges, [name], activations))
        return float(
            np.mean([np.abs(run(image).anomaly_map - m).mean() for image, m in zip(probes, expected, strict=True)])
        )

    return sorted(layers, key=damage, reverse=True)


def runner(model: bytes) -> Callable[[Pixels], Scored]:
    """Runs a graph with ONNX Runtime on the CPU."""
    session = _session(model)

    def run(image: Pixels) -> Scored:
        maps, scores = session.run(["anomaly_map", "score"], {"image": image[None]})
        return Scored(maps[0], float(scores[0]))

    return run


@dataclass(frozen=True)
class Range:
    """Of a tensor over all calibration images; `peaks` `(C,)` is the largest magnitude of each channel."""

    low: float
    high: float
    peaks: NDArray[np.float32]


def even_channels(model: bytes, calibration: Sequence[Pixels]) -> bytes:
    """The same function with the channels between layers scaled towards one range, by the root of their peaks."""
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
    for name, peak in peaks.items():
        scale = np.sqrt(np.maximum(peak, 1e-3 * peak.max() + 1e-9))
        scale /= np.exp(np.log(scale).mean())
        source = convolutions[name]
        weights[source.input[1]] /= scale[:, None, None, None]
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
            node.input[1] = _quantize_weights(graph, node.input[1], weights[node.input[1]], nodes)
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


def _quantize_weights(graph: onnx.GraphProto, name: str, values: NDArray[np.float32], nodes: list[NodeProto]) -> str:
    """Adds the weights as int8, symmetric, a scale for each output channel; the name of them in float again."""
    scale = (np.maximum(np.abs(values).max(axis=(1, 2, 3)), 1e-9) / 127).astype(np.float32)
    integers = np.rint(values / scale[:, None, None, None]).astype(np.int8)
    for array, suffix in ((integers, "quantized"), (scale, "scale"), (np.zeros(len(scale), np.int8), "zero")):
        graph.initializer.append(numpy_helper.from_array(array, f"{name}_{suffix}"))
    inputs = [f"{name}_quantized", f"{name}_scale", f"{name}_zero"]
    nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}_dequantized"], f"{name}_dequantize", axis=0))
    return f"{name}_dequantized"


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


def observe(model: bytes, images: Sequence[Pixels]) -> dict[str, Range]:
    """The ranges of what every convolution reads, and of what is resized for one: a peak may not outlive it."""
    proto = onnx.load_from_string(model)
    names = list(dict.fromkeys(node.input[0] for node in proto.graph.node if node.op_type in ("Conv", "Resize")))
    proto.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = _session(proto.SerializeToString())
    ranges: dict[str, Range] = {}
    for image in images:
        for name, value in zip(names, session.run(names, {"image": image[None]}), strict=True):
            low, high, peaks = float(value.min()), float(value.max()), np.abs(value).max(axis=(0, 2, 3))
            so_far = ranges.get(name, Range(low, high, peaks))
            ranges[name] = Range(min(low, so_far.low), max(high, so_far.high), np.maximum(peaks, so_far.peaks))
    return ranges


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
        yield makers[maker.input[0]], start
    elif maker.op_type in ("MaxPool", "Resize"):
        yield from _rectified(maker.input[0], makers, weights, start)
    elif maker.op_type == "Concat":
        for source in maker.input:
            found = list(_rectified(source, makers, weights, start))
            if not found:  # not behind a ReLU: how wide it is cannot be told here, and what comes after it stays
                return
            yield from found
            start += sum(len(weights[convolution.input[1]]) for convolution, _ in found)


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # shapes of the additional outputs are not in the file
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _makers(proto: ModelProto) -> dict[str, NodeProto]:
    return {name: node for node in proto.graph.node for name in node.output}


def _weights(proto: ModelProto) -> dict[str, NDArray[np.float32]]:
    """A copy of what convolutions multiply with and add."""
    used = {name for node in proto.graph.node if node.op_type == "Conv" for name in node.input[1:]}
    return {t.name: numpy_helper.to_array(t).copy() for t in proto.graph.initializer if t.name in used}


def _close(before: dict[str, float], after: dict[str, float]) -> bool:
    return all(after[figure] >= before[figure] - loss for figure, loss in LARGEST_LOSS.items())
