import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from service.backends.base import score_images
from service.backends.graphs import OnnxModel
from service.backends.opening import open_backend
from service.backends.ort import OrtBackend
from service.bundle.folder import Bundle, read_bundle
from service.bundle.manifest import MANIFEST, BundleError, InputSpec, TrainingRecord
from service.bundle.signing import load_private_key, load_public_key, new_keys, require_signature
from service.images.decoding import Pixels, encode, read
from service.images.quality import measure
from service.images.resizing import fit
from training.bundling.graph import InspectionGraph, score_with_torch
from training.bundling.held_out import HeldOut
from training.bundling.onnx import ExportError, check_parity, to_onnx
from training.bundling.order import RecipeOrder
from training.bundling.recipe import write_recipe
from training.data.demo_parts import render_good
from training.evaluation.metrics import stacked
from training.evaluation.report import Training
from training.networks.anomaly_map import AnomalyMap
from training.networks.compact import CompactDraem
from training.networks.draem import Draem

SIZE = 64
SPEC = InputSpec(height=SIZE, width=SIZE)


def _photo(seed: int) -> Pixels:
    return fit(render_good(np.random.default_rng(seed)), SPEC)


@pytest.fixture(scope="module")
def network() -> AnomalyMap:
    """Untrained, but with BatchNorm statistics of real images so that maps are not flat."""
    torch.manual_seed(0)
    draem = Draem(4, 4).train()
    for parameter in draem.parameters():
        parameter.data *= 3
    with torch.no_grad():
        for seed in range(20):
            draem(torch.from_numpy(_photo(seed)).permute(2, 0, 1)[None].float() / 255)
    return AnomalyMap(draem)


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    good = [_photo(100 + i) for i in range(4)]
    return HeldOut(good, [f"{place}.png" for place in range(4)], [measure(image, image) for image in good], SPEC)


@pytest.fixture(scope="module")
def open_model(network: AnomalyMap, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], OrtBackend]:
    model = tmp_path_factory.mktemp("model") / "model.onnx"
    model.write_bytes(to_onnx(InspectionGraph(network), SIZE, SIZE))
    return lambda: OrtBackend(OnnxModel.read(model), SPEC, "fp32", threads=1)


def _export(network: AnomalyMap, held_out: HeldOut, models: Path, **more: Any) -> Bundle:
    order = RecipeOrder(
        "part", "draem", data=Path(__file__).parent, models=models, version="1", most_escapes=1.0, **more
    )
    return write_recipe(network, held_out, order, Training(TrainingRecord(config={"seed": 0})))


