from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from service.backends.graphs import OnnxModel
from service.backends.opening import open_backend
from service.backends.ort import OrtBackend
from service.bundle.folder import Bundle, read_bundle
from service.bundle.manifest import BundleError, InputSpec
from service.bundle.signing import load_public_key, new_keys, require_signature
from service.images.decoding import read
from service.images.quality import measure
from training.bundling.export import (
    ExportError,
    HeldOut,
    InspectionGraph,
    check_parity,
    export_bundle,
    score_images,
    score_with_torch,
    to_onnx,
)
from training.data.demo_parts import render_defect, render_good
from training.methods.draem.compact import CompactDraem
from training.methods.draem.lesson import AnomalyMap
from training.methods.draem.networks import Draem


@pytest.fixture(scope="module")
def network() -> AnomalyMap:
    """Untrained, but with BatchNorm statistics of real pictures so that maps are not flat."""
    torch.manual_seed(0)
    draem = Draem(4, 4).train()
    for parameter in draem.parameters():
        parameter.data *= 3
    with torch.no_grad():
        for seed in range(20):
            photo = torch.from_numpy(render_good(np.random.default_rng(seed))).permute(2, 0, 1)[None].float() / 255
            draem(photo)
    return AnomalyMap(draem)


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    rngs = [np.random.default_rng(100 + i) for i in range(4)]
    good = [render_good(rng) for rng in rngs]
    return HeldOut(good, [render_defect(rng, "chip")[0] for rng in rngs], [measure(image, image) for image in good])


@pytest.fixture(scope="module")
def open_model(network: AnomalyMap, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], OrtBackend]:
    model = tmp_path_factory.mktemp("model") / "model.onnx"
    model.write_bytes(to_onnx(InspectionGraph(network), 256))
    return lambda: OrtBackend(OnnxModel.read(model), InputSpec(height=256, width=256), "fp32", threads=1)


def _export(network: AnomalyMap, held_out: HeldOut, models: Path, **more: Any) -> Bundle:
    return export_bundle(
        network, held_out, recipe="part", version="1", models=models, method="draem", training={"seed": 0}, **more
    )


def test_score_is_the_maximum_of_the_zero_padded_21x21_mean() -> None:
    """A perfect 21x21 defect inside scores 1, in the corner 121/441: the paper's score counts the padding."""

    class Perfect(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x[:, 0] > 0.5).float()

    graph = InspectionGraph(Perfect())
    for at, expected in (((100, 100), 1.0), ((0, 0), 121 / 441)):
        image = torch.zeros((1, 256, 256, 3), dtype=torch.uint8)
        image[0, at[0] : at[0] + (21 if at[0] else 11), at[1] : at[1] + (21 if at[1] else 11)] = 255
        assert graph(image)[1].item() == pytest.approx(expected, abs=1e-4)


def test_batches_score_like_single_images(open_model: Callable[[], OrtBackend], held_out: HeldOut) -> None:
    backend = open_model()
    together = score_images(backend, held_out.good)
    alone = [score_images(backend, [image]) for image in held_out.good]
    np.testing.assert_allclose(together.scores, np.concatenate([one.scores for one in alone]), atol=1e-5)
    np.testing.assert_allclose(together.maps, np.concatenate([one.maps for one in alone]), atol=1e-5)


def test_batch_norm_is_folded_and_the_map_is_the_networks(
    network: AnomalyMap, open_model: Callable[[], OrtBackend], held_out: HeldOut
) -> None:
    kinds = {node.op_type for node in onnx.load_from_string(to_onnx(InspectionGraph(network), 64)).graph.node}
    assert "Conv" in kinds
    assert "BatchNormalization" not in kinds
    # Nothing of the machine that exported it travels with the model.
    assert str(Path(__file__).parents[2]).encode() not in to_onnx(InspectionGraph(network), 64)
    assert score_with_torch(InspectionGraph(network), held_out.good).maps.std() > 1e-3
    assert check_parity(InspectionGraph(network), open_model(), held_out.good) < 1e-4


