"""INT8: which layers stay in float, what both CPU runtimes make of it, and the refusal with the figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from bundles import demo_trained_on, wait_until_loaded
from fastapi.testclient import TestClient
from limits import thresholds
from onnx import numpy_helper

from service.app import create_app
from service.backends.base import Scored, score_images
from service.backends.cpu_runtimes import cpu_candidates, open_on_cpu
from service.backends.golden import require_golden
from service.backends.opening import gpu_precision
from service.backends.plans import Plan
from service.bundle.folder import read_bundle
from service.bundle.manifest import BundleError
from service.images.decoding import Pixels, read
from service.images.resizing import fit
from service.settings import Settings
from training.bundling import quantize as quantization
from training.bundling.acceptance import add_first_accepted, add_precision, require_verdicts
from training.bundling.arithmetic import macs
from training.bundling.graph import InspectionGraph
from training.bundling.held_out import split_for_acceptance
from training.bundling.lower_precision import Lowered, limits_for
from training.bundling.onnx import to_onnx
from training.bundling.qdq import Activations, Range, even_channels, observe, to_qdq
from training.bundling.quantize import QuantizationError, quantize, require_figures, runner
from training.commands import run as main
from training.data.demo_parts import render_good, write_dataset
from training.networks.anomaly_map import AnomalyMap
from training.networks.compact import CompactDraem
from training.networks.draem import Draem

SIZE = 64


@pytest.fixture(scope="module", params=[Draem, CompactDraem])
def model(request: pytest.FixtureRequest) -> bytes:
    """Untrained, one channel of its layers far louder than the others."""
    torch.manual_seed(0)
    network = request.param(4, 4).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # statistics are those of the one batch below
            module.weight.data[0] *= 20
    network(torch.rand(8, 3, SIZE, SIZE))
    return to_onnx(InspectionGraph(AnomalyMap(network)), SIZE, SIZE)


@pytest.fixture(scope="module")
def photos() -> list[Pixels]:
    return [render_good(np.random.default_rng(seed))[96 : 96 + SIZE, 96 : 96 + SIZE] for seed in range(6)]


def _convolutions(model: bytes) -> list[str]:
    return [node.name for node in onnx.load_from_string(model).graph.node if node.op_type == "Conv"]


def _error(model: bytes, other: bytes, photos: list[Pixels]) -> float:
    pairs = [(runner(model)(photo).anomaly_map, runner(other)(photo).anomaly_map) for photo in photos]
    return float(np.mean([np.abs(a - b).mean() for a, b in pairs]))


def test_even_channels_are_the_same_function_and_quantise_better(model: bytes, photos: list[Pixels]) -> None:
    even = even_channels(model, photos)
    assert _error(model, even, photos) < 5e-4
    errors = {}
    for name, graph in (("as it is", model), ("even", even)):
        ranges = observe(graph, photos)
        errors[name] = _error(model, to_qdq(graph, ranges, _convolutions(graph), "uint8"), photos)
    assert 0 < errors["even"] < errors["as it is"]


@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_layers_that_are_asked_for_multiply_integers_and_no_others(
    model: bytes, photos: list[Pixels], activations: Activations
) -> None:
    names = _convolutions(model)
    data = to_qdq(model, observe(model, photos), names[:-2], activations)
    graph = onnx.load_from_string(data).graph
    makers = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv":
            kinds = Counter(makers[name].op_type for name in node.input[:2] if name in makers)
            assert kinds["DequantizeLinear"] == (2 if node.name in names[:-2] else 0)
        if node.op_type == "QuantizeLinear":
            zero = weights[node.input[2]]
            assert zero.dtype == np.dtype(activations)
            assert activations == "uint8" or zero == 0
    for name in names[:-2]:
        node = next(node for node in graph.node if node.name == name)
        integers, scale, _ = (weights[i] for i in makers[node.input[1]].input)
        assert integers.dtype == np.int8
        # Per channel: each has its own scale and uses all of the range.
        assert scale.shape == (integers.shape[0],)
        assert (np.abs(integers.astype(int)).max(axis=(1, 2, 3)) == 127).all()


def test_onnx_runtime_runs_in_int8_what_is_written_in_int8(model: bytes, photos: list[Pixels], tmp_path: Path) -> None:
    names = _convolutions(model)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    data = to_qdq(model, observe(model, photos), names, "uint8")
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    found = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    # Nothing reads the logits in INT8.
    assert found["QLinearConv"] == len(names) - 1, found


def _in_int8(model: bytes) -> set[str]:
    graph = onnx.load_from_string(model).graph
    makers = {name: node for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    return {node.name for node in convolutions if makers[node.input[0]].op_type == "DequantizeLinear"}


def _chain(*widths: int) -> bytes:
    """Convolutions of so many channels behind each other: which network they are of decides nothing, and each figure
    is a quantisation.
    """
    before, lines, weights = "planes", [], {}
    rng = np.random.default_rng(0)
    for number, (width, depth) in enumerate(zip(widths, (3, *widths), strict=False)):
        lines.append(f"wide{number} = Conv <pads = [1, 1, 1, 1]> ({before}, weights{number})")
        before = f"behind{number}"
        lines.append(f"{before} = {'Relu' if number + 1 < len(widths) else 'Sigmoid'} (wide{number})")
        weights[f"weights{number}"] = rng.normal(
            0, (2 / (9 * depth)) ** 0.5 / (1 if number else 100), (width, depth, 3, 3)
        )
    network = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 18]>
        chain (uint8[1, {SIZE}, {SIZE}, 3] image) => (float[1, {SIZE}, {SIZE}] anomaly_map, float[1] score)
        {{
            pixels = Cast <to = 1> (image)
            planes = Transpose <perm = [0, 3, 1, 2]> (pixels)
            {chr(10).join(lines)}
            anomaly_map = ReduceMax <keepdims = 0> ({before}, channels)
            score = ReduceMax <keepdims = 0> (anomaly_map, places)
        }}"""
    )
    for node in network.graph.node:
        node.name = f"node_{node.output[0]}"
    for name, values in weights.items():
        network.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    for name, axes in (("channels", [1]), ("places", [1, 2])):
        network.graph.initializer.append(numpy_helper.from_array(np.array(axes), name))
    return bytes(network.SerializeToString())