@pytest.fixture(scope="module")
def written(network: AnomalyMap, held_out: HeldOut, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return _export(network, held_out, tmp_path_factory.mktemp("written"))


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
    together = score_images(backend, held_out.photos)
    alone = [score_images(backend, [image]) for image in held_out.photos]
    assert [one.score for one in together] == pytest.approx([one.score for (one,) in alone], abs=1e-5)
    np.testing.assert_allclose(stacked(together)[0], [one.anomaly_map for (one,) in alone], atol=1e-5)


def test_batch_norm_is_folded_and_the_map_is_the_networks(
    network: AnomalyMap, open_model: Callable[[], OrtBackend], held_out: HeldOut
) -> None:
    model = to_onnx(InspectionGraph(network), SIZE, SIZE)
    kinds = {node.op_type for node in onnx.load_from_string(model).graph.node}
    assert "Conv" in kinds
    assert "BatchNormalization" not in kinds
    # Nothing of the machine that exported it travels with the model.
    assert str(Path(__file__).parents[2]).encode() not in model
    assert stacked(score_with_torch(InspectionGraph(network), held_out.photos))[0].std() > 1e-3
    assert check_parity(InspectionGraph(network), open_model(), held_out.photos) < 1e-4


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
    model.write_bytes(to_onnx(graph, SIZE, SIZE))
    proto = onnx.load(model).graph
    last = [node for node in proto.node if node.op_type == "Conv"][-1]
    assert next(w.dims[0] for w in proto.initializer if w.name == last.input[1]) == channels
    assert network.last_layer.out_channels == 2 * channels
    assert stacked(score_with_torch(graph, held_out.photos))[0].std() > 0.01
    backend = OrtBackend(OnnxModel.read(model), SPEC, "fp32", threads=1)
    assert check_parity(graph, backend, held_out.photos) < 1e-4


def test_parity_refuses_another_network(open_model: Callable[[], OrtBackend], held_out: HeldOut) -> None:
    torch.manual_seed(1)
    with pytest.raises(ExportError, match="differs from torch by"):
        check_parity(InspectionGraph(AnomalyMap(Draem(4, 4))).eval(), open_model(), held_out.photos)


def test_bundle_reproduces_its_golden_values(written: Bundle) -> None:
    bundle = read_bundle(written.path)
    assert bundle.manifest == written.manifest
    assert bundle.manifest.thresholds.calibration.good_images == 4
    assert bundle.manifest.thresholds.calibration.warning is not None
    backend = open_backend(bundle, "ort-cpu", threads=1)
    for golden in bundle.manifest.golden:
        maps, scores = backend.run(read(bundle.file(golden.image))[None])
        assert abs(scores[0] - golden.score) < 1e-4
        np.testing.assert_allclose(maps[0], np.load(bundle.file(golden.anomaly_map)), atol=1e-4)


def test_existing_version_is_kept(network: AnomalyMap, held_out: HeldOut, written: Bundle) -> None:
    with pytest.raises(BundleError, match="exists already"):
        _export(network, held_out, written.path.parents[1])
    assert read_bundle(written.path).manifest.created == written.manifest.created
    assert [path.name for path in written.path.parent.iterdir()] == ["1"]


def test_ignored_areas_are_zero_in_the_graph_itself(network: AnomalyMap, held_out: HeldOut, tmp_path: Path) -> None:
    keep = np.zeros((SIZE, SIZE), np.bool_)
    keep[:, SIZE // 2 :] = True
    (tmp_path / "region.png").write_bytes(encode(np.where(keep, 255, 0).astype(np.uint8), ".png"))
    bundle = _export(network, held_out, tmp_path, region=tmp_path / "region.png")
    backend = open_backend(read_bundle(bundle.path), "ort-cpu", threads=1)
    masked, _ = stacked(score_images(backend, held_out.photos))
    whole, _ = stacked(score_with_torch(InspectionGraph(network), held_out.photos))
    assert (masked[:, :, : SIZE // 2] == 0).all()
    np.testing.assert_allclose(masked[:, :, SIZE // 2 :], whole[:, :, SIZE // 2 :], atol=1e-4)
    assert bundle.manifest.keep_mask is not None
    np.testing.assert_array_equal(read(bundle.file(bundle.manifest.keep_mask))[:, :, 0] > 0, keep)


def test_the_bundle_names_its_score_and_its_graph_computes_it(
    network: AnomalyMap, held_out: HeldOut, tmp_path: Path
) -> None:
    bundle = read_bundle(_export(network, held_out, tmp_path, score="top").path)
    assert bundle.manifest.score_formula == "top"
    maps, scores = stacked(score_images(open_backend(bundle, "auto", threads=1), held_out.photos))
    # A hundred of 256x256 pixels are six of these.
    largest = np.sort(maps.reshape(len(maps), -1), axis=1)[:, -6:]
    np.testing.assert_allclose(scores, largest.mean(axis=1), atol=1e-5)


def test_signed_bundles_are_told_from_unsigned_and_changed_ones(
    network: AnomalyMap, held_out: HeldOut, written: Bundle, tmp_path: Path
) -> None:
    for name in ("ours", "theirs"):
        new_keys(tmp_path / f"{name}.pem", tmp_path / f"{name}.pub")
    trusted = load_public_key(tmp_path / "ours.pub")
    signed = _export(network, held_out, tmp_path / "signed", signing_key=tmp_path / "ours.pem")
    require_signature(read_bundle(signed.path), trusted)
    forged = _export(network, held_out, tmp_path / "forged", signing_key=tmp_path / "theirs.pem")
    looser = signed.manifest.thresholds.model_copy(update={"reject": 1.0, "review": 1.0})
    changed = Bundle(signed.path, signed.manifest.model_copy(update={"thresholds": looser}))
    for bundle, message in ((forged, "not from the key"), (written, "not signed"), (changed, "not from the key")):
        with pytest.raises(BundleError, match=message):
            require_signature(bundle, trusted)
    assert (tmp_path / "ours.pem").stat().st_mode & 0o077 == 0


def test_a_signature_holds_for_what_was_signed_whatever_fields_the_manifest_has_got_since(
    network: AnomalyMap, held_out: HeldOut, tmp_path: Path
) -> None:
    """A bundle of an earlier release: fields that it does not have, and one of its record that is gone since."""
    new_keys(tmp_path / "key.pem", tmp_path / "key.pub")
    path = _export(network, held_out, tmp_path / "models").path / MANIFEST
    written = json.loads(path.read_text())
    del written["keep_mask"]
    written["training"] = {"good_photos": 5, "minutes_of_last_session": 1.5}
    signed = base64.b64encode(
        load_private_key(tmp_path / "key.pem").sign(json.dumps(written, separators=(",", ":")).encode())
    )
    path.write_text(json.dumps({**written, "signature": signed.decode()}))
    bundle = read_bundle(path.parent)
    assert bundle.manifest.training.good_photos == 5
    require_signature(bundle, load_public_key(tmp_path / "key.pub"))
