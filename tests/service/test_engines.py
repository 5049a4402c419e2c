"""Engines are really built here, without a GPU: `tensorrt_rtx` can."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch
from bundles import SIZE, make_bundle
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from service.backends.base import BackendError
from service.backends.cuda import Gpu
from service.backends.engines import (
    EngineRecord,
    Library,
    build_engine,
    engine_path,
    gpus,
    key_of,
    load_engine,
    open_library,
    parse,
    read_engine,
    read_timing_cache,
    write_timing_cache,
)
from service.backends.graphs import OnnxModel
from service.bundle.folder import Bundle
from service.bundle.manifest import FileEntry, InputSpec, Precision, ScoreFormula
from service.commands import run
from training.bundling.fp16 import to_half
from training.bundling.graph import InspectionGraph
from training.bundling.onnx import to_onnx
from training.bundling.qdq import observe, to_qdq
from training.commands import run as main
from training.networks.anomaly_map import AnomalyMap
from training.networks.draem import Draem
from training.tiles import Grid

tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: x86-64 Linux only")

RTX = Library(tensorrt_rtx)
AMPERE = Gpu("8.6")
CONVOLUTIONS = 51


class _Noise(CalibrationDataReader):
    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._batches = iter([{"image": rng.integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)} for _ in range(2)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def _quantized(model: bytes, folder: Path, **layout: bool) -> bytes:
    (folder / "single.onnx").write_bytes(model)
    quantize_static(
        folder / "single.onnx",
        folder / "int8.onnx",
        _Noise(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options=layout,
    )
    return (folder / "int8.onnx").read_bytes()


@pytest.fixture(scope="module")
def single() -> bytes:
    torch.manual_seed(0)
    return to_onnx(InspectionGraph(AnomalyMap(Draem(8, 8))).eval(), SIZE, SIZE)


@pytest.fixture(scope="module")
def bundle(single: bytes, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The exported graph in every precision; int8 as `export --int8 gpu` writes it."""
    folder = tmp_path_factory.mktemp("engines")
    noise = list(np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8))
    names = [node.name for node in onnx.load_from_string(single).graph.node if node.op_type == "Conv"]
    int8 = to_qdq(single, observe(single, noise), names, "int8")
    return _with_models(folder, {"fp32": single, "fp16": to_half(single), "int8": int8})


def _with_models(folder: Path, models: dict[Precision, bytes]) -> Bundle:
    written = make_bundle(folder / "models")
    files = dict(written.manifest.files)
    for precision, data in models.items():
        (written.path / f"model.{precision}.onnx").write_bytes(data)
        files[f"model.{precision}.onnx"] = FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    update = {"models": {precision: f"model.{precision}.onnx" for precision in models}, "files": files}
    return Bundle(written.path, written.manifest.model_copy(update=update))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_layer_of_the_exported_graph_is_parsed_in_its_own_type(bundle: Bundle, precision: Precision) -> None:
    file = bundle.file(bundle.manifest.models[precision])
    errors: list[str] = []
    network = parse(OnnxModel.read(file), bundle.manifest.input, RTX, errors).network
    assert not errors
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    named = {layer.name for layer in layers}
    nodes = onnx.load(file).graph.node
    missing = [node.name for node in nodes if not any(name.startswith(node.name) for name in named)]
    assert not missing
    kinds = Counter(layer.type for layer in layers)
    convolutions = [layer for layer in layers if layer.type == tensorrt_rtx.LayerType.CONVOLUTION]
    assert len(convolutions) == CONVOLUTIONS
    half = tensorrt_rtx.DataType.HALF if precision == "fp16" else tensorrt_rtx.DataType.FLOAT
    assert {layer.get_output(0).dtype for layer in convolutions} == {half}
    quantized = Counter(node.op_type for node in nodes)
    assert kinds[tensorrt_rtx.LayerType.QUANTIZE] == quantized["QuantizeLinear"]
    assert kinds[tensorrt_rtx.LayerType.DEQUANTIZE] == quantized["DequantizeLinear"]
    assert (precision == "int8") == (quantized["QuantizeLinear"] > CONVOLUTIONS)


