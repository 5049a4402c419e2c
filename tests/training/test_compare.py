import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from bundles import make_bundle
from sklearn.metrics import roc_auc_score

from service.bundle.folder import read_bundle
from service.bundle.versions import survey_recipe
from training.commands import run as main
from training.commands.compare import Compare
from training.commands.outcome import UNFIT
from training.commands.winner import serve, tell
from training.data.demo_parts import write_dataset
from training.data.folders import DataError, good_images
from training.data.labels import labelled_images
from training.data.places import require_results_file
from training.evaluation.ranking import auroc, defects_found, good_sorted_right, interval
from training.experiments.compare import on_shared_seeds, recommend
from training.experiments.compare_table import tabulate
from training.experiments.public_split import link_split
from training.experiments.results import Row
from training.loop.runs import CHECKPOINT, TrainingError


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Named like a category of the paper."""
    folder = tmp_path_factory.mktemp("data") / "bottle"
    write_dataset(folder, good=10, test_good=3, defects_per_kind=1, seed=0)
    return folder


def test_two_percent_of_the_ones_decide_what_becomes_of_the_others() -> None:
    good, defects = np.arange(100.0), np.arange(50.0, 150.0)
    # Two good parts of 100, 98 and 99, may be rejected: defects above 97 are found.
    assert defects_found(good, defects) == pytest.approx(0.52)
    # Two defects, 50 and 51, may be missed: good parts under 52 are sorted right.
    assert good_sorted_right(good, defects) == pytest.approx(0.52)
    assert defects_found(np.zeros(10), np.zeros(10)) == 0, "a defect like any good part is not found"
    assert defects_found(good[:10], np.array([9.5, 3.0])) == 0.5, "of few good parts none may be rejected"


def test_auroc_counts_pairs_and_halves_ties() -> None:
    rng = np.random.default_rng(0)
    good, defects = rng.integers(0, 9, 40).astype(float), rng.integers(3, 12, 30).astype(float)
    expected = roc_auc_score(np.arange(70) >= 40, np.concatenate((good, defects)))
    assert auroc(good, defects) == pytest.approx(expected, abs=1e-12)


def test_an_interval_holds_the_figure_and_narrows_with_more_parts() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for count in (20, 500):
        group = (rng.normal(0, 1, count), rng.normal(1, 1, count))
        low, high = interval([group], auroc)
        assert low < auroc(*group) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


def _row(good: float, defect: float, **more: float) -> Row:
    """Of ten good parts and ten defects: one good part in ten scores `good`, all defects `defect`."""
    figures = {"image_auroc": 0.9, "pixel_auroc": 0.8, "pixel_ap": 0.5, "pro": 0.7, "escape_rate": 0.1}
    scores = {"good_scores": [*[0.1] * 9, good], "defect_scores": [defect] * 10}
    return {"rendered": {**figures, **more, "pg2": 1.0, "pb2": 0.9, **scores}, "minutes": 2.0, "mb": 3.1}


def test_the_best_on_rendered_defects_is_taken_and_the_faster_of_equals() -> None:
    rows = {"a": [_row(0.9, 0.5)], "b": [_row(0.2, 0.5)], "c": [_row(0.1, 0.4)]}
    name, reason = recommend(rows, {"a": 1.0, "b": 9.0, "c": 5.0})
    assert name == "c"
    assert "image AUROC 100.00 on rendered defects" in reason
    labelled = {**rows, "a": [{**rows["a"][0], "labelled": _row(0.1, 0.9)["rendered"]}]}
    assert recommend(labelled, {"a": 1.0, "b": 9.0, "c": 5.0}) == (name, reason), "test images choose nothing"
    assert recommend(rows, {"a": 1.0, "b": 4.0, "c": 5.0})[0] == "b"


def test_what_is_unfit_for_service_is_taken_only_where_all_are() -> None:
    rows, speed = {"a": [_row(0.9, 0.5)], "b": [_row(0.2, 0.5)]}, {"a": 1.0, "b": 1.0}
    name, reason = recommend(rows, speed, {"b"})
    assert name == "a"
    assert reason.endswith("the highest of those fit for service; not b (100.00)")
    assert recommend(rows, speed, {"a", "b"})[0] == "b"


def test_the_winner_becomes_the_newest_version_and_none_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    winner = make_bundle(tmp_path / "runs", recipe="bottle", version="padim-0", label="a")
    first = serve(winner, models)
    assert first.manifest.version == "padim-0"
    assert serve(winner, models).path == first.path, "it is there already"
    other = make_bundle(tmp_path / "later", recipe="bottle", version="padim-0", label="b")
    second = serve(other, models)
    assert second.manifest.version == "padim-0-2"
    assert read_bundle(first.path).manifest.files == winner.manifest.files
    third = serve(winner, models)
    assert survey_recipe(models / "bottle").names == ["padim-0", "padim-0-2", third.manifest.version]
    assert tell(third) == 0
    assert tell(make_bundle(tmp_path, unfit="3 of 4 pass")) == UNFIT
    assert "UNFIT: the service does not serve this version" in capsys.readouterr().err


def _request(parts: Path, out: Path, steps: int) -> Compare:
    return Compare(data=parts, out=out, size=64, steps=steps)


def test_a_bundle_of_other_settings_is_not_taken_for_one_of_these(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = _request(parts, tmp_path / "rows.json", 3).job("bozic", 0)
    assert not job.made_before()
    (job.order.models / "bottle" / "bozic-0").mkdir(parents=True)
    assert job.outdated() == f"made by a training whose folder, {job.run}, is gone"
    job.claim()
    assert job.made_before()
    assert job.outdated() is None
    other = _request(parts, tmp_path / "rows.json", 4).job("bozic", 0)
    assert other.outdated() == "made with other settings (steps 3 before, 4 now)"
    assert not other.made_before(), "it is to be made anew"
    (kept,) = (job.run / "earlier").iterdir()
    assert kept.name.startswith("bozic-0-")
    assert str(kept) in capsys.readouterr().err
    (job.run / CHECKPOINT).touch()
    with pytest.raises(TrainingError, match=r"that is not finished: .* choose another --out"):
        _request(parts, tmp_path / "rows.json", 4).job("bozic", 0).claim()


def test_rows_that_no_longer_hold_are_not_shown_beside_those_of_today(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.json"
    request = _request(parts, out, 3)
    for name in ("bozic", "riad"):
        job = request.job(name, 0)
        job.claim()
        job.bundle.mkdir(parents=True)
    settings = {"data": "bottle", "size": 64, "steps": 3, "textures": "procedural"}
    rows = {"bozic/0": {}, "riad/0": {"images_sha256": "of others"}, "us/0": {}}
    command = ["compare", "--data", str(parts), "--out", str(out), "--size", "64", "--steps", "3"]
    command += ["--methods", "bozic", "riad", "--minutes", "1e-9"]

    out.write_text(json.dumps({"settings": settings, "rows": rows}))
    (config := request.job("bozic", 0).run / "config.json").write_text(
        config.read_text().replace('"steps": 3', '"steps": 2')
    )
    assert main(command) == 0
    told = capsys.readouterr().err
    assert "bozic/0: made with other settings (steps 2 before, 3 now): made anew" in told
    assert "riad/0: judged on other labelled images: made anew" in told
    assert "us/0: its bundle is gone: left out until it is asked for" in told
    assert json.loads(out.read_text())["rows"] == {}

    out.write_text(json.dumps({"settings": settings, "rows": {"riad/0": {}}}))
    (request.job("riad", 0).run / "photos.txt").write_text("other.png 1\n")
    assert main(command) == 1
    assert "riad-0: made with other photos (other.png 1 before, 000.png" in capsys.readouterr().err
    assert set(json.loads(out.read_text())["rows"]) == {"riad/0"}, "nothing of the other comparison is lost"


def test_methods_are_told_apart_by_the_seeds_that_all_of_them_have() -> None:
    rows = {"a/0": _row(0.9, 0.5), "a/1": _row(0.1, 0.5), "b/0": _row(0.2, 0.5)}
    assert set(on_shared_seeds(rows)) == {"a/0", "b/0"}, "other photos are held out by each seed"
    assert on_shared_seeds({"a/1": rows["a/1"], "b/0": rows["b/0"]}).keys() == {"a/1", "b/0"}


def test_what_no_method_could_be_trained_with_is_told_once(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("few", "my parts"):
        (tmp_path / name).mkdir()
        for photo in good_images(parts)[: 2 if name == "few" else 10]:
            shutil.copy(photo, tmp_path / name)
    for name, said in {"few": "2 good photos are too few", "my parts": "recipe 'my parts': take letters"}.items():
        assert main(["compare", "--data", str(tmp_path / name), "--out", str(tmp_path / "rows.json")]) == 1
        told = capsys.readouterr().err
        assert told.count(said) == 1
        assert "rows failed" not in told
    assert not (tmp_path / "rows.runs").exists()


@pytest.mark.parametrize(
    "command", [["compare"], ["reproduce", "--dataset", "mvtec"], ["ablate"], ["bench"], ["evaluate", "--bundle", "."]]
)
def test_an_out_that_cannot_hold_the_figures_is_told_before_the_work(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    places = {"reproduce": ["--data", str(parts.parent)], "bench": []}.get(command[0], ["--data", str(parts)])
    assert main([*command, *places, "--out", str(tmp_path / "rows.md")]) == 1
    shown = capsys.readouterr()
    assert "rows.md: name a file that ends in .json" in shown.err
    assert not shown.out
    assert not list(tmp_path.iterdir())


def test_results_go_where_a_json_file_can_be_written(tmp_path: Path) -> None:
    (file := tmp_path / "file").touch()
    for out, told in {
        tmp_path: f"--out {tmp_path}: a folder: name a file in it",
        file / "rows.json": f"{file}: no results can be written there: choose another --out",
    }.items():
        with pytest.raises(DataError, match=re.escape(told)):
            require_results_file(out)
    require_results_file(tmp_path / "new" / "rows.json")
    assert list(tmp_path.iterdir()) == [file]


def test_photos_and_textures_that_are_not_there_are_told_once_not_of_every_method(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", "--out", str(tmp_path / "rows.json")]
    (empty := tmp_path / "empty").mkdir()
    assert main([*command, "--data", str(empty)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {empty}: no images (")
    assert main([*command, "--data", str(parts), "--textures", str(empty)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {empty}: no images (")
    (file := tmp_path / "file").touch()
    assert main([*command, "--data", str(parts), "--serve-winner", "--models", str(file)]) == 1
    assert f"{file}: no bundle can be written there" in capsys.readouterr().err


def test_the_table_has_the_papers_figures_where_it_has_the_category_and_blanks_where_nothing_was_run() -> None:
    titles = {"draem": "DRÆM", "riad": "RIAD", "mean": "mean photo"}
    rows = {"draem/0": _row(0.2, 0.5), "draem/1": _row(0.2, 0.5, image_auroc=0.92), "mean/0": _row(0.9, 0.5)}
    lines = tabulate("bottle", titles, rows, {"draem": 12.3}, intervals=False).splitlines()
    assert "labelled" not in lines[0], "there are none"
    assert lines[2].startswith("| draem: DRÆM | 91.00 ± 1.41 | 80.00 ± 0.00 |")
    assert lines[2].endswith("| 12.3 | 3.1 | 2.0 | 2 | 99.2 | 99.1 | 86.5 |")
    assert lines[3] == f"| riad: RIAD |{'  |' * 11} 99.9 | 98.4 | 76.4 |"
    assert lines[4].endswith("|  | 3.1 | 2.0 | 1 |  |  |  |")
    assert "99.2" not in tabulate("flange", titles, rows, {}, intervals=False)
    assert "[100.0, 100.0]" in tabulate("flange", titles, rows, {}, intervals=True)


@pytest.mark.slow
def test_methods_are_compared_once_and_the_winner_is_served(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.json"
    command = ["compare", "--data", str(parts), "--out", str(out), "--size", "64", "--steps", "3"]
    names = ["--methods", "discriminative", "bozic"]
    assert main([*command, *names, "--minutes", "1e-9"]) == 0
    assert "2 of 2 are left: the same command goes on" in capsys.readouterr().err
    assert not out.exists()

    serving = [*command, *names, "--models", str(tmp_path / "models"), "--serve-winner"]
    assert main(serving) == UNFIT, "trained for three steps"
    shown, told = capsys.readouterr()
    assert "UNFIT: the service does not serve this version unless it is told to" in told
    rows = json.loads(out.read_text())["rows"]
    assert set(rows) == {"discriminative/0", "bozic/0"}
    held_out = {len(row["rendered"]["good_scores"]) for row in rows.values()}
    assert held_out == {2}, "all are judged on the same photos"
    labelled = labelled_images(parts)
    for row in rows.values():
        assert len(row["labelled"]["defect_scores"]) == sum(image.is_defect for image in labelled)
        assert 0 <= row["rendered"]["pb2"] <= 1
    text = (tmp_path / "rows.md").read_text()
    assert text.strip() in shown
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
    (served,) = (tmp_path / "models" / "bottle").iterdir()
    assert f"Take {read_bundle(served).manifest.method}: " in text

    # Killed after the bundles were written and before the rows were: they are read, not made again.
    out.unlink()
    written = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.runs/**/manifest.json")}
    assert written
    assert main(serving) == UNFIT
    assert [served] == list((tmp_path / "models" / "bottle").iterdir())
    assert json.loads(out.read_text())["rows"] == rows
    assert written == {file: file.stat().st_mtime_ns for file in written}, "trained again"
    assert main([*command, "--methods", "bozik"]) == 2
    assert "--methods bozik: choose among fusion, draem, " in capsys.readouterr().err


def test_a_published_split_is_a_folder_of_links(parts: Path, tmp_path: Path) -> None:
    photos = [path.name for path in good_images(parts)]
    # The demo's photos of both folders have the same names.
    data = tmp_path / "bottle"
    shutil.copytree(parts, data)
    for photo in (data / "test" / "good").iterdir():
        photo.rename(photo.with_name(f"test_{photo.name}"))
    names = tmp_path / "names.txt"
    chosen = [photos[0], "test_000.png"]
    names.write_text("\n".join(chosen) + "\n")
    for _ in range(2):  # made again over itself
        folder = link_split(data, names, tmp_path / "split" / "bottle")
    assert [path.name for path in good_images(folder)] == sorted(chosen)
    tested = labelled_images(folder)
    assert sum(not image.is_defect for image in tested) == len(photos) + 3 - 2
    defects = [(image.defect, image.path.name) for image in tested if image.is_defect]
    assert defects == [(i.defect, i.path.name) for i in labelled_images(parts) if i.is_defect]

    names.write_text("other.png\n")
    with pytest.raises(DataError, match=r"1 of 1 are no good photos of .*, other\.png first"):
        link_split(data, names, tmp_path / "other")
    with pytest.raises(DataError, match="a second good photo named so"):
        link_split(parts, names, tmp_path / "other")
