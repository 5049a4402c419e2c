"""A recipe whose network takes about as long as is asked for: what serving costs shows beside a model of known speed.

Its map is the brightness of the image, so that a noisy gray image is OK; convolutions that add next to nothing to
it take the time.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.bundle.folder import Bundle, describe, write_bundle
from service.bundle.manifest import (
    Calibration,
    GoldenImage,
    InputSpec,
    Manifest,
    QualityLimits,
    Thresholds,
    Tolerance,
)
from service.images.decoding import encode

RECIPE = "stand-in"
_SIZE = 256
_CHANNELS = 16
# Layers of the two networks that tell what one more costs.
_FEW, _MORE = 4, 16


def write_stand_in(models: Path, milliseconds: float, threads: int) -> Bundle:
    """The recipe `stand-in` in `models`: one image takes about `milliseconds` in float32 with so many threads."""
    few, more = (_takes_ms(_network(layers), threads) for layers in (_FEW, _MORE))
    each = max((more - few) / (_MORE - _FEW), 1e-3)
    layers = max(1, round(_FEW + (milliseconds - few) / each))
    model = _network(layers)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    golden, contents = [], {"model.onnx": model}
    for number in range(4):
        picture = np.clip(rng.normal(60, 8, (_SIZE, _SIZE, 3)), 0, 120).astype(np.uint8)
        (anomaly_map,), (score,) = session.run(["anomaly_map", "score"], {"image": picture[None]})
        array = io.BytesIO()
        np.save(array, anomaly_map)
        image, kept = f"golden/{number}.png", f"golden/{number}.npy"
        contents |= {image: encode(picture, ".png"), kept: array.getvalue()}
        golden.append(GoldenImage(image=image, anomaly_map=kept, score=float(score)))
    manifest = Manifest(
        format_version=1,
        recipe=RECIPE,
        version=f"{layers}-layers",
        method=RECIPE,
        created=datetime.now(UTC),
        git_revision=None,
        input=InputSpec(height=_SIZE, width=_SIZE),
        score_formula="peak",
        thresholds=Thresholds(review=0.9, reject=0.95, pixel=0.8, calibration=_CALIBRATION),
        quality=_ANYTHING,
        models={"fp32": "model.onnx"},
        opset=18,
        keep_mask=None,
        golden=golden,
        tolerances={"fp32": Tolerance(score=1e-3, anomaly_map=1e-3)},
        files=describe(contents),
    )
    return write_bundle(models, manifest, contents)


_CALIBRATION = Calibration(
    target_false_reject_rate=0.01,
    good_images=100,
    false_rejects=0,
    false_reject_interval=(0.0, 0.03622),
    good_scores=[0.3] * 100,
)
_ANYTHING = QualityLimits(
    sharpness_min=0.0,
    contrast_min=0.0,
    brightness_min=1.0,
    brightness_max=254.0,
    dark_max=0.99,
    bright_max=0.99,
    aspect_min=0.1,
    aspect_max=10.0,
)


def _network(layers: int) -> bytes:
    rng = np.random.default_rng(0)
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        node("ReduceMean", ["pixels", "channels"], ["mean"], keepdims=0),
        node("Div", ["mean", "full"], ["brightness"]),
        node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        node("AveragePool", ["planes"], ["layer 0"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    weights = [
        numpy_helper.from_array(np.array([3], np.int64), "channels"),
        numpy_helper.from_array(np.array(255, np.float32), "full"),
        numpy_helper.from_array(np.array(1e-9, np.float32), "next to nothing"),
        numpy_helper.from_array(np.array([1, 2, 3], np.int64), "all"),
        numpy_helper.from_array(np.array([1, 2], np.int64), "places"),
        numpy_helper.from_array(np.array([-1, 1, 1], np.int64), "shape"),
    ]
    before = 3
    for layer in range(layers):
        values = rng.normal(0, 1 / np.sqrt(9 * before), (_CHANNELS, before, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"weights {layer}"))
        nodes.append(node("Conv", [f"layer {layer}", f"weights {layer}"], [f"sums {layer}"], pads=[1] * 4))
        nodes.append(node("Relu", [f"sums {layer}"], [f"layer {layer + 1}"]))
        before = _CHANNELS
    nodes += [
        node("ReduceMean", [f"layer {layers}", "all"], ["found"], keepdims=0),
        node("Mul", ["found", "next to nothing"], ["little"]),
        node("Reshape", ["little", "shape"], ["spread"]),
        node("Add", ["brightness", "spread"], ["sum"]),
        node("Clip", ["sum", "none", "one"], ["anomaly_map"]),
        node("ReduceMax", ["anomaly_map", "places"], ["score"], keepdims=0),
    ]
    weights += [
        numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("none", 0.0), ("one", 1.0))
    ]
    graph = helper.make_graph(
        nodes,
        RECIPE,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", _SIZE, _SIZE, 3])],
        [
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["N", _SIZE, _SIZE]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _takes_ms(model: bytes, threads: int) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    image = np.zeros((1, _SIZE, _SIZE, 3), np.uint8)
    times: Sequence[float] = [_time(session, image) for _ in range(30)]
    return 1000 * median(times[5:])


def _time(session: onnxruntime.InferenceSession, image: NDArray[np.uint8]) -> float:
    started = time.perf_counter()
    session.run(None, {"image": image})
    return time.perf_counter() - started
