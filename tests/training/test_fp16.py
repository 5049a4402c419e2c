from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from service.backends.graphs import OnnxModel
from service.backends.ort import OrtBackend
from service.bundle.manifest import InputSpec
from training.bundling.fp16 import to_half
from training.bundling.graph import InspectionGraph
from training.bundling.onnx import to_onnx
from training.data.demo_parts import render_defect
from training.networks.anomaly_map import AnomalyMap
from training.networks.draem import Draem


@pytest.fixture(scope="module")
def single() -> bytes:
    torch.manual_seed(0)
    return to_onnx(InspectionGraph(AnomalyMap(Draem(4, 4))).eval(), 256, 256)


def test_the_networks_are_half_and_nothing_else_is(single: bytes) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(to_half(single))).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    assert {name: types[name] for name in ("image", "anomaly_map", "score")} == {
        "image": TensorProto.UINT8,
        "anomaly_map": TensorProto.FLOAT,
        "score": TensorProto.FLOAT,
    }
    for node in graph.node:
        expected = TensorProto.FLOAT16 if node.op_type in {"Conv", "Relu", "MaxPool", "Resize"} else None
        if node.op_type in {"Div", "Sigmoid", "AveragePool", "ReduceMax"}:
            expected = TensorProto.FLOAT
        if expected is not None:
            assert types[node.output[0]] == expected, node.name
    # One way in, which both networks share, and one way out.
    assert sum(node.op_type == "Cast" for node in graph.node) == 3
    convolutions = sum(node.op_type == "Conv" for node in graph.node)
    assert sum(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer) == 2 * convolutions
    assert len(to_half(single)) < 0.6 * len(single)


def test_half_scores_like_single(single: bytes, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = np.stack([render_defect(rng, "chip")[0], rng.integers(0, 256, (256, 256, 3), np.uint8)])
    results = []
    for name, data in (("single", single), ("half", to_half(single))):
        (tmp_path / name).write_bytes(data)
        backend = OrtBackend(OnnxModel.read(tmp_path / name), InputSpec(height=256, width=256), "fp32", threads=1)
        results.append(backend.run(images))
        backend.close()
    (maps, scores), (half_maps, half_scores) = results
    assert 0 < np.abs(maps - half_maps).max() < 5e-3
    np.testing.assert_allclose(half_scores, scores, atol=2e-3)
