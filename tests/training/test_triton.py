"""Triton's model repository: read with Triton's own schema, its graph run as the configuration says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import numpy as np
import onnxruntime
import pytest
import yaml
from bundles import make_bundle
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig
from tritonclient.utils import triton_to_np_dtype

from service.bundle.folder import Bundle, read_bundle
from service.images.decoding import read
from training.bundling.triton import export_triton
from training.commands import run as main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo() -> Bundle:
    return read_bundle(ROOT / "models/demo/1")


def config_of(version: Path) -> Any:
    return text_format.Parse((version.parent / "config.pbtxt").read_text(), ModelConfig())


def dtype_of(tensor: Any) -> Any:
    return triton_to_np_dtype(DataType.Name(tensor.data_type).removeprefix("TYPE_"))


def infer(version: Path, image: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """As Triton does it: a client's tensors have `dims`, those of the graph `reshape` where there is one."""
    config = config_of(version)
    (spec,) = config.input
    assert (image.dtype, list(image.shape[1:])) == (dtype_of(spec), spec.dims)
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    outputs = session.run([output.name for output in config.output], {spec.name: image})
    replies = {}
    for output, array in zip(config.output, outputs, strict=True):
        inside = output.reshape.shape if output.HasField("reshape") else output.dims
        assert (array.dtype, list(array.shape)) == (dtype_of(output), [len(image), *inside])
        replies[output.name] = array.reshape(len(image), *output.dims)
    return replies


def test_a_client_gets_the_golden_maps_and_scores(demo: Bundle, tmp_path: Path) -> None:
    golden = demo.manifest.golden
    replies = infer(export_triton(demo, tmp_path), np.stack([read(demo.file(entry.image)) for entry in golden]))
    tolerance = demo.manifest.tolerances["fp32"]
    assert replies["score"].shape == (len(golden), 1)
    np.testing.assert_allclose(replies["score"][:, 0], [entry.score for entry in golden], atol=tolerance.score)
    maps = np.stack([np.load(demo.file(entry.anomaly_map)) for entry in golden])
    np.testing.assert_allclose(replies["anomaly_map"], maps, atol=tolerance.anomaly_map)


def test_the_configuration_batches_warms_up_and_tells_the_thresholds(demo: Bundle, tmp_path: Path) -> None:
    version = export_triton(demo, tmp_path, max_batch=4)
    config = config_of(version)
    assert (config.name, config.backend, config.max_batch_size) == (version.parent.name, "onnxruntime", 4)
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    (warmup,) = config.model_warmup
    assert warmup.inputs["image"].dims == config.input[0].dims
    thresholds = demo.manifest.thresholds
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert float(parameters.pop("threshold_review")) == thresholds.review
    assert float(parameters.pop("threshold_reject")) == thresholds.reject
    assert float(parameters.pop("threshold_pixel")) == thresholds.pixel
    assert int(parameters.pop("min_area")) == thresholds.min_area
    assert parameters == {"recipe_version": demo.manifest.version, "model_sha256": demo.model_sha256("fp32")}


def test_each_version_of_a_recipe_is_the_next_number(tmp_path: Path) -> None:
    first, second = (make_bundle(tmp_path / "models", version=version, label=version) for version in ("a", "b"))
    repository = tmp_path / "triton"
    folders = [export_triton(bundle, repository) for bundle in (first, first, second, first)]
    assert [folder.name for folder in folders] == ["1", "1", "2", "3"]
    for folder, bundle in zip(folders, (first, first, second, first), strict=True):
        assert (folder / "manifest.json").read_bytes() == (bundle.path / "manifest.json").read_bytes()
        assert (folder / "model.onnx").read_bytes() == bundle.file("model.onnx").read_bytes()
    assert config_of(folders[-1]).parameters["recipe_version"].string_value == "a"
    assert {path.name for path in (repository / "part").iterdir()} == {"1", "2", "3", "config.pbtxt"}


def test_the_command_writes_it_or_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = ["export", "--bundle", str(make_bundle(tmp_path / "models").path)]
    triton = [*export, "--triton", str(tmp_path / "triton")]
    assert main([*triton, "--max-batch", "16"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert config_of(folder).max_batch_size == 16
    assert main([*triton, "--precision", "int8"]) == 1
    assert "no int8 graph in it: choose fp32" in capsys.readouterr().err
    assert main([*triton, "--precision", "int8", "fp32"]) == 1
    assert "give --precision once" in capsys.readouterr().err
    assert main(export) == 1
    assert "--triton DIR" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([*export, "--triton", str(tmp_path / "file")]) == 1
    assert "file" in capsys.readouterr().err


def test_the_kserve_example_follows_its_schema() -> None:
    """The parts of KServe 0.21's custom resource that it uses; unknown fields are refused as in a cluster."""
    example = yaml.safe_load((ROOT / "helm/kserve.yaml").read_text())
    predictor = example["spec"]["predictor"]
    number = {"type": "integer", "minimum": 1}
    text = {"type": "string", "minLength": 1}
    model = {
        "modelFormat": {"type": "object", "properties": {"name": {"const": "triton"}}, "additionalProperties": False},
        "runtime": text,
        "protocolVersion": {"enum": ["v2", "grpc-v2"]},
        "storageUri": {"type": "string", "pattern": r"^(pvc|s3|gs|oci|https)://"},
        "env": {"type": "array"},
        "resources": {"type": "object"},
    }
    properties = {
        "minReplicas": number,
        "maxReplicas": number,
        "scaleMetric": {"enum": ["concurrency", "rps"]},
        "scaleTarget": number,
        "timeout": number,
        "model": {
            "type": "object",
            "properties": model,
            "additionalProperties": False,
            "required": ["modelFormat", "storageUri"],
        },
        "tolerations": {"type": "array"},
    }
    jsonschema.validate(
        predictor, {"type": "object", "properties": properties, "additionalProperties": False, "required": ["model"]}
    )
    assert (example["apiVersion"], example["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert example.keys() == {"apiVersion", "kind", "metadata", "spec"}
    # What of it becomes a pod is a pod's.
    container = {
        "name": "triton",
        "image": "triton",
        **{name: predictor["model"][name] for name in ("resources", "env")},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": example["metadata"],
        "spec": {"containers": [container], "tolerations": predictor["tolerations"]},
    }
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
