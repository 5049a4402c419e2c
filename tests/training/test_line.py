"""Learning from the line: reviewed parts go into a new version, which stands beside the one before in its report."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import cv2
import numpy as np
import pytest
import tiny_training
import torch
from bundles import make_bundle, png
from fakes import wait_for
from fusion_training import TINY, photos, textures

from service.bundle.folder import read_bundle
from service.bundle.manifest import InputSpec
from service.images.decoding import Pixels, read
from service.station.record import Record
from service.station.records import Records
from service.station.reviews import Box, Review
from training.commands import run
from training.data.line import gather, read_defects
from training.data.recorded import is_for_test, reviewed_parts
from training.loop.runs import Run, TrainingError
from training.methods.fusion.anomalies import AnomalyMixture
from training.methods.fusion.lesson import fit
from training.methods.protocol import TrainingSet
from training.settings import changed
from training.simulation.real_defects import RealDefects
from training.simulation.simulator import AnomalySimulator, SimulatorConfig
from training.tiles import Grid

SIZE = 64
GREEN = (30, 220, 40)


def _part(number: int, *, defect: bool = False) -> np.ndarray:
    image = np.random.default_rng(number).integers(90, 110, (SIZE, SIZE, 3)).astype(np.uint8)
    if defect:
        image[20:30, 30:44] = GREEN
    return image


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten good parts, six defects of which three are marked with a box."""
    folder = tmp_path_factory.mktemp("station") / "records"
    records = Records(folder, image_budget_bytes=10_000_000)
    said = {f"good{number}": Review("good", "Ada") for number in range(10)}
    for number in range(6):
        said[f"bad{number}"] = Review("defect", "Ada", boxes=[Box(30, 20, 14, 10)] if number % 2 else [])
    for number, name in enumerate(said):
        reply = {"inspection_id": name, "recipe": "part", "verdict": "NG", "score": 0.5, "version": "1"}
        image = png(_part(100 + number, defect=name.startswith("bad")))
        records.add(Record(reply, time.time(), None, image))
    wait_for(lambda: all(records.image(name) for name in said))
    for name, review in said.items():
        records.review(name, review)
    records.close(wait_s=600)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "good").mkdir(parents=True)
    for number in range(8):
        cv2.imwrite(str(folder / "good" / f"{number}.png"), _part(number))
    return folder


def test_reviewed_parts_stand_beside_the_photos_and_one_in_five_is_kept_out(
    station: Path, data: Path, tmp_path: Path
) -> None:
    parts, _ = reviewed_parts(station, "part")
    green = np.zeros((SIZE, SIZE), np.bool_)
    green[20:30, 30:44] = True
    line = gather(parts, data, tmp_path / "run", lambda pixels: green)
    kept_out = [part.name for part in parts if is_for_test(part.name)]
    assert sorted([*line.learned, *kept_out]) == sorted(part.name for part in parts)
    assert 0 < len(kept_out) < 8
    good = [name for name in line.learned if name.startswith("good")]
    assert len(list((line.photos / "train" / "good" / "line").iterdir())) == len(good)
    assert read(line.photos / "train/good/before/3.png").shape == (SIZE, SIZE, 3)
    defects = read_defects(line.defects, InputSpec(height=SIZE, width=SIZE), Grid.of("1x1", SIZE, 0))
    assert defects is not None
    assert len(defects[0]) == len(line.learned) - len(good)
    assert (defects[1].float().mean(dim=(1, 2)) - green.mean()).abs().max() < 0.01
    # A review more does not change what an interrupted run learns from.
    assert gather(parts[:3], data, tmp_path / "run", lambda pixels: None).learned == line.learned


def test_a_defect_that_nobody_marked_and_nothing_finds_is_left_out(station: Path, data: Path, tmp_path: Path) -> None:
    parts, _ = reviewed_parts(station, "part")
    line = gather(parts, data, tmp_path / "run", lambda pixels: None)
    bad = [part.name for part in parts if part.kind and not part.boxes and not is_for_test(part.name)]
    assert not set(bad) & set(line.learned)
    assert [count for why, count in line.left_out.items() if "nobody marked" in why] == [len(bad)]


def test_of_several_processes_one_gathers_and_the_others_wait_for_it(station: Path, data: Path, tmp_path: Path) -> None:
    parts, _ = reviewed_parts(station, "part")
    begun, go_on = Event(), Event()
    asked: list[None] = []

    def mark(pixels: Pixels) -> None:
        asked.append(None)
        begun.set()
        go_on.wait()

    with ThreadPoolExecutor(2) as several:
        first = several.submit(gather, parts, data, tmp_path / "run", mark)
        begun.wait()
        second = several.submit(gather, parts, data, tmp_path / "run", mark)
        go_on.set()
    assert first.result() == second.result()
    bad = [part for part in parts if part.kind and not part.boxes and not is_for_test(part.name)]
    assert len(asked) == len(bad)


