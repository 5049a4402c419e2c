"""The table of parity: what differs, how close to a limit it was, and a command that goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from limits import thresholds

from service.backends.base import Scored
from training.benchmarks.parity import Row, apart, kept_rows, tabulate

LIMITS = thresholds(review=0.3, reject=0.6)


def _scored(*scores: float) -> list[Scored]:
    return [Scored(np.full((2, 2), score, np.float32), score) for score in scores]


def test_a_verdict_that_differs_is_told_with_how_close_it_was_and_whether_it_is_the_opposite() -> None:
    exact = _scored(0.1, 0.29, 0.58, 0.7, 0.66)
    row = apart(Row("draem", "ort-cpu", "int8"), LIMITS, exact, _scored(0.12, 0.31, 0.61, 0.7, 0.27))
    assert (row.images, row.verdicts_differ, row.opposite) == (5, 3, 1)
    assert abs(row.score_error - 0.39) < 1e-9
    assert abs(row.crossed_from - 0.06) < 1e-9
    assert "3 of 5, from at most 6.0e-02 beside a limit | 1 |" in tabulate([row])
    same = apart(Row("draem", "ort-cpu", "fp32"), LIMITS, exact, exact)
    assert (same.verdicts_differ, same.crossed_from, same.opposite) == (0, 0.0, 0)
    assert "0 of 5 | 0 |" in tabulate([same])
    table = tabulate([Row("draem", runtime, "int8", refused="off by much") for runtime in ("ort-cpu", "openvino")])
    assert table.count("| int8 | not accepted | | |  |") == 2
    assert table.endswith("\n\ndraem in ort-cpu, draem in openvino: int8: off by much")


def test_rows_of_a_run_that_was_stopped_are_taken_up_and_those_of_other_settings_refused(tmp_path: Path) -> None:
    file, row = tmp_path / "parity.json", Row("us", "openvino", "bf16", images=27, crossed_from=0.01)
    assert kept_rows(None, {"size": 64}) == kept_rows(file, {"size": 64}) == []
    file.write_text(json.dumps({"settings": {"size": 64}, "rows": [asdict(row)]}))
    assert kept_rows(file, {"size": 64}) == [row]
    with pytest.raises(ValueError, match=r"parity.json: holds rows of other settings"):
        kept_rows(file, {"size": 128})
