from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bundles import SIZE
from fakes import brightness

from service.backends.base import BackendError
from service.backends.graphs import OnnxModel
from service.backends.opening import open_backend
from service.backends.plans import Plan
from service.bundle.folder import read_bundle
from service.bundle.manifest import InputSpec
from service.images.decoding import read

openvino_backend = pytest.importorskip("service.backends.openvino", reason="OpenVINO is not installed")


@pytest.fixture
def model(models: Path) -> Path:
    return models / "part" / "1" / "model.onnx"


SPEC = InputSpec(height=SIZE, width=SIZE)


def test_results_are_the_models_whatever_the_batch_and_outlive_the_next_run(model: Path) -> None:
    backend = openvino_backend.OpenVinoBackend(OnnxModel.read(model), SPEC, "fp32", threads=1)
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    first = backend.run(images[:1])
    both = backend.run(images)
    for got, count in ((first, 1), (both, 2)):
        for array, expected in zip(got, brightness(images[:count]), strict=True):
            assert array.dtype == np.float32
            np.testing.assert_allclose(array, expected, atol=1e-5)
    assert (backend.name, backend.provider, backend.precision) == ("openvino", "CPU", "fp32")


def test_a_plan_of_one_image_a_run_fixes_the_shape(model: Path) -> None:
    fixed = openvino_backend.OpenVinoBackend(
        OnnxModel.read(model), SPEC, "fp32", threads=1, plan=Plan(lanes=1, batch=1)
    )
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    np.testing.assert_allclose(fixed.run(images[:1])[0], brightness(images[:1])[0], atol=1e-5)
    with pytest.raises(BackendError, match="OpenVINO failed"):
        fixed.run(images)


def test_a_model_that_rested_gives_the_same_on_every_lane(demo: Path) -> None:
    bundle = read_bundle(demo)
    image = read(bundle.file(bundle.manifest.golden[0].image))[None]
    backend = openvino_backend.OpenVinoBackend(OnnxModel.of(bundle, "fp32"), bundle.manifest.input, "fp32", threads=2)
    before = backend.run(image)
    for _ in range(2):
        backend.rest()
        with ThreadPoolExecutor(backend.lanes) as pool:
            for maps, scores in pool.map(backend.run, [image] * 6):
                np.testing.assert_allclose(maps, before[0], atol=1e-5)
                np.testing.assert_allclose(scores, before[1], atol=1e-5)


def test_precision_is_what_was_asked_for_never_what_the_cpu_likes(demo: Path) -> None:
    """OpenVINO without a hint computes in bfloat16 where it can: thousands of times further off."""
    bundle = read_bundle(demo)
    golden = bundle.manifest.golden[1]
    image, expected = read(bundle.file(golden.image))[None], np.load(bundle.file(golden.anomaly_map))
    errors = {}
    for precision in ("fp32", "bf16") if openvino_backend.has_bf16() else ("fp32",):
        backend = openvino_backend.OpenVinoBackend(
            OnnxModel.of(bundle, "fp32"), bundle.manifest.input, precision, threads=1
        )
        errors[precision] = float(np.abs(backend.run(image)[0][0] - expected).max())
        assert backend.precision == precision
        backend.close()
    assert errors["fp32"] < 1e-4
    assert errors.get("bf16", 1.0) > 1e-3


def test_a_model_compiled_otherwise_than_asked_is_refused(model: Path) -> None:
    """What no CPU can give is replaced by OpenVINO without a word; the backend reads back what it got."""
    with pytest.raises(
        BackendError,
        match=r"INFERENCE_NUM_THREADS 100000 was asked for, OpenVINO runs with \d+: set INSPECT_THREADS and",
    ):
        openvino_backend.OpenVinoBackend(OnnxModel.read(model), SPEC, "fp32", threads=100_000)
    with pytest.raises(BackendError, match="not fp16"):
        openvino_backend.OpenVinoBackend(OnnxModel.read(model), SPEC, "fp16", threads=1)


def test_bf16_is_refused_where_the_cpu_has_none(model: Path) -> None:
    with pytest.raises(BackendError, match="this CPU does not have it"):
        openvino_backend.OpenVinoBackend(OnnxModel.read(model), SPEC, "bf16", threads=1, bf16=False)
    # What int8 leaves in float is float32 then.
    assert (
        openvino_backend.OpenVinoBackend(OnnxModel.read(model), SPEC, "int8", threads=1, bf16=False).precision == "int8"
    )


def test_another_size_signature_or_file_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"images are .*64.*, the manifest says .*128"):
        openvino_backend.OpenVinoBackend(
            OnnxModel.read(model), InputSpec(height=2 * SIZE, width=SIZE), "fp32", threads=1
        )
    (tmp_path / "model.onnx").write_bytes(model.read_bytes().replace(b"anomaly_map", b"anomaly_mat"))
    with pytest.raises(BackendError, match="signature is"):
        openvino_backend.OpenVinoBackend(OnnxModel.read(tmp_path / "model.onnx"), SPEC, "fp32", threads=1)
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(BackendError, match="not an ONNX file"):
        openvino_backend.OpenVinoBackend(OnnxModel.read(tmp_path / "model.onnx"), SPEC, "fp32", threads=1)


def test_a_run_that_fails_is_a_backend_error(model: Path) -> None:
    backend = openvino_backend.OpenVinoBackend(OnnxModel.read(model), SPEC, "fp32", threads=1)
    with pytest.raises(BackendError, match="OpenVINO failed"):
        backend.run(np.zeros((1, SIZE, SIZE, 4), np.uint8))


def test_asked_for_by_name_it_runs_or_says_what_to_install(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = read_bundle(models / "part" / "1")
    assert open_backend(bundle, "openvino", threads=1, cache=tmp_path).name == "openvino"
    with pytest.raises(BackendError, match=r"openvino with precision int8 was asked for: .* has fp32"):
        open_backend(bundle, "openvino", threads=1, precision="int8", cache=tmp_path)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match=r"in the checkout, pip install '\.\[openvino\]'"):
        open_backend(bundle, "openvino", threads=1, cache=tmp_path)
