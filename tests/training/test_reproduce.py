import fcntl
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from service.bundle.manifest import BundleError
from service.images.headers import ImageError
from training.bundling.onnx import ExportError
from training.commands import run as main
from training.data.demo_parts import write_dataset
from training.data.folders import DataError
from training.experiments.published import AVERAGE, PAPER
from training.experiments.reproduce import tabulate
from training.experiments.results import ResultsError, Row, run_queue
from training.features.trunk import TrunkError
from training.loop.distributed import DeviceError
from training.loop.memory import MemoryShortError
from training.loop.runs import InterruptedRunError, TrainingError

TINY = ["--size", "64", "--reconstructive-width", "4", "--discriminative-width", "4", "--steps", "3", "--batch", "2"]
ROW: Row = {"image_auroc": 0.9, "pixel_auroc": 0.8, "pixel_ap": 0.5, "minutes": 3.0}


@pytest.mark.parametrize("method", PAPER["mvtec"])
def test_the_papers_columns_have_the_papers_averages(method: str) -> None:
    for i, average in enumerate(AVERAGE["mvtec"][method]):
        figures = [paper[i] for paper in PAPER["mvtec"][method].values()]
        assert len(figures) == 15
        assert sum(figures) / 15 == pytest.approx(average, abs=0.06)


def test_what_was_not_run_stays_blank_and_so_does_the_average() -> None:
    tables = dict(table.split("\n\n") for table in tabulate("mvtec", {"draem/bottle/0": ROW}).split("\n\n\n"))
    lines = {line.split("|")[1].strip(): line for line in tables["draem"].splitlines()}
    assert lines["bottle"] == "| bottle | 99.2 | 90.00 | 99.1 | 80.00 | 86.5 | 50.00 | 1 | 3.0 |"
    assert lines["metal_nut"] == "| metal_nut | 98.7 |  | 99.5 |  | 96.3 |  |  |  |"
    assert lines["average"] == "| average | 98.0 |  | 97.3 |  | 68.4 |  |  |  |"
    assert set(PAPER["mvtec"]["draem"]) < set(lines)
    assert "| bottle | 99.9 |  | 98.4 |  | 76.4 |  |  |  |" in tables["riad"]
    assert set(tables) == {"draem", "us", "riad", "padim"}


@pytest.mark.parametrize("dataset", PAPER)
def test_a_method_that_the_paper_has_not_has_its_table_too(dataset: str) -> None:
    category = "bottle" if dataset == "mvtec" else dataset
    tables = tabulate(dataset, {f"patchcore/{category}/0": ROW}).split("\n\n\n")
    (table,) = (table for table in tables if table.startswith("patchcore\n"))
    assert f"| {category} |  | 90.00 |  | 80.00 |  | 50.00 | 1 | 3.0 |" in table


def test_seeds_weigh_less_than_categories_in_the_average() -> None:
    rows = {f"draem/{category}/0": ROW for category in PAPER["mvtec"]["draem"]}
    rows |= {f"draem/bottle/{seed}": {**ROW, "image_auroc": 0.6} for seed in (1, 2)}
    table = tabulate("mvtec", rows)
    assert "| bottle | 99.2 | 70.00 ± 17.32 |" in table
    assert f"| average | 98.0 | {(14 * 90 + 70) / 15:.2f} | 97.3 | 80.00 | 68.4 | 50.00 |" in table


@pytest.mark.parametrize(
    "failure",
    [
        TrainingError,
        DataError,
        ExportError,
        MemoryShortError,
        TrunkError,
        BundleError,
        partial(ImageError, "corrupt_image"),
    ],
)
def test_a_queue_goes_on_past_a_failed_row_and_runs_only_that_again(
    tmp_path: Path, failure: Callable[[str], Exception]
) -> None:
    done: list[str] = []
    broken = True

    def job(name: str) -> Row:
        done.append(name)
        if name == "b" and broken:
            raise failure("loss is not finite")
        return {"name": name}

    def queue() -> str:
        return run_queue({name: lambda name=name: job(name) for name in "abc"}, tmp_path / "r.json", {}, str)  # type: ignore[misc]

    with pytest.raises(ResultsError, match=r"1 of 3 rows failed\nb: loss is not finite"):
        queue()
    assert set(json.loads((tmp_path / "r.json").read_text())["rows"]) == {"a", "c"}
    broken = False
    queue()
    assert done == ["a", "b", "c", "b"]
    assert "'b'" in (tmp_path / "r.md").read_text()