def test_layers_that_hurt_stay_in_float_and_too_many_are_refused(photos: list[Pixels]) -> None:
    """The figures are made up here: good where one layer of each group that hurts is in float, else bad."""
    model = _chain(4, 8, 6, 12, 4, 10, 8, 1)
    parts = quantization.Labelled(photos[:3], photos[3:], [np.zeros((SIZE, SIZE), np.bool_)] * 3)
    even = even_channels(model, photos)
    ranges = observe(even, photos)
    alone = {name: _error(even, to_qdq(even, ranges, [name], "uint8"), photos) for name in _convolutions(even)}
    worst = sorted(alone, key=alone.__getitem__, reverse=True)
    hurt: list[set[str]] = []

    def measure(graph: bytes, parts: quantization.Labelled) -> quantization.Measured:
        good = not any(group <= _in_int8(graph) for group in hurt)
        scores = [one.score for one in map(runner(graph), parts.images)]
        return quantization.Measured({"image_auroc": 0.99 if good else 0.5, "pixel_ap": 0.8}, scores)

    def quantized(most_float: int = 12, score_error: float = 1.0) -> list[str]:
        limits = quantization.Limits(score_error, most_float)
        return quantize(model, photos, parts, "uint8", limits, measure).float_layers

    assert quantized() == []
    hurt = [{worst[0]}, {worst[1]}]
    assert set(quantized()) == set(worst[:2])
    hurt = [{worst[3]}]
    assert quantized() == worst[3:4], "the three before it were not needed"
    costs = macs(onnx.load_from_string(even))
    *others, third = worst
    cheap = min(others, key=costs.__getitem__)
    costly = next(name for name in others if costs[name] > costs[cheap])
    # Both are in float when the last of three that matter is; one of the two is enough.
    hurt = [{cheap, costly}, {third}]
    assert set(quantized(most_float=len(worst))) == {cheap, third}
    hurt = []
    with pytest.raises(QuantizationError, match=r"scores are off by up to 0\.\d+ \(allowed 0\.0000\)"):
        quantized(2, 0.0)
    hurt = [{worst[-1]}]
    with pytest.raises(
        QuantizationError, match=r"INT8 is refused: with .* image_auroc 99\.00 to 50\.00 \(at most 0\.2 less\)"
    ):
        quantized(2, 0.0)


def test_figures_may_fall_by_so_much_and_no_more() -> None:
    before = {"image_auroc": 0.99, "pixel_ap": 0.8}
    require_figures("int8", before, {"image_auroc": 0.9881, "pixel_ap": 0.791})
    for worse in ({"image_auroc": 0.987, "pixel_ap": 0.8}, {"image_auroc": 0.99, "pixel_ap": 0.789}):
        with pytest.raises(QuantizationError, match=r"pixel_ap 80\.00 to"):
            require_figures("int8", before, worse)


def test_what_rounded_weights_add_on_average_is_taken_off(model: bytes, photos: list[Pixels]) -> None:
    names, ranges = _convolutions(model), observe(model, photos)
    unknown = {name: replace(one, means=np.zeros_like(one.means)) for name, one in ranges.items()}

    def shift(ranges: dict[str, Range]) -> float:
        run, exact = runner(to_qdq(model, ranges, names, "uint8")), runner(model)
        return abs(float(np.mean([run(photo).anomaly_map - exact(photo).anomaly_map for photo in photos])))

    assert shift(ranges) < shift(unknown)


