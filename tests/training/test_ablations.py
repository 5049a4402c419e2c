import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from training.commands import run as main
from training.data.demo_parts import write_dataset
from training.data.labels import labelled_images
from training.experiments.ablations import tabulate
from training.loop.jobs import INTERRUPTED
from training.loop.runs import InterruptedRunError
from training.methods import METHODS
from training.methods.draem.ablations import ABLATIONS, Ablation
from training.methods.draem.config import TrainConfig, preset
from training.methods.draem.lesson import fit
from training.methods.draem.method import DRAEM
from training.simulation.simulator import AnomalySimulator, Batch, SimulatorConfig

TINY = ["--size", "64", "--reconstructive-width", "4", "--discriminative-width", "4", "--steps", "3", "--batch", "2"]
FIGURES = {"image_auroc": 0.987, "pixel_auroc": 0.91, "pixel_ap": 0.5, "pro": 0.8, "minutes": 2.0}


def _batch(name: str, **changes: object) -> Batch:
    """24 anomalous samples of a row's simulator on grey photos and striped textures, no photo rotated."""
    config = replace(
        ABLATIONS[name].apply(preset("quick")).simulator, anomaly_probability=1.0, rotate_probability=0.0, **changes
    )
    good = torch.full((2, 3, 128, 128), 100, dtype=torch.uint8)
    textures = torch.zeros((3, 3, 128, 128), dtype=torch.uint8)
    textures[..., ::2] = 240
    return AnomalySimulator(good, textures, config, torch.Generator().manual_seed(0)).batch(24)


def _changes_of_pattern(mask: torch.Tensor) -> int:
    """How often a row of the mask differs from the row above."""
    return int((mask[1:] != mask[:-1]).any(dim=1).sum())


def test_rectangles_have_sides_along_the_axes_and_cover_as_much_as_perlin() -> None:
    for mask in _batch("rectangles").mask[:, 0]:
        assert mask.any()
        # Four rectangles begin and end in at most eight rows and eight columns.
        assert _changes_of_pattern(mask) <= 8
        assert _changes_of_pattern(mask.T) <= 8
    perlin = [mask for mask in _batch("full").mask[:, 0] if mask.any()]
    assert sum(_changes_of_pattern(mask) > 8 for mask in perlin) > len(perlin) / 2
    config = SimulatorConfig(anomaly_probability=1.0, mask_shape="rectangles", texture_augmentation=False)
    grey = torch.zeros((1, 3, 64, 64), dtype=torch.uint8)
    simulator = AnomalySimulator(grey, grey, config, torch.Generator().manual_seed(1))
    assert simulator.batch(1500).mask.mean().item() == pytest.approx(0.048, abs=0.004)


def test_without_opacity_nothing_of_the_photo_shines_through() -> None:
    batch = _batch("no-opacity", texture_augmentation=False)
    inside = batch.augmented[batch.mask.expand_as(batch.augmented) > 0]
    assert set((255 * inside).round().int().tolist()) == {0, 240}
    opaque = _batch("full", texture_augmentation=False)
    inside = opaque.augmented[opaque.mask.expand_as(opaque.augmented) > 0]
    assert len(set((255 * inside).round().int().tolist())) > 20


def test_without_augmentation_the_texture_keeps_its_values() -> None:
    def values(name: str) -> set[int]:
        batch = _batch(name, opacity_min=1.0)
        inside = batch.augmented[batch.mask.expand_as(batch.augmented) > 0]
        return set((255 * inside).round().int().tolist())

    assert values("no-augmentation") == {0, 240}
    assert values("no-augmentation-no-opacity") == {0, 240}
    assert len(values("full")) > 20


def test_colours_are_homogeneous_and_differ_between_samples() -> None:
    colours = set()
    for augmented, mask in zip(*(getattr(_batch("colours"), name) for name in ("augmented", "mask")), strict=True):
        if mask.any():
            inside = augmented[:, mask[0] > 0]
            assert torch.allclose(inside, inside[:, :1])
            colours.add(tuple((255 * inside[:, 0]).round().int().tolist()))
    assert len(colours) > 10


@pytest.mark.parametrize("name", set(ABLATIONS) - {"preset", "full", "imagenet"})
def test_every_row_differs_from_the_full_method_in_what_it_names_and_in_nothing_else(name: str) -> None:
    full, row = (ABLATIONS[n].apply(preset("quick")) for n in ("full", name))
    ablation = ABLATIONS[name]
    assert row != full
    assert replace(row, **{k: getattr(full, k) for k in ablation.changes}, simulator=full.simulator) == full
    assert row.simulator == replace(full.simulator, **ablation.simulator)
    assert full.simulator == SimulatorConfig(), "the full method has the paper's simulator"


def test_networks_of_the_rows_have_no_losses_of_what_they_lack() -> None:
    rows = {name: ablation.apply(preset("quick")) for name, ablation in ABLATIONS.items()}
    assert (rows["discriminative"].l2_weight, rows["discriminative"].ssim_weight) == (0, 0)
    assert rows["reconstructive-ssim"].focal_weight == rows["reconstructive-msgms"].focal_weight == 0
    assert (rows["focal-only"].l2_weight, rows["focal-only"].focal_weight, rows["focal-only"].networks) == (
        0,
        1,
        "both",
    )


def test_unknown_fields_of_a_row_are_refused() -> None:
    with pytest.raises(TypeError):
        Ablation("typo", changes={"l2_wieght": 0.0}).apply(preset("quick"))
    with pytest.raises(TypeError):
        Ablation("typo", simulator={"opacity": 1.0}).apply(preset("quick"))


