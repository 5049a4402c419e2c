"""The authors' checkpoints through import, export and ONNX Runtime against the authors' formulas."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from official_reference import State, discriminative_state, official_map_and_score, reconstructive_state

from service.backends.base import score_images
from service.backends.graphs import OnnxModel
from service.backends.ort import OrtBackend
from service.bundle.manifest import InputSpec
from training.bundling.graph import InspectionGraph
from training.bundling.onnx import to_onnx
from training.data.demo_parts import render_good
from training.methods.draem.checkpoints import load_official
from training.networks.anomaly_map import AnomalyMap
from training.weight_files import CheckpointError


def _save_states(folder: Path, rec_width: int, seg_width: int) -> tuple[Path, Path]:
    generator = torch.Generator().manual_seed(5)
    rec, seg = folder / "run_part_.pckl", folder / "run_part__seg.pckl"
    torch.save(reconstructive_state(rec_width, generator), rec)
    torch.save(discriminative_state(seg_width, generator), seg)
    return rec, seg


@pytest.mark.parametrize(
    ("rec_width", "seg_width"), [(8, 8), pytest.param(128, 64, marks=pytest.mark.slow, id="paper")]
)
def test_import_export_and_onnxruntime_give_the_authors_map(tmp_path: Path, rec_width: int, seg_width: int) -> None:
    rec, seg = _save_states(tmp_path, rec_width, seg_width)
    photos = [render_good(np.random.default_rng(seed)) for seed in range(2)]

    model = tmp_path / "model.onnx"
    model.write_bytes(to_onnx(InspectionGraph(AnomalyMap(load_official(rec, seg))), 256, 256))
    backend = OrtBackend(OnnxModel.read(model), InputSpec(height=256, width=256), "fp32", threads=2)
    scored = score_images(backend, photos)

    rec_state, seg_state = torch.load(rec, weights_only=True), torch.load(seg, weights_only=True)
    for photo, found in zip(photos, scored, strict=True):
        with torch.inference_mode():
            expected_map, expected_score = official_map_and_score(rec_state, seg_state, photo, 256)
        assert expected_map.std() > 1e-3, "a flat map would compare equal to anything"
        np.testing.assert_allclose(found.anomaly_map, expected_map.numpy(), rtol=0, atol=1e-4)
        assert abs(found.score - expected_score) < 1e-4


def test_swapped_files_are_named(tmp_path: Path) -> None:
    rec, seg = _save_states(tmp_path, 8, 8)
    with pytest.raises(
        CheckpointError, match=r"run_part__seg\.pckl: this is the discriminative network.*exchange the two"
    ):
        load_official(seg, rec)


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoint_with_code_in_it_is_refused_with_the_remedy(tmp_path: Path, zipped: bool) -> None:
    rec, seg = _save_states(tmp_path, 8, 8)
    for contents in (torch.nn.Conv2d(3, 3, 3), {"state_dict": torch.load(seg), "folder": tmp_path}):
        torch.save(contents, rec, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"run_part_\.pckl: holds Python objects.*state_dict\(\)") as caught:
            load_official(rec, seg)
        assert "weights_only" not in str(caught.value), "torch's advice is to load it unsafely"


def test_missing_key_is_named(tmp_path: Path) -> None:
    rec, seg = _save_states(tmp_path, 8, 8)
    state = torch.load(rec, weights_only=True)
    del state["decoder.db4.3.weight"]
    torch.save(state, rec)
    with pytest.raises(CheckpointError, match=r"decoder\.db4\.3\.weight"):
        load_official(rec, seg)


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda state: {f"module.{key}": value for key, value in state.items()}, id="DataParallel"),
        pytest.param(lambda state: {"epoch": 800, "state_dict": state, "optimizer": {"state": {}}}, id="state_dict"),
        pytest.param(lambda state: {"model": {f"net.module.{k}": v for k, v in state.items()}}, id="model and net"),
        pytest.param(lambda state: {key: value.to(torch.float64) for key, value in state.items()}, id="float64"),
    ],
)
def test_wrappers_and_prefixes_change_no_number(tmp_path: Path, wrap: Callable[[State], object]) -> None:
    rec, seg = _save_states(tmp_path, 8, 8)
    expected = load_official(rec, seg).state_dict()
    for file in (rec, seg):
        torch.save(wrap(torch.load(file, weights_only=True)), file)
    _assert_equal(load_official(rec, seg).state_dict(), expected)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    rec, seg = _save_states(tmp_path, 8, 8)
    expected = load_official(rec, seg).state_dict()
    for file in (rec, seg):
        state = torch.load(file, weights_only=True)
        torch.save({key: v.half() if v.is_floating_point() else v for key, v in state.items()}, file)
    loaded = load_official(rec, seg).state_dict()
    assert {value.dtype for value in loaded.values()} == {torch.float32, torch.int64}
    for key, value in loaded.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-3)


def test_anomalibs_file_holds_both_in_its_own_order_of_channels_and_colours(tmp_path: Path) -> None:
    """anomalib reads RGB and joins image and reconstruction; the authors BGR, and reconstruction and image."""
    rec, seg = _save_states(tmp_path, 8, 8)
    expected = load_official(rec, seg).state_dict()
    rec_state, seg_state = (torch.load(file, weights_only=True) for file in (rec, seg))
    rec_state["encoder.block1.0.weight"] = rec_state["encoder.block1.0.weight"].flip(1)
    for name in ("decoder.fin_out.0.weight", "decoder.fin_out.0.bias"):
        rec_state[name] = rec_state[name].flip(0)
    first = seg_state["encoder_segment.block1.0.weight"]
    seg_state["encoder_segment.block1.0.weight"] = torch.cat((first[:, 3:].flip(1), first[:, :3].flip(1)), dim=1)
    states = (("model.reconstructive_subnetwork.", rec_state), ("model.discriminative_subnetwork.", seg_state))
    both = {f"{prefix}{key}": value for prefix, state in states for key, value in state.items()}
    both["post_processor._image_threshold"] = torch.tensor(float("nan"))
    torch.save({"state_dict": both, "epoch": 3, "pytorch-lightning_version": "2.6"}, tmp_path / "model.ckpt")
    _assert_equal(load_official(tmp_path / "model.ckpt").state_dict(), expected)


def test_one_file_of_two_is_asked_for_the_other(tmp_path: Path) -> None:
    rec, _ = _save_states(tmp_path, 8, 8)
    with pytest.raises(CheckpointError, match=r"the reconstructive network.*: name the discriminative file too"):
        load_official(rec)


def test_what_is_no_checkpoint_is_refused_with_the_remedy(tmp_path: Path) -> None:
    rec, seg = _save_states(tmp_path, 8, 8)
    whole = rec.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    old_style = io.BytesIO()
    torch.save(torch.load(rec, weights_only=True), old_style, _use_new_zipfile_serialization=False)
    for contents, words in (
        (b"", r"empty \(0 bytes\): copy it again"),
        (b"no checkpoint at all", "no file of torch.save, or damaged: copy it again"),
        (whole[: len(whole) // 2], "cut short: copy it again"),
        (bytes(flipped), "damaged"),
        (old_style.getvalue()[:-100], "cut short: copy it again"),
    ):
        rec.write_bytes(contents)
        with pytest.raises(CheckpointError, match=rf"run_part_\.pckl: .*{words}"):
            load_official(rec, seg)
    torch.save([torch.zeros(1)], rec)
    with pytest.raises(CheckpointError, match="holds list, not a state dict"):
        load_official(rec, seg)
    torch.save({"fc.weight": torch.zeros(2, 2)}, rec)
    with pytest.raises(CheckpointError, match=r"no key of a DRÆM network in it, such as encoder\.block1\.0\.weight"):
        load_official(rec, seg)
    with pytest.raises(CheckpointError, match="a folder, no file"):
        load_official(tmp_path, seg)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    rec, seg = _save_states(tmp_path, 8, 8)
    state = torch.load(seg, weights_only=True)
    state["decoder_segment.up1.1.bias"][0] = float("nan")
    torch.save(state, seg)
    with pytest.raises(CheckpointError, match=r"decoder_segment\.up1\.1\.bias has values that are not finite"):
        load_official(rec, seg)


def _assert_equal(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert torch.equal(value, expected[key]), key
