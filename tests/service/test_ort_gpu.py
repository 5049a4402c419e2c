from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from bundles import SIZE, brightness_model
from fakes import brightness
from numpy.typing import NDArray

from service.backends.base import BackendError
from service.backends.graphs import OnnxModel
from service.backends.opening import open_backend
from service.backends.ort_gpu import GpuChoice, OrtGpuBackend, provider_options
from service.bundle.folder import read_bundle
from service.bundle.manifest import InputSpec

SPEC = InputSpec(height=SIZE, width=SIZE)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(brightness_model())
    return path


def _images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def test_cuda_runs_single_precision_as_such_and_captures_graphs(tmp_path: Path) -> None:
    ((name, options),) = provider_options("ort-cuda", "fp32", SPEC, max_batch=8, cache=tmp_path, model_sha256="ab" * 32)
    assert name == "CUDAExecutionProvider"
    assert (options["use_tf32"], options["enable_cuda_graph"]) == ("0", "1")


@pytest.mark.parametrize(("precision", "half", "int8"), [("fp32", "0", "0"), ("fp16", "1", "0"), ("int8", "0", "1")])
def test_tensorrt_options_follow_precision_and_batch(precision: str, half: str, int8: str, tmp_path: Path) -> None:
    (name, options), (second, cuda) = provider_options(
        "ort-tensorrt",
        precision,  # type: ignore[arg-type]
        SPEC,
        max_batch=4,
        cache=tmp_path,
        model_sha256="ab" * 32,
    )
    assert (name, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == (half, int8)
    assert options["trt_profile_min_shapes"] == options["trt_profile_opt_shapes"] == f"image:1x{SIZE}x{SIZE}x3"
    assert options["trt_profile_max_shapes"] == f"image:4x{SIZE}x{SIZE}x3"
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    folders = {options["trt_engine_cache_path"], options["trt_timing_cache_path"]}
    assert folders == {str(tmp_path / "ort-tensorrt")}
    assert options["trt_engine_cache_prefix"] == f"abababababababab-{precision}"
    # Two captures of one graph would get in each other's way.
    assert cuda["enable_cuda_graph"] == "0"


@pytest.mark.parametrize(("max_batch", "captured"), [(1, "1"), (2, "0"), (8, "0")])
def test_tensorrt_captures_its_one_graph_only_where_all_runs_are_alike(
    max_batch: int, captured: str, tmp_path: Path
) -> None:
    (_, options), _ = provider_options(
        "ort-tensorrt", "fp16", SPEC, max_batch=max_batch, cache=tmp_path, model_sha256="ab" * 32
    )
    assert options["trt_cuda_graph_enable"] == captured


@pytest.mark.parametrize(
    ("choice", "provider"), [("ort-cuda", "CUDAExecutionProvider"), ("ort-tensorrt", "TensorrtExecutionProvider")]
)
def test_without_a_gpu_nothing_else_is_used(choice: GpuChoice, provider: str, models: Path, tmp_path: Path) -> None:
    if provider in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the provider")
    with pytest.raises(
        BackendError, match=rf"{provider} was asked for, .*CPU.*in the checkout, pip install '\.\[gpu\]'"
    ):
        open_backend(read_bundle(models / "part" / "1"), choice, threads=1, cache=tmp_path)


def test_a_session_on_another_provider_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime-gpu 1.31 without cuBLAS gives a working session that reports only the CPU; so does this one."""
    monkeypatch.setattr("onnxruntime.InferenceSession.get_providers", lambda session: ["CPUExecutionProvider"])
    with pytest.raises(BackendError, match=r"AzureExecutionProvider was asked for, the session reports CPUExecution"):
        OrtGpuBackend(
            OnnxModel.read(model), SPEC, "fp32", providers=[("AzureExecutionProvider", {})], max_batch=1, device="cpu"
        )


def test_bound_results_are_right_for_every_batch_and_outlive_the_next_run(model: Path) -> None:
    providers = [("CPUExecutionProvider", {})]
    backend = OrtGpuBackend(OnnxModel.read(model), SPEC, "fp32", providers=providers, max_batch=3, device="cpu")
    kept = [(_images(count, count + seed), count) for seed in (0, 10) for count in (1, 3, 2)]
    results = [backend.run(images) for images, _ in kept]
    for (images, count), (maps, scores) in zip(kept, results, strict=True):
        expected_maps, expected_scores = brightness(images)
        assert maps.shape == (count, SIZE, SIZE)
        np.testing.assert_allclose(maps, expected_maps, atol=1e-6)
        np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
    for wrong in (_images(4), _images(1)[:, :-1], _images(0)):
        with pytest.raises(ValueError, match="images are"):
            backend.run(wrong)
    backend.close()


def test_a_run_that_writes_nothing_has_no_score(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a graph that was captured for another batch would leave behind: the results of the run before."""
    backend = OrtGpuBackend(
        OnnxModel.read(model), SPEC, "fp32", providers=[("CPUExecutionProvider", {})], max_batch=2, device="cpu"
    )
    assert np.isfinite(backend.run(_images(2))[1]).all()
    monkeypatch.setattr("onnxruntime.InferenceSession.run_with_iobinding", lambda session, binding, options: None)
    assert np.isnan(backend.run(_images(2, 1))[1]).all()
