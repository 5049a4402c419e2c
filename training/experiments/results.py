"""A queue of trainings whose rows of figures are kept in one JSON file: it may be killed at any time and goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydantic import JsonValue
from tqdm import tqdm

from service.backends.base import BackendError
from service.bundle.files import replace_file
from service.bundle.manifest import BundleError
from service.images.headers import ImageError
from training.data.places import require_results_file
from training.errors import UserError
from training.evaluation.evaluate import percent
from training.loop.distributed import DeviceError
from training.loop.runs import InterruptedRunError, disk_full_named, hold

Row = dict[str, JsonValue]


class ResultsError(UserError):
    """The file holds something else, or some rows failed; the message names them."""


@dataclass(frozen=True)
class _Kept:
    """What a file of results has: the rows that hold, and those that did, each with why no longer."""

    settings: Row
    rows: dict[str, Row]
    earlier: list[Row]

    def write(self, file: Path) -> None:
        found = {name: value for name, value in asdict(self).items() if value or name != "earlier"}
        with disk_full_named(file):
            replace_file(file, json.dumps(found, indent=2) + "\n")


def run_queue(
    jobs: Mapping[str, Callable[[], Row]],
    file: Path,
    settings: dict[str, JsonValue],
    tabulate: Callable[[Mapping[str, Row]], str],
    *,
    outdated: Callable[[str, Row], str | None] = lambda key, row: None,
    go_on: Callable[[], bool] = lambda: True,
) -> str:
    """Run the jobs whose rows `file` has not, keeping it and the table beside it (.md) up to date; returns the table.

    A row that is `outdated`, which tells why, is made anew; one that no job makes is left out. The file keeps what it
    said, as `earlier`. `file` is this process's own until it ends.

    `settings` are kept with the rows, and a file of other settings is refused. A job that fails leaves its row out and
    the next one starts; at the end ResultsError names those. Only InterruptedRunError, and a device that no job would
    get, stop the queue at once; none starts where `go_on` says so.
    """
    # Through JSON, so that what is read back compares equal.
    settings = json.loads(json.dumps(settings))
    require_results_file(file)
    kept = _held(file, settings, jobs, outdated)
    rows, failed = kept.rows, []
    for number, (key, job) in enumerate(jobs.items(), 1):
        if key in rows:
            continue
        if not go_on():
            tqdm.write(f"{len(jobs) - number + 1} of {len(jobs)} are left: the same command goes on", file=sys.stderr)
            break
        tqdm.write(f"{key}: {number} of {len(jobs)}", file=sys.stderr)
        try:
            rows[key] = job()
        except (InterruptedRunError, DeviceError):
            raise
        except (UserError, BackendError, BundleError, ImageError) as error:
            failed.append(f"{key}: {error}")
            continue
        kept.write(file)
        with disk_full_named(file):
            replace_file(file.with_suffix(".md"), tabulate(rows) + "\n")
    table = tabulate(rows)
    if failed:
        raise ResultsError("\n".join([f"{len(failed)} of {len(jobs)} rows failed", *failed]))
    return table


def _held(file: Path, settings: Row, jobs: Mapping[str, object], outdated: Callable[[str, Row], str | None]) -> _Kept:
    """What `file` has that holds, once it is this process's own."""
    work = file.with_suffix(".runs")
    try:
        work.mkdir(parents=True, exist_ok=True)
        hold(work, "--out")
    except OSError as error:
        raise ResultsError(f"--out {file}: {work} cannot be used ({error.strerror}): choose another --out") from error
    kept = _read(file, settings)
    reasons = {key: why for key, row in kept.rows.items() if (why := outdated(key, row))}
    for key, why in reasons.items():
        tqdm.write(f"{key}: {why}: {'made anew' if key in jobs else 'left out until it is asked for'}", file=sys.stderr)
        kept.earlier.append({"key": key, "why": why, "row": kept.rows.pop(key)})
    # Before one of them is made: stopped in between, what is made by then must not stand for the row of before.
    if reasons:
        kept.write(file)
    return kept


def mean_percent(runs: Sequence[Row], column: str) -> str:
    """Mean over runs in percent, with the standard deviation where there are several; nothing where there are none."""
    values = [value for run in runs if isinstance(value := run.get(column), float)]
    if len(values) < 2:
        return percent(values[0]) if values else ""
    return f"{percent(float(np.mean(values)))} ± {percent(float(np.std(values, ddof=1)))}"


def mean_minutes(runs: Sequence[Row]) -> str:
    values = [value for run in runs if isinstance(value := run.get("minutes"), float)]
    return f"{np.mean(values):.1f}" if values else ""


def _read(file: Path, settings: dict[str, JsonValue]) -> _Kept:
    if not file.exists():
        return _Kept(settings, {}, [])
    try:
        contents = json.loads(file.read_text())
        kept = _Kept(contents["settings"], dict(contents["rows"]), list(contents.get("earlier", [])))
    except (ValueError, TypeError, KeyError) as error:
        raise ResultsError(f"{file}: no results of an earlier run: choose another --out") from error
    if kept.settings != settings:
        raise ResultsError(f"{file}: holds rows of other settings: choose another --out")
    return kept