@pytest.mark.parametrize("capability", ["8.6", "8.9", "12.0"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_engines_are_built_recorded_and_found_again(
    bundle: Bundle, precision: Precision, capability: str, tmp_path: Path
) -> None:
    gpu = Gpu(capability)
    record = build_engine(bundle, precision, max_batch=8, cache=tmp_path, gpu=gpu, library=RTX)
    path = engine_path(tmp_path, record.key)
    assert path.name.endswith(f"-{precision}-tensorrt_rtx-sm{capability.replace('.', '')}.engine")
    assert EngineRecord.model_validate_json(path.with_suffix(".json").read_bytes()) == record
    assert sorted(file.name for file in path.parent.iterdir()) == sorted([path.name, path.with_suffix(".json").name])
    assert record.bytes == path.stat().st_size
    # The weights are inside, and kernels: up to 8 MB of them in int8.
    weights = bundle.file(bundle.manifest.models[precision]).stat().st_size
    assert 0.8 * weights < record.bytes < weights + 12_000_000
    assert record.tensors == {
        "image": f"UINT8 (-1, {SIZE}, {SIZE}, 3)",
        "anomaly_map": f"FLOAT (-1, {SIZE}, {SIZE})",
        "score": "FLOAT (-1,)",
    }
    assert record.profile == (1, 1, 8)
    assert record.key.model_dump() == {
        "onnx_sha256": bundle.model_sha256(precision),
        "precision": precision,
        "max_batch": 8,
        "library": "tensorrt_rtx",
        "library_version": tensorrt_rtx.__version__,
        "compute_capability": capability,
        "gpu": None,
    }
    assert read_engine(path, record.key) == path.read_bytes()


@pytest.mark.parametrize(
    ("layout", "node"),
    [({"ActivationSymmetric": True}, "DequantizeLinear"), ({"QuantizeBias": False}, "QuantizeLinear")],
)
def test_int32_biases_and_zero_points_are_refused_by_name(
    single: bytes, bundle: Bundle, layout: dict[str, bool], node: str, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(_quantized(single, tmp_path, **layout))
    with pytest.raises(BackendError, match=rf"model\.onnx: tensorrt_rtx .* does not take node .*\({node}\)"):
        parse(OnnxModel.read(tmp_path / "model.onnx"), bundle.manifest.input, RTX, [])


@pytest.mark.parametrize("region", [False, True])
@pytest.mark.parametrize("score", get_args(ScoreFormula))
def test_engines_are_built_of_every_image_score(score: ScoreFormula, region: bool, tmp_path: Path) -> None:
    keep = np.ones((SIZE, SIZE), np.bool_)
    keep[:30, :20] = False
    graph = InspectionGraph(AnomalyMap(Draem(4, 4)), keep if region else None, score).eval()
    model = to_onnx(graph, SIZE, SIZE)
    bundle = _with_models(tmp_path, {"fp32": model, "fp16": to_half(model)})
    for precision in bundle.manifest.models:
        errors: list[str] = []
        parse(OnnxModel.of(bundle, precision), bundle.manifest.input, RTX, errors)
        assert not errors
        assert build_engine(bundle, precision, max_batch=8, cache=tmp_path, gpu=AMPERE, library=RTX).bytes > 0


def test_tiles_are_layers_that_nvidias_parser_takes() -> None:
    grid = Grid(2, 2, SIZE, 16)
    spec = InputSpec(height=grid.height, width=grid.width)
    graph = InspectionGraph(grid.over(AnomalyMap(Draem(4, 4))), None, "windows").eval()
    model = to_onnx(graph, grid.height, grid.width)
    for data in (model, to_half(model)):
        errors: list[str] = []
        parse(OnnxModel("tiled", data), spec, RTX, errors)
        assert not errors


def test_a_graph_of_another_signature_is_refused(bundle: Bundle) -> None:
    larger = bundle.manifest.input.model_copy(update={"height": 2 * SIZE})
    with pytest.raises(BackendError, match="inputs and outputs are"):
        parse(OnnxModel.read(bundle.file("model.fp32.onnx")), larger, RTX, [])


def _load(bundle: Bundle, cache: Path, policy: str, **other: Any) -> bytes:
    options = {"max_batch": 2, "gpu": AMPERE, "library": RTX, **other}
    return load_engine(bundle, "fp32", cache=cache, policy=policy, **options)  # type: ignore[arg-type]


def test_a_missing_engine_is_built_once_or_refused(small: Bundle, tmp_path: Path) -> None:
    with pytest.raises(
        BackendError, match=r"no such file\. Build it with `python -m service build-engine --recipe part"
    ):
        _load(small, tmp_path, "refuse")
    engine = _load(small, tmp_path, "build")
    written = [file.stat().st_mtime_ns for file in (tmp_path / "engines").iterdir()]
    assert _load(small, tmp_path, "build") == _load(small, tmp_path, "refuse") == engine
    assert [file.stat().st_mtime_ns for file in (tmp_path / "engines").iterdir()] == written


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("onnx_sha256", "0" * 64),
        ("precision", "fp16"),
        ("max_batch", 4),
        ("library_version", "1.6.0"),
        ("compute_capability", "8.9"),
        ("gpu", "NVIDIA RTX A2000"),
    ],
)
def test_an_engine_of_another_key_is_refused_or_rebuilt(
    small: Bundle, tmp_path: Path, field: str, value: object
) -> None:
    engine = _load(small, tmp_path, "build")
    path = engine_path(tmp_path, key_of(small, "fp32", 2, AMPERE, RTX))
    record = json.loads(path.with_suffix(".json").read_text())
    wanted = record["key"][field]
    record["key"][field] = value
    foreign = b"an engine for another machine"
    record["engine_sha256"] = hashlib.sha256(foreign).hexdigest()
    path.write_bytes(foreign)
    path.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(BackendError, match=rf"built for {field} {value}, this is {wanted}"):
        _load(small, tmp_path, "refuse")
    rebuilt = _load(small, tmp_path, "build")
    assert abs(len(rebuilt) - len(engine)) < 0.1 * len(engine)
    assert _load(small, tmp_path, "refuse") == rebuilt


def test_a_damaged_engine_or_record_is_refused(small: Bundle, tmp_path: Path) -> None:
    engine = _load(small, tmp_path, "build")
    path = engine_path(tmp_path, key_of(small, "fp32", 2, AMPERE, RTX))
    path.write_bytes(engine[:-1])
    with pytest.raises(BackendError, match="sha256 differs"):
        _load(small, tmp_path, "refuse")
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(BackendError, match=r"\.json: Field required"):
        _load(small, tmp_path, "refuse")
    _load(small, tmp_path, "build")
    assert isinstance(read_engine(path, key_of(small, "fp32", 2, AMPERE, RTX)), bytes)


def test_what_cannot_be_built_says_why_and_writes_nothing(small: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"SM86.*not for compute capability 9\.0"):
        build_engine(small, "fp32", max_batch=2, cache=tmp_path, gpu=Gpu("9.0"), library=RTX)
    with pytest.raises(BackendError, match="no int8 model: it has fp32"):
        build_engine(small, "int8", max_batch=2, cache=tmp_path, gpu=AMPERE, library=RTX)
    assert not list(tmp_path.iterdir())


def test_tensorrt_proper_is_preferred_bound_to_its_gpu_and_builds_for_no_other(
    small: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Module:
        __name__ = "tensorrt"
        __version__ = "10.16.1.11"

    monkeypatch.setattr("importlib.import_module", lambda name: Module() if name == "tensorrt" else tensorrt_rtx)
    library = open_library()
    assert library.name == "tensorrt"
    assert key_of(small, "fp32", 2, Gpu("8.6", "NVIDIA RTX A2000"), library).gpu == "NVIDIA RTX A2000"
    with pytest.raises(BackendError, match="only for the GPU of this machine"):
        gpus(["8.9"], library)
    assert gpus(["8.9", "12.0"], RTX) == [Gpu("8.9"), Gpu("12.0")]


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")
def test_timing_cache_is_kept_and_a_foreign_one_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    builder = tensorrt_rtx.Builder(tensorrt_rtx.Logger())
    for before in (None, b"of another TensorRT"):
        if before:
            path.write_bytes(before)
        config = builder.create_builder_config()
        read_timing_cache(config, path)
        write_timing_cache(config, path)
        assert path.read_bytes() not in (b"", before)


def test_the_engine_is_of_the_precision_that_the_service_runs(
    small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INSPECT_PRECISION", "int8")
    models = str(small.path.parents[1])
    assert run(["build-engine", "--models", models, "--cache", str(tmp_path), "--compute-capability", "8.6"]) == 2
    assert "int8 was asked for" in capsys.readouterr().err


def test_both_commands_build_the_same_engine(small: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = str(small.path.parents[1])
    more = ["--compute-capability", "8.6", "--max-batch", "2", "--cache"]
    assert run(["build-engine", "--recipe", "part", "--models", models, *more, str(tmp_path / "a")]) == 0
    line = json.loads(capsys.readouterr().out)
    assert main(["export", "--bundle", str(small.path), "--tensorrt", *more, str(tmp_path / "b")]) == 0
    assert Path(line["engine"]).is_file()
    keys = [json.loads(next(tmp_path.glob(f"{x}/engines/*.json")).read_text())["key"] for x in "ab"]
    assert keys == [line["key"], line["key"]]
    capsys.readouterr()
    written = [file.stat().st_mtime_ns for file in sorted(tmp_path.glob("a/engines/*"))]
    assert run(["build-engine", "--missing", "--models", models, *more, str(tmp_path / "a")]) == 0
    assert json.loads(capsys.readouterr().out) == {"engine": line["engine"], "kept": True}
    assert [file.stat().st_mtime_ns for file in sorted(tmp_path.glob("a/engines/*"))] == written
    Path(line["engine"]).write_bytes(b"damaged")
    assert run(["build-engine", "--missing", "--models", models, *more, str(tmp_path / "a")]) == 0
    assert json.loads(capsys.readouterr().out)["engine_sha256"]
    assert run(["build-engine", "--recipe", "nut", "--models", models, *more, str(tmp_path / "a")]) == 2
    assert "no recipe 'nut': choose part" in capsys.readouterr().err


def test_a_recipe_without_an_engine_stops_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The first in the order of names is the broken one.
    make_bundle(tmp_path, "bolt").file("model.onnx").write_bytes(b"damaged")
    sound = make_bundle(tmp_path, "nut")
    cache = ["--cache", str(tmp_path / "cache")]
    command = ["build-engine", "--models", str(tmp_path), "--compute-capability", "8.6", "--max-batch", "2", *cache]
    assert run(command) == 0
    output = capsys.readouterr()
    assert Path(json.loads(output.out)["engine"]).is_file()
    assert output.err.startswith("error: recipe bolt: ")
    assert "model.onnx" in output.err
    sound.file("model.onnx").write_bytes(b"damaged")
    assert run(command) == 2
    assert "error: recipe nut: " in capsys.readouterr().err
