"""The authors' checkpoints through import, export and ONNX Runtime against the authors' formulas."""

from pathlib import Path

import numpy as np
import pytest
import torch
from official_reference import discriminative_state, official_map_and_score, reconstructive_state

from service.backends.ort import OrtBackend
from service.bundle.manifest import InputSpec
from training.bundling.export import InspectionGraph, score_images, to_onnx
from training.data.demo_parts import render_good
from training.methods.draem.checkpoints import CheckpointError, load_official


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
    model.write_bytes(to_onnx(InspectionGraph(load_official(rec, seg)), 256))
    scored = score_images(OrtBackend(model, InputSpec(height=256, width=256), "fp32", threads=2), photos)

    rec_state, seg_state = torch.load(rec, weights_only=True), torch.load(seg, weights_only=True)
    for photo, anomaly_map, score in zip(photos, scored.maps, scored.scores, strict=True):
        with torch.inference_mode():
            expected_map, expected_score = official_map_and_score(rec_state, seg_state, photo, 256)
        assert expected_map.std() > 1e-3, "a flat map would compare equal to anything"
        np.testing.assert_allclose(anomaly_map, expected_map.numpy(), rtol=0, atol=1e-4)
        assert abs(score - expected_score) < 1e-4


def test_swapped_files_are_named(tmp_path: Path) -> None:
    rec, seg = _save_states(tmp_path, 8, 8)
    with pytest.raises(CheckpointError, match=r"run_part__seg\.pckl.*discriminative"):
        load_official(seg, rec)


def test_checkpoint_with_code_in_it_is_refused(tmp_path: Path) -> None:
    rec, seg = _save_states(tmp_path, 8, 8)
    torch.save(torch.nn.Conv2d(3, 3, 3), rec)
    with pytest.raises(CheckpointError, match=r"run_part_\.pckl: not a checkpoint of plain tensors"):
        load_official(rec, seg)


def test_missing_key_is_named(tmp_path: Path) -> None:
    rec, seg = _save_states(tmp_path, 8, 8)
    state = torch.load(rec, weights_only=True)
    del state["decoder.db4.3.weight"]
    torch.save(state, rec)
    with pytest.raises(CheckpointError, match=r"decoder\.db4\.3\.weight"):
        load_official(rec, seg)
