"""Every method goes from photos to a verdict over HTTP, in the shapes that every runtime takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundles import wait_until_loaded
from fastapi.testclient import TestClient

from service.app import create_app
from service.backends.engines import Library, parse
from service.backends.graphs import OnnxModel
from service.bundle.folder import Bundle, read_bundle
from service.bundle.manifest import InputSpec
from service.images.decoding import Pixels, read
from service.images.resizing import fit
from service.settings import Settings
from training.bundling.onnx import opened
from training.bundling.qdq import observe, to_qdq
from training.bundling.quantize import layers_of
from training.commands import run as main
from training.commands.settings import preset_like
from training.data.demo_parts import write_dataset
from training.methods import METHODS

SIZE = 64
SPEC = InputSpec(height=SIZE, width=SIZE)
# Beside the size: what makes each method small.
LOOP = {"steps": 3, "batch": 2}
SMALL: dict[str, dict[str, int]] = {
    "reconstruction": {"width": 4, **LOOP},
    "discriminative": {"width": 4, **LOOP},
    "riad": {"width": 4, "parts": 2, **LOOP},
    "bozic": {"width": 2, **LOOP},
    "us": {"width": 2, **LOOP},
    "draem": {"reconstructive-width": 4, "discriminative-width": 4, **LOOP},
    "fusion": {"width": 8, "samples": 12, "channels": 16, "bank": 64, **LOOP},
    "padim": {"channels": 24},
    "patchcore": {"bank": 100},
}
BUILT_ON_A_TRUNK = {"us", "fusion", "padim", "patchcore"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "parts"
    write_dataset(folder, good=8, test_good=2, defects_per_kind=1, seed=0)
    return folder


@pytest.fixture(scope="module", params=SMALL)
def folder(request: pytest.FixtureRequest, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and run of a training with the method of the folder's name."""
    name = request.param
    folder = tmp_path_factory.mktemp("methods") / name
    flags = {"size": SIZE, **SMALL[name]}
    words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    places = ["--models", str(folder / "models"), "--run", str(folder / "run"), "--version", "1"]
    # Hardly trained ones miss what there is.
    words += ["--most-escapes", "1"]
    assert main(["train", "--method", name, "--data", str(parts), *places, *words]) == 0
    return folder


def _images() -> list[Pixels]:
    return list(np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8))


def _bundle(folder: Path) -> Bundle:
    return read_bundle(folder / "models" / "parts" / "1")


@pytest.mark.slow
def test_from_photos_to_a_verdict(folder: Path) -> None:
    bundle = _bundle(folder)
    method = METHODS[folder.name]
    assert bundle.manifest.method == method.name
    config = bundle.manifest.training.config
    assert config is not None
    assert method.recorded(config).preset == preset_like(method, "edge")
    assert bundle.manifest.metrics is not None
    assert (bundle.manifest.training.pretrained is not None) == (folder.name in BUILT_ON_A_TRUNK)
    stats = folder / "run" / "stats.jsonl"
    lines = stats.read_text().splitlines() if stats.exists() else []
    assert len(lines) == SMALL[folder.name].get("steps", 0)
    settings = Settings(records_dir=None, models_dir=folder / "models", backend="ort-cpu")
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        wait_until_loaded(client)  # the golden gate let it through
        for golden in bundle.manifest.golden:
            picture = bundle.file(golden.image).read_bytes()
            reply = client.post("/inspect", content=picture, headers={"Content-Type": "image/png"}).json()
            assert abs(reply["score"] - golden.score) < 1e-4
            assert reply["verdict"] == bundle.manifest.thresholds.band(reply["score"])


@pytest.mark.slow
def test_the_exported_graph_gives_what_torch_gives_alone_and_in_batches(folder: Path) -> None:
    """Golden maps and scores are torch's."""
    bundle = _bundle(folder)
    golden = bundle.manifest.golden
    pictures = [fit(read(bundle.file(one.image)), SPEC) for one in golden]
    with opened(bundle.read(bundle.manifest.models["fp32"]), SPEC) as backend:
        together, scores = backend.run(np.stack(pictures))
        for place, (picture, one) in enumerate(zip(pictures, golden, strict=True)):
            expected = np.load(bundle.file(one.anomaly_map))
            alone, score = backend.run(picture[None])
            assert expected.shape == (SIZE, SIZE)
            assert 0 <= expected.min() <= expected.max() <= 1
            for anomaly_map in (together[place], alone[0]):
                np.testing.assert_allclose(anomaly_map, expected, atol=1e-4)
            for found in (scores[place], score[0]):
                assert abs(found - one.score) < 1e-4


@pytest.mark.slow
def test_tensorrt_takes_the_graph_and_its_int8(folder: Path) -> None:
    tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: x86-64 Linux only")
    bundle = _bundle(folder)
    single = bundle.read(bundle.manifest.models["fp32"])
    for model in (single, to_qdq(single, observe(single, _images()), layers_of(single), "int8")):
        errors: list[str] = []
        parse(OnnxModel(folder.name, model), SPEC, Library(tensorrt_rtx), errors)
        assert not errors


def test_a_preset_belongs_to_one_method_and_the_papers_is_among_them() -> None:
    names = [name for method in METHODS.values() for name in method.presets]
    assert len(names) == len(set(names))
    assert SMALL.keys() == METHODS.keys(), "every method is served here"
    for name in ("reconstruction", "discriminative", "riad", "bozic", "us"):
        assert f"{name}-paper" in METHODS[name].presets
        assert next(iter(METHODS[name].presets)) == f"{name}-edge", "what is trained where nobody names a preset"