@pytest.mark.parametrize(("kind", "channels"), [(Draem, 1), (CompactDraem, 4)])
def test_the_last_layer_subtracts_the_logits(
    kind: type[Draem | CompactDraem], channels: int, held_out: HeldOut, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = kind(4, 4)
    with torch.no_grad():
        # Logits of some size, which a wrong order of channels would show.
        network.last_layer.weight.mul_(1000)
        network.last_layer.get_parameter("bias").copy_(torch.linspace(0.5, 1, 2 * channels) ** 2)
    graph, model = InspectionGraph(AnomalyMap(network)), tmp_path / "model.onnx"
    model.write_bytes(to_onnx(graph, 256))
    proto = onnx.load(model).graph
    last = [node for node in proto.node if node.op_type == "Conv"][-1]
    assert next(w.dims[0] for w in proto.initializer if w.name == last.input[1]) == channels
    assert network.last_layer.out_channels == 2 * channels
    assert score_with_torch(graph, held_out.good).maps.std() > 0.01
    backend = OrtBackend(OnnxModel.read(model), InputSpec(height=256, width=256), "fp32", threads=1)
    assert check_parity(graph, backend, held_out.good) < 1e-4


def test_parity_refuses_another_network(open_model: Callable[[], OrtBackend], held_out: HeldOut) -> None:
    torch.manual_seed(1)
    with pytest.raises(ExportError, match="differs from torch by"):
        check_parity(InspectionGraph(AnomalyMap(Draem(4, 4))).eval(), open_model(), held_out.good)


def test_bundle_reproduces_its_golden_values(network: AnomalyMap, held_out: HeldOut, tmp_path: Path) -> None:
    written = _export(network, held_out, tmp_path)
    bundle = read_bundle(tmp_path / "part" / "1")
    assert bundle.manifest == written.manifest
    assert bundle.manifest.thresholds.calibration.good_images == 4
    assert bundle.manifest.thresholds.calibration.warning is not None
    backend = open_backend(bundle, "ort-cpu", threads=1)
    for golden in bundle.manifest.golden:
        maps, scores = backend.run(read(bundle.file(golden.image))[None])
        assert abs(scores[0] - golden.score) < 1e-4
        np.testing.assert_allclose(maps[0], np.load(bundle.file(golden.anomaly_map)), atol=1e-4)


def test_existing_version_is_kept(network: AnomalyMap, held_out: HeldOut, tmp_path: Path) -> None:
    first = _export(network, held_out, tmp_path).manifest.created
    with pytest.raises(BundleError, match="exists already"):
        _export(network, held_out, tmp_path)
    assert read_bundle(tmp_path / "part" / "1").manifest.created == first
    assert [path.name for path in (tmp_path / "part").iterdir()] == ["1"]


def test_ignored_areas_are_zero_in_the_graph_itself(network: AnomalyMap, held_out: HeldOut, tmp_path: Path) -> None:
    keep = np.zeros((256, 256), np.bool_)
    keep[:, 128:] = True
    bundle = _export(network, held_out, tmp_path, keep=keep)
    backend = open_backend(read_bundle(bundle.path), "ort-cpu", threads=1)
    masked = score_images(backend, held_out.good)
    whole = score_with_torch(InspectionGraph(network), held_out.good)
    assert (masked.maps[:, :, :128] == 0).all()
    np.testing.assert_allclose(masked.maps[:, :, 128:], whole.maps[:, :, 128:], atol=1e-4)
    assert bundle.manifest.keep_mask is not None
    np.testing.assert_array_equal(read(bundle.file(bundle.manifest.keep_mask))[:, :, 0] > 0, keep)


def test_the_bundle_names_its_score_and_its_graph_computes_it(
    network: AnomalyMap, held_out: HeldOut, tmp_path: Path
) -> None:
    bundle = read_bundle(_export(network, held_out, tmp_path, score="top").path)
    assert bundle.manifest.score_formula == "top"
    scored = score_images(open_backend(bundle, "auto", threads=1), held_out.defects)
    largest = np.sort(scored.maps.reshape(len(scored.maps), -1), axis=1)[:, -100:]
    np.testing.assert_allclose(scored.scores, largest.mean(axis=1), atol=1e-5)


def test_signed_bundles_are_told_from_unsigned_and_changed_ones(
    network: AnomalyMap, held_out: HeldOut, tmp_path: Path
) -> None:
    for name in ("ours", "theirs"):
        new_keys(tmp_path / f"{name}.pem", tmp_path / f"{name}.pub")
    trusted = load_public_key(tmp_path / "ours.pub")
    signed = _export(network, held_out, tmp_path / "signed", signing_key=tmp_path / "ours.pem")
    require_signature(read_bundle(signed.path), trusted)
    forged = _export(network, held_out, tmp_path / "forged", signing_key=tmp_path / "theirs.pem")
    unsigned = _export(network, held_out, tmp_path / "unsigned")
    looser = signed.manifest.thresholds.model_copy(update={"reject": 1.0, "review": 1.0})
    changed = Bundle(signed.path, signed.manifest.model_copy(update={"thresholds": looser}))
    for bundle, message in ((forged, "not from the key"), (unsigned, "not signed"), (changed, "not from the key")):
        with pytest.raises(BundleError, match=message):
            require_signature(bundle, trusted)
    assert (tmp_path / "ours.pem").stat().st_mode & 0o077 == 0