_BRANCHES = """<ir_version: 10, opset_import: ["" : 18]>
branches (uint8[1, h, w, 3] image) => (float[1, 1, h, w] anomaly_map, float[1] score)
{
    pixels = Cast <to = 1> (image)
    planes = Transpose <perm = [0, 3, 1, 2]> (pixels)
    first = Conv (planes, first_weights)
    louder = Mul (first, shift)
    behind = Relu (louder)
    second = Conv (behind, second_weights)
    twice = Relu (second)
    third = Conv (twice, third_weights)
    mean = ReduceMean (twice, channels)
    sum = Add (third, mean)
    anomaly_map = Sigmoid (sum)
    score = ReduceMax <keepdims = 0> (anomaly_map, places)
}"""


def test_channels_that_more_than_convolutions_read_stay_as_they_are(photos: list[Pixels]) -> None:
    """One ReLU stands behind a product, and one is read by a convolution and by a mean: neither may be scaled."""
    network = onnx.parser.parse_model(_BRANCHES)
    for node in network.graph.node:
        node.name = f"node_{node.output[0]}"
    rng = np.random.default_rng(0)
    constants = {
        "first_weights": rng.normal(0, 0.01, (4, 3, 1, 1)),
        "second_weights": rng.normal(0, 0.5, (4, 4, 1, 1)),
        "third_weights": rng.normal(0, 0.5, (1, 4, 1, 1)),
        "shift": np.array([1, 9, 1, 1]).reshape(1, 4, 1, 1),
    }
    for name, values in constants.items():
        network.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    for name, axes in (("channels", [1]), ("places", [1, 2, 3])):
        network.graph.initializer.append(numpy_helper.from_array(np.array(axes), name))
    model = network.SerializeToString()
    assert _error(model, even_channels(model, photos), photos) < 1e-6


def _scored(*scores: float) -> list[Scored]:
    return [Scored(np.zeros((2, 2), np.float32), score) for score in scores]


def test_good_photos_that_become_ng_and_defects_that_become_ok_refuse_a_precision() -> None:
    limits = thresholds(review=0.3, reject=0.6)
    exact = _scored(0.1, 0.59, 0.7, 0.61, 0.2)
    assert require_verdicts("int8", limits, exact, _scored(0.31, 0.59, 0.7, 0.59, 0.3), good=2) == 3
    with pytest.raises(QuantizationError, match=r"1 of 2 held-out good photos are NG .* from 0\.5900 to 0\.6000"):
        require_verdicts("int8", limits, exact, _scored(0.1, 0.6, 0.7, 0.61, 0.2), good=2)
    with pytest.raises(
        QuantizationError, match=r"1 of 3 rendered defects OK that were NG, one from 0\.6100 to 0\.2900"
    ):
        require_verdicts("int8", limits, exact, _scored(0.1, 0.59, 0.7, 0.29, 0.2), good=2)


def test_scores_may_be_off_by_less_where_good_parts_lie_close_to_ng() -> None:
    wide, narrow = (
        limits_for(thresholds(review=reject, reject=reject, good_scores=[0.1, 0.2, 0.2])) for reject in (0.6, 0.25)
    )
    assert wide.score_error == quantization.Limits().score_error
    assert abs(narrow.score_error - 0.005) < 1e-9
    again = limits_for(thresholds(review=0.25, reject=0.25, good_scores=[0.1, 0.2, 0.2]), 0.5)
    assert again == replace(narrow, score_error=narrow.score_error / 2), "the next attempt may err less"


def test_a_score_far_from_the_limits_of_the_verdicts_may_be_off_by_more() -> None:
    limits = limits_for(thresholds(review=0.3, reject=0.6, good_scores=[0.1]))
    errors = [limits.error(exact, exact + 0.02) for exact in (0.3, 0.5, 0.6, 0.9)]
    assert errors == pytest.approx([0.02, 0.01, 0.02, -0.01])
    assert quantization.Limits().error(0.9, 0.92) == pytest.approx(0.02), "nobody told where the limits are"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_dataset(folder, good=14, test_good=1, defects_per_kind=1, seed=5)
    return folder


# Takes what is bright for an anomaly.
_LEARNED_NOTHING = """<ir_version: 10, opset_import: ["" : 18]>
bright (uint8[n, 256, 256, 3] image) => (float[n, 256, 256] anomaly_map, float[n] score)
{
    pixels = Cast <to = 1> (image)
    light = ReduceMean <keepdims = 0> (pixels, channels)
    anomaly_map = Div (light, white)
    score = ReduceMax <keepdims = 0> (anomaly_map, places)
}"""