def test_a_row_that_no_longer_holds_is_gone_before_it_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    run_queue({"a": lambda: {"of": "before"}, "b": dict, "c": dict}, file, {}, str)

    def again() -> Row:
        assert set(json.loads(file.read_text())["rows"]) == {"b"}, "stopped here, it would pass for one of today"
        return {"of": "today"}

    def outdated(key: str, row: Row) -> str | None:
        return "too old" if row.get("of") == "before" or key == "c" else None

    jobs = {"a": again, "b": lambda: pytest.fail("it holds")}
    run_queue(jobs, file, {}, str, outdated=outdated)
    found = json.loads(file.read_text())
    assert found["rows"] == {"a": {"of": "today"}, "b": {}}
    assert found["earlier"][0] == {"key": "a", "why": "too old", "row": {"of": "before"}}, "hours of training"
    run_queue({"d": lambda: {"of": "today"}}, file, {}, str)
    assert json.loads(file.read_text())["earlier"] == found["earlier"]


def test_two_processes_do_not_write_one_file_of_results(tmp_path: Path) -> None:
    (work := tmp_path / "r.runs").mkdir()
    with (work / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match=r"another process trains here: wait for it, or choose another --out"):
            run_queue({"a": lambda: pytest.fail("began")}, tmp_path / "r.json", {}, str)


@pytest.mark.parametrize("stops", [InterruptedRunError, DeviceError])
def test_an_interruption_stops_the_queue_and_so_does_a_device_that_is_not_there(
    tmp_path: Path, stops: type[Exception]
) -> None:
    def stop() -> Row:
        raise stops("stopped")

    with pytest.raises(stops):
        run_queue({"a": stop, "b": lambda: pytest.fail("went on")}, tmp_path / "r.json", {}, str)


@pytest.mark.slow
def test_every_category_that_is_there_is_trained_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    write_dataset(root / "bottle", good=8, test_good=2, defects_per_kind=1, seed=0)
    shutil.copytree(root / "bottle", root / "metal_nut")
    shutil.copytree(root / "bottle", root / "flange")
    out = tmp_path / "figures" / "mvtec.json"
    command = ["reproduce", "--dataset", "mvtec", "--data", str(root), "--preset", "quick", "--out", str(out), *TINY]

    assert main([*command, "--categories", "bottle"]) == 0
    first = json.loads(out.read_text())["rows"]
    assert set(first) == {"draem/bottle/0"}
    assert main(command) == 0
    rows = json.loads(out.read_text())["rows"]
    assert set(rows) == {"draem/bottle/0", "draem/metal_nut/0"}
    assert rows["draem/bottle/0"] == first["draem/bottle/0"]
    table = capsys.readouterr().out
    assert f"| bottle | 99.2 | {100 * rows['draem/bottle/0']['image_auroc']:.2f} |" in table
    assert (tmp_path / "figures" / "mvtec.runs" / "models" / "metal_nut" / "quick-0" / "report.html").is_file()

    # Killed after the bundle was written and before the row was: the bundle is read, not made again.
    out.write_text(json.dumps({**json.loads(out.read_text()), "rows": {}}))
    written = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.runs/**/manifest.json")}
    assert written
    assert main(command) == 0
    assert json.loads(out.read_text())["rows"] == rows
    assert written == {file: file.stat().st_mtime_ns for file in written}, "trained again"


def test_missing_and_unknown_categories_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["reproduce", "--dataset", "mvtec", "--data", str(tmp_path), "--out", str(tmp_path / "x.json")]
    assert main(command) == 1
    assert f"{tmp_path}: none of bottle, capsule" in capsys.readouterr().err
    (tmp_path / "bottle" / "train" / "good").mkdir(parents=True)
    assert main([*command, "--categories", "pill"]) == 1
    assert f"{tmp_path / 'pill' / 'train' / 'good'}: no such folder" in capsys.readouterr().err
    assert main([*command, "--categories", "bolt"]) == 1
    assert "bolt: not in the table" in capsys.readouterr().err