def test_the_table_has_the_papers_figures_and_leaves_blank_what_was_not_run() -> None:
    rows = {"bottle/full/0": FIGURES, "bottle/full/1": {**FIGURES, "image_auroc": 0.967}, "bottle/colours/0": FIGURES}
    lines = {line.split(":")[0].strip("| "): line for line in tabulate(DRAEM, rows).splitlines()}
    assert lines["full"].endswith(
        "| 98.0 | 97.3 | 68.4 | 97.70 ± 1.41 | 91.00 ± 0.00 | 50.00 ± 0.00 | 80.00 ± 0.00 | 2 | 2.0 |"
    )
    assert lines["colours"].endswith("| 96.2 | 92.6 | 56.5 | 98.70 | 91.00 | 50.00 | 80.00 | 1 | 2.0 |")
    assert lines["rectangles"].endswith("| 96.9 | 96.8 | 65.1 |  |  |  |  |  |  |")
    assert lines["textures-1"].endswith("1 texture |  |  |  |  |  |  |  |  |  |")
    assert len([name for name in lines if name in ABLATIONS]) == len(ABLATIONS)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "flange"
    write_dataset(folder, good=8, test_good=2, defects_per_kind=1, seed=0)
    return folder


def _ablate(parts: Path, out: Path, *more: str) -> int:
    return main(["ablate", "--data", str(parts), "--out", str(out), *TINY, *more])


@pytest.mark.slow
def test_a_stopped_queue_goes_on_with_the_rows_that_are_missing(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[TrainConfig] = []

    def stopping_fit(config: TrainConfig, *rest: Any) -> nn.Module:
        trained.append(config)
        if len(trained) == 3:
            raise InterruptedRunError("stopped")
        return fit(config, *rest)

    monkeypatch.setitem(METHODS, "draem", replace(DRAEM, fit=stopping_fit))
    out = tmp_path / "rows.json"
    names = ["--only", "full", "reconstructive-ssim", "reconstructive-msgms", "imagenet"]
    assert _ablate(parts, out, *names) == INTERRUPTED
    assert "stopped" in capsys.readouterr().err
    before = json.loads(out.read_text())["rows"]
    assert set(before) == {"flange/full/0", "flange/reconstructive-ssim/0"}

    assert _ablate(parts, out, *names) == 0
    after = json.loads(out.read_text())["rows"]
    assert set(after) == {*before, "flange/reconstructive-msgms/0"}
    assert all(after[key] == before[key] for key in before)
    assert len(trained) == 4, "finished rows are not trained again"
    assert {row["images"] for row in after.values()} == {len(labelled_images(parts))}
    assert len(list((tmp_path / "rows.runs" / "flange").iterdir())) == 2, "both distances share one training"
    assert after["flange/reconstructive-msgms/0"]["pixel_ap"] != after["flange/reconstructive-ssim/0"]["pixel_ap"]

    table = capsys.readouterr().out
    assert (tmp_path / "rows.md").read_text().strip() == table.strip()
    assert "| imagenet: textures from an ImageNet-like folder | 97.9 | 97.0 | 67.9 |  |  |  |  |  |  |" in table
    assert _ablate(parts, out, "--lr", "0.1") == 1
    assert "rows.json: holds rows of other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_the_row_of_other_textures_takes_the_folder_it_is_given(parts: Path, tmp_path: Path) -> None:
    photos = str(parts / "test" / "good")
    assert _ablate(parts, tmp_path / "rows.json", "--only", "imagenet", "textures-10", "--imagenet", photos) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert rows["flange/imagenet/0"]["textures"] == ["good", 2]
    assert rows["flange/textures-10/0"]["textures"] == ["procedural", 10]


@pytest.mark.slow
def test_two_texture_folders_of_one_name_are_two_trainings(parts: Path, tmp_path: Path) -> None:
    folders = []
    for kind, photo in (("dtd", "good/000.png"), ("net", "good/001.png")):
        folders.append(tmp_path / kind / "images")
        folders[-1].mkdir(parents=True)
        shutil.copy(parts / "test" / photo, folders[-1])
    flags = ["--only", "full", "imagenet", "--textures", str(folders[0]), "--imagenet", str(folders[1])]
    assert _ablate(parts, tmp_path / "rows.json", *flags) == 0
    assert len(list((tmp_path / "rows.runs" / "flange").iterdir())) == 2


def test_rows_of_an_earlier_release_which_do_not_tell_their_images_stay(parts: Path, tmp_path: Path) -> None:
    config = preset("quick", size=64, reconstructive_width=4, discriminative_width=4, steps=3, batch=2)
    rows = {"flange/full/0": {**FIGURES, "images": 6}}
    settings = {"preset": asdict(config), "textures": "procedural"}
    (out := tmp_path / "rows.json").write_text(json.dumps({"settings": settings, "rows": rows}))
    assert _ablate(parts, out, "--only", "full") == 0
    assert json.loads(out.read_text())["rows"] == rows, "trained again"


def test_a_file_that_is_no_results_is_named(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.json").write_text("[]")
    assert _ablate(parts, tmp_path / "rows.json") == 1
    assert "rows.json: no results of an earlier run" in capsys.readouterr().err


def test_data_is_checked_before_hours_of_training(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = tmp_path / "flange"
    twin.mkdir()
    assert _ablate(parts, tmp_path / "rows.json", "--data", str(twin)) == 1
    assert "two folders of one name" in capsys.readouterr().err
    assert _ablate(parts, tmp_path / "rows.json", "--data", str(tmp_path)) == 1
    assert f"{tmp_path}: no test/ folder" in capsys.readouterr().err
    assert not (tmp_path / "rows.json").exists()
