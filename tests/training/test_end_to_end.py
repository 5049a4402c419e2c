"""The whole line as a user runs it: train, export, serve, inspect; on real photos where they are at hand."""

import json
import shutil
from pathlib import Path

import pytest
from bundles import list_versions
from processes import running_service

from service.bundle.folder import read_bundle
from training.commands import run as main
from training.data.demo_parts import write_dataset

pytestmark = pytest.mark.slow

TINY = [
    "--preset",
    "quick",
    "--size",
    "64",
    "--max-textures",
    "20",
    "--reconstructive-width",
    "4",
    "--discriminative-width",
    "4",
    "--steps",
    "6",
    "--batch",
    "2",
    # Six steps make no recipe that is fit for service.
    "--most-escapes",
    "1",
]


@pytest.fixture(scope="module")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_dataset(folder, good=8, test_good=3, defects_per_kind=1, seed=0)
    return folder


def _train(data: Path, folder: Path, *more: str) -> int:
    flags = ["--data", str(data), "--models", str(folder / "models"), "--run", str(folder / "run")]
    return main(["train", "--recipe", "part", "--version", "1", *flags, *TINY, *more])


def _figures(bundle: Path, data: Path, out: Path, *more: str) -> dict[str, float]:
    assert main(["evaluate", "--bundle", str(bundle), "--data", str(data), "--out", str(out), *more]) == 0
    figures: dict[str, float] = json.loads(out.read_text())
    return figures


def test_real_photos_from_training_to_figures_over_http(test_data: Path, tmp_path: Path) -> None:
    data = test_data / "mvtec_ad_256" / "bottle"
    assert _train(data, tmp_path, "--textures", str(test_data / "dtd_10classes_256")) == 0
    bundle = tmp_path / "models" / "part" / "1"
    manifest = read_bundle(bundle).manifest
    assert manifest.metrics is not None
    assert manifest.metrics["images"] == 83
    assert manifest.thresholds.calibration.good_images == 31
    report = (bundle / "report.html").read_text()
    assert (tmp_path / "run" / "report.html").read_text() == report
    assert f"<td>{100 * manifest.metrics['image_auroc']:.2f}</td>" in report  # type: ignore[operator]
    assert "contamination/" in report
    assert str(tmp_path) not in report
    assert str(test_data) not in report
    local = _figures(bundle, data, tmp_path / "local.json")
    # The same backend on both sides: a network this little trained has nearly equal values everywhere, and the rounding
    # of another backend alone ranks them differently.
    with running_service(tmp_path / "models", tmp_path / "log", backend="ort-cpu", precision="fp32") as (_, client):
        served = _figures(bundle, data, tmp_path / "served.json", "--url", str(client.base_url))
    for name in ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pro"):
        assert served[name] == pytest.approx(local[name], abs=1e-6)
        assert manifest.metrics[name] == pytest.approx(local[name], abs=1e-6)


def test_a_plain_folder_of_good_photos_is_enough(demo_data: Path, tmp_path: Path) -> None:
    assert _train(demo_data / "train" / "good", tmp_path) == 0
    manifest = read_bundle(tmp_path / "models" / "part" / "1").manifest
    assert manifest.metrics is None
    assert "report.html" in manifest.files
    assert "Rendered defects, not real ones" in (tmp_path / "run" / "report.html").read_text()
    assert manifest.training.textures == "procedural"
    assert manifest.thresholds.calibration.warning is not None


def test_mistakes_are_errors_not_tracebacks(
    demo_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(tmp_path / "nowhere", tmp_path) == 1
    assert f"error: {tmp_path / 'nowhere'}: no such folder" in capsys.readouterr().err
    assert _train(demo_data, tmp_path) == 0
    assert _train(demo_data, tmp_path, "--lr", "0.5") == 1
    assert "this version exists already" in capsys.readouterr().err
    assert not (tmp_path / "run" / "earlier").exists(), "a run is put aside for one that can begin"
    assert list_versions(tmp_path / "models") == {"part": ["1"]}
    assert _train(demo_data / "train" / "good", tmp_path, "--version", "2") == 0
    photos = tmp_path / "photos"
    shutil.copytree(demo_data / "train" / "good", photos)
    (photos / "000.png").unlink()
    (tmp_path / "run" / "results.json").rename(tmp_path / "results.json")
    assert _train(photos, tmp_path, "--version", "3") == 1
    assert "holds a run with other photos" in capsys.readouterr().err
    (tmp_path / "results.json").rename(tmp_path / "run" / "results.json")
    assert _train(photos, tmp_path, "--version", "3") == 0
    assert "other photos (000.png" in (said := capsys.readouterr().err)
    assert "the finished run is kept in" in said
    (earlier,) = (tmp_path / "run" / "earlier").iterdir()
    assert {"results.json", "checkpoint.pt", "photos.txt", "report.html"} <= {path.name for path in earlier.iterdir()}


def test_wrong_values_of_settings_are_refused_by_the_parser(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "x", "--recipe", "y", "--bf16", "maybe"]) == 2
    assert "error: --bf16 maybe: should be a valid boolean" in capsys.readouterr().err
