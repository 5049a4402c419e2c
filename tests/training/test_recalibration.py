"""Thresholds from reviewed parts, without a training: what they promise, and what is refused."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundles import gray, make_bundle, png
from fakes import wait_for

from service.backends.base import Scored
from service.bundle.folder import read_bundle
from service.station.record import Record
from service.station.records import Records
from service.station.reviews import Review
from training.bundling.calibration import calibrate, counts_like
from training.commands import run
from training.commands.outcome import UNFIT

Line = Callable[[list[tuple[int, str, str]], int], Path]


@pytest.fixture
def line(tmp_path: Path) -> Line:
    """Records of reviewed parts (brightness, verdict, review), and of so many that passed and nobody looked at."""

    def made(parts: list[tuple[int, str, str]], passed: int) -> Path:
        folder = tmp_path / "records"
        records = Records(folder, image_budget_bytes=100_000_000)
        for number, (value, verdict, _) in enumerate(parts):
            image = gray(value)
            image[0, 0] = number % 40
            reply = {"inspection_id": f"p{number}", "recipe": "part", "version": "1", "verdict": verdict, "score": 0.1}
            records.add(Record(reply, time.time(), None, png(image)))
        for number in range(passed):
            reply = {"inspection_id": f"q{number}", "recipe": "part", "version": "1", "verdict": "OK", "score": 0.1}
            records.add(Record(reply, time.time(), None, None))
        last = f"q{passed - 1}" if passed else "p0"
        wait_for(lambda: records.find(last) and all(records.image(f"p{number}") for number in range(len(parts))))
        for number, (_, _, said) in enumerate(parts):
            records.review(f"p{number}", Review(said, "Ada"))  # type: ignore[arg-type]
        records.close(wait_s=600)
        return folder

    return made


def _run(models: Path, records: Path, *more: str) -> int:
    return run(["recalibrate", "--bundle", str(models / "part" / "1"), "--records", str(records), *more])


def test_good_parts_that_were_rejected_raise_the_thresholds_and_the_report_shows_both(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores are brightness over 255: 0.31 to 0.35 was REVIEW with the old thresholds, and is good."""
    models = tmp_path / "models"
    make_bundle(models, review=0.3, reject=0.34)
    good = [(60 + number, "OK", "good") for number in range(10)] + [
        (80 + number, "REVIEW", "good") for number in range(10)
    ]
    records = line([*good, (240, "NG", "defect")], 10)
    assert _run(models, records, "--false-reject-rate", "0.1", "--version", "2") == 0
    bundle = read_bundle(models / "part" / "2")
    thresholds = bundle.manifest.thresholds
    # Ten that passed stand for twenty: of 30 parts, and one more, the tenth part may be above.
    assert 0.34 < thresholds.reject <= 89 / 255 + 1e-5
    assert thresholds.calibration.good_images == 20
    assert bundle.manifest.training.model_dump()["recalibrated"] == {"of": "1", "good_parts": 20, "count_like": 15}
    assert bundle.model_sha256("fp32") == read_bundle(models / "part" / "1").model_sha256("fp32")
    said = capsys.readouterr().out
    assert "count like 15" in said
    assert "Confirmed defects: 0 of 1 passed as OK, now 0 pass" in said
    report = bundle.file("report.html").read_text()
    assert "version 1 beside version 2, on the same 21 images" in report
    assert "REVIEW 0.3" in report


def test_confirmed_defects_that_pass_make_a_version_unfit(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    make_bundle(models, review=0.3, reject=0.34)
    good = [(60 + number, "OK", "good") for number in range(10)] + [
        (80 + number, "REVIEW", "good") for number in range(10)
    ]
    records = line([*good, *[(62, "NG", "defect")] * 20], 10)
    assert _run(models, records, "--false-reject-rate", "0.1", "--version", "2") == UNFIT
    assert "UNFIT: 20 of 20 confirmed defects pass as OK (100%, allowed are 50%)" in capsys.readouterr().err
    assert read_bundle(models / "part" / "2").manifest.unfit


def test_parts_that_were_all_doubtful_and_too_few_parts_are_refused(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    make_bundle(models)
    records = line([(100 + number, "REVIEW", "good") for number in range(12)], 3)
    assert _run(models, records, "--false-reject-rate", "0.1") == 1
    assert "none of them had passed as OK" in capsys.readouterr().err
    assert [path.name for path in (models / "part").iterdir()] == ["1"]


def test_a_sample_too_small_for_the_promise_names_the_promise_that_it_can_give(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    make_bundle(models)
    records = line([(60 + number, "OK", "good") for number in range(12)], 3)
    assert _run(models, records) == 1
    said = capsys.readouterr().err
    assert "12 reviewed good parts count like 12, a false-reject rate of 0.01 takes 99" in said
    rate = said.strip().rsplit(" ", 1)[1]
    assert _run(models, records, "--false-reject-rate", rate, "--most-escapes", "1") == 0


def test_no_promise_is_advised_that_is_none(line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = tmp_path / "models"
    make_bundle(models)
    assert _run(models, line([(60, "OK", "good"), (61, "OK", "good")], 3)) == 1
    said = capsys.readouterr().err
    assert "2 reviewed good parts count like 2" in said
    assert "or promise" not in said


def test_what_was_learned_from_sets_no_threshold(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    bundle = make_bundle(models)
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["training"]["line_parts"] = [f"p{number}" for number in range(8)]
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    records = line([(60 + number, "OK", "good") for number in range(12)], 3)
    assert _run(models, records, "--false-reject-rate", "0.1") == 1
    assert "4 reviewed good parts count like 4" in capsys.readouterr().err


def test_a_weighted_sample_keeps_the_promise_that_the_doubtful_ones_alone_would_break() -> None:
    """All parts above 0.15 are reviewed, of the others one in ten: the reject rate on new parts is what was asked."""
    rng = np.random.default_rng(0)
    flat = np.zeros((4, 4), np.float32)
    weighted, alone = [], []
    for _ in range(60):
        scores = rng.beta(2, 20, 3000)
        doubtful = scores > 0.15
        looked_at = doubtful | (rng.random(3000) < 0.1)
        weights = np.where(doubtful, 1.0, (~doubtful).sum() / (looked_at & ~doubtful).sum())[looked_at]
        good = [Scored(flat, float(score)) for score in scores[looked_at]]
        new = rng.beta(2, 20, 5000).astype(np.float32)
        for rates, chosen in ((weighted, weights), (alone, None)):
            reject = calibrate(good, [], false_reject_rate=0.05, weights=chosen).reject
            rates.append(float((new >= reject).mean()))
    assert 0.04 < np.mean(weighted) <= 0.052
    assert np.mean(alone) < 0.03
    assert counts_like(np.array([1.0, 1.0, 10.0])) == 1