@pytest.fixture
def blind() -> bytes:
    network = onnx.parser.parse_model(_LEARNED_NOTHING)
    constants = {"channels": np.array([3]), "places": np.array([1, 2]), "white": np.array(255, np.float32)}
    for name, values in constants.items():
        network.graph.initializer.append(numpy_helper.from_array(values, name))
    return bytes(network.SerializeToString())


@pytest.mark.slow
def test_a_precision_is_added_beside_the_version_or_refused_with_the_figures(
    parts: Path, blind: bytes, tmp_path: Path
) -> None:
    """Quantised are two layers here, to save the search for them."""
    copied = demo_trained_on(parts, tmp_path / "models")
    source = read_bundle(copied)
    images = [render_good(np.random.default_rng(seed)) for seed in range(3)]
    model = source.file("model.onnx").read_bytes()
    layers = [node.name for node in onnx.load_from_string(model).graph.node if node.op_type == "Conv"][4:6]
    quantized = Lowered("int8", to_qdq(model, observe(model, images), layers, "uint8"), ["node_conv2d"])
    assert main(["export", "--bundle", str(copied), "--int8"]) == 1
    assert main(["export", "--bundle", str(copied), "--int8", "--data", str(parts), "--version", "1"]) == 1
    _, held_out, seed = split_for_acceptance(source, parts)
    photos = [fit(read(path), source.manifest.input) for path in held_out[:2]]
    told: list[str] = []
    attempts = [Lowered("int8", blind), quantized]
    bundle = add_first_accepted(
        *(source, attempts, photos), models=copied.parents[1], version="1-int8", seed=seed, tell=told.append
    )
    assert len(told) == 1
    assert "int8 in onnxruntime is refused" in told[0]
    assert bundle.manifest.models.keys() == {"fp32", "int8"}
    assert bundle.manifest.thresholds == source.manifest.thresholds
    record = bundle.manifest.training.int8
    assert isinstance(record, dict)
    assert (record["float_layers"], record["refused_before"]) == (["node_conv2d"], 1)
    require_figures("int8", record["fp32"], record["onnxruntime"])
    assert bundle.model_sha256("int8") != bundle.model_sha256("fp32")
    for candidate in cpu_candidates(bundle, "auto", "int8"):
        backend = open_on_cpu(bundle, candidate, threads=1, plan=Plan.by_rule(1))
        require_golden(bundle, "int8", lambda image, backend=backend: score_images(backend, [image]))
        backend.close()
    settings = Settings(records_dir=None, models_dir=copied.parents[1], precision="int8", cache_dir=tmp_path / "cache")
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        wait_until_loaded(client)
        golden = bundle.manifest.golden[0]
        picture, headers = bundle.file(golden.image).read_bytes(), {"Content-Type": "image/png"}
        reply = client.post("/inspect", params={"recipe": "demo"}, content=picture, headers=headers).json()
    assert (reply["version"], reply["backend"]["precision"]) == ("1-int8", "int8")
    assert reply["model_sha256"] == bundle.model_sha256("int8")
    assert abs(reply["score"] - golden.score) <= bundle.manifest.tolerances["int8"].score
    with pytest.raises(BundleError, match="exists already"):
        add_precision(source, quantized, photos, models=copied.parents[1], version="1-int8", seed=seed)

    with pytest.raises(QuantizationError, match=r"int8 in onnxruntime is refused: .*image_auroc .* pixel_ap"):
        add_first_accepted(source, attempts[:1], images, models=tmp_path / "models", version="2", seed=0)
    assert not copied.with_name("2").exists()


@pytest.mark.slow
def test_half_precision_is_a_file_of_its_own_that_no_cpu_chooses(parts: Path, blind: bytes, tmp_path: Path) -> None:
    copied = demo_trained_on(parts, tmp_path / "models")
    assert main(["export", "--bundle", str(copied), "--fp16", "--data", str(parts)]) == 0
    bundle = read_bundle(copied.with_name("1-fp16"))
    assert bundle.manifest.models["fp16"] == "model.fp16.onnx"
    assert bundle.file("model.fp16.onnx").stat().st_size < 0.6 * bundle.file("model.onnx").stat().st_size
    assert bundle.manifest.training.fp16 is not None
    assert "fp16" not in [candidate.precision for candidate in cpu_candidates(bundle, "auto", "auto")]
    assert gpu_precision(bundle) == "fp16"
    images = [render_good(np.random.default_rng(seed)) for seed in range(3)]
    with pytest.raises(QuantizationError, match="fp16 in onnxruntime is refused"):
        add_precision(bundle, Lowered("fp16", blind), images, models=tmp_path / "models", version="2", seed=0)