def _green() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.from_numpy(np.stack([_part(number, defect=True) for number in range(3)])).permute(0, 3, 1, 2)
    masks = torch.zeros((3, SIZE, SIZE), dtype=torch.bool)
    masks[:, 20:30, 30:44] = True
    return images, masks


def test_cut_out_defects_are_pasted_where_the_mask_says_and_nothing_else_changes() -> None:
    real = RealDefects(*_green(), torch.Generator().manual_seed(0))
    good = torch.full((3, SIZE, SIZE), 0.4)
    for _ in range(30):
        image, mask = real.paste(good)
        assert mask.sum() >= 60
        assert (image[1] - image[0])[mask > 0].mean() > 0.3
        far = torch.nn.functional.max_pool2d(mask[None, None], 15, 1, 7)[0, 0] == 0
        assert torch.equal(image[:, far], good[:, far])
    with pytest.raises(ValueError, match="without a mask"):
        RealDefects(_green()[0], torch.zeros((3, SIZE, SIZE), dtype=torch.bool), torch.Generator())


def test_the_simulators_draw_real_defects_among_the_others() -> None:
    mixture = AnomalyMixture(photos(), textures(), TINY.anomalies, 0, _green())
    drawn = [mixture.draw() for _ in range(60)]
    real = [one for one in drawn if ((one.image[1] - one.image[0]) * one.mask).max() > 0.4]
    assert 5 < len(real) < 40
    config = SimulatorConfig(anomaly_probability=1.0, match_grey=True)
    generator = torch.Generator().manual_seed(0)
    grey = torch.randint(90, 110, (4, 1, SIZE, SIZE)).byte().expand(-1, 3, -1, -1)
    batch = AnomalySimulator(grey, grey, config, generator, RealDefects(*_green(), generator)).batch(40)
    green = ((batch.augmented[:, 1] - batch.augmented[:, 0]) > 0.4).flatten(1).any(dim=1)
    assert 4 < int(green.sum()) < 24
    assert (batch.mask[green].flatten(1).sum(dim=1) > 0).all()


def test_a_run_that_goes_on_from_another_begins_with_its_weights(tmp_path: Path) -> None:
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
    data, cpu = TrainingSet(photos(), textures()), torch.device("cpu")
    fit(TINY, data, Run(tmp_path / "first"), cpu)
    still = changed(TINY, {"steps": 1, "lr": 0.0, "weight_decay": 0.0})
    fit(still, data, Run(tmp_path / "second", start=tmp_path / "first"), cpu)
    first, second = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["network"] for name in ("first", "second")
    )
    weights = [name for name, value in first.items() if value.is_floating_point() and "running" not in name]
    assert all(torch.equal(first[name], second[name]) for name in weights)
    with pytest.raises(TrainingError, match="of another network"):
        fit(changed(still, {"width": 16}), data, Run(tmp_path / "third", start=tmp_path / "first"), cpu)


@pytest.mark.slow
def test_a_version_that_learned_from_the_line_stands_beside_the_one_before(
    station: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "part").mkdir()
    tiny_training.train(tiny_training.TINY, tmp_path / "part")
    make_bundle(tmp_path / "models")
    (tmp_path / "part" / "results.json").write_text('{"recipe": "part", "version": "1"}')
    tiny = ["--preset", "quick", "--size", "64", "--reconstructive-width", "4", "--discriminative-width", "4"]
    tiny += ["--batch", "2", "--most-escapes", "1", "--models", str(tmp_path / "models"), "--recipe", "part"]
    again = ["train", "--data", str(data), "--continue-from", str(tmp_path / "part"), "--version", "2", *tiny]
    assert run(again) == 1
    assert "--from-records" in capsys.readouterr().err
    assert run([*again, "--from-records", str(station), "--steps", "2"]) == 0
    bundle = read_bundle(tmp_path / "models" / "part" / "2")
    assert (tmp_path / "part-2" / "results.json").is_file()
    assert len(bundle.manifest.training.line_parts or []) > 5
    assert bundle.manifest.training.good_photos == len(
        list((tmp_path / "part-2/line/train/good/line").iterdir())
    ) + 8 - (bundle.manifest.thresholds.calibration.good_images)
    report = bundle.file("report.html").read_text()
    assert "Beside the version before" in report
    assert "version 1 beside version 2, on the same 16 images" in report
    assert "learned from" in report
