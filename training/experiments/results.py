"""A queue of trainings whose rows of figures are kept in one JSON file: it may be killed at any time and goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
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
from training.loop.runs import InterruptedRunError, disk_full_named

Row = dict[str, JsonValue]


class ResultsError(UserError):
    """The file holds something else, or some rows failed; the message names them."""


def run_queue(
    jobs: Mapping[str, Callable[[], Row]],
    file: Path,
    settings: dict[str, JsonValue],
    tabulate: Callable[[Mapping[str, Row]], str],
    go_on: Callable[[], bool] = lambda: True,
) -> str:
    """Run the jobs whose rows `file` has not, keeping it and the table beside it (.md) up to date; returns the table.

    `settings` are kept with the rows, and a file of other settings is refused. A job that fails leaves its row out and
    the next one starts; at the end ResultsError names those. Only InterruptedRunError, and a device that no job would
    get, stop the queue at once; none starts where `go_on` says so.
    """
    # Through JSON, so that what is read back compares equal.
    settings = json.loads(json.dumps(settings))
    require_results_file(file)
    rows = _read(file, settings)
    failed = []
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
        file.parent.mkdir(parents=True, exist_ok=True)
        with disk_full_named(file):
            replace_file(file, json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")
            replace_file(file.with_suffix(".md"), tabulate(rows) + "\n")
    table = tabulate(rows)
    if failed:
        raise ResultsError("\n".join([f"{len(failed)} of {len(jobs)} rows failed", *failed]))
    return table


def mean_percent(runs: Sequence[Row], column: str) -> str:
    """Mean over runs in percent, with the standard deviation where there are several; nothing where there are none."""
    values = [value for run in runs if isinstance(value := run.get(column), float)]
    if len(values) < 2:
        return percent(values[0]) if values else ""
    return f"{percent(float(np.mean(values)))} ± {percent(float(np.std(values, ddof=1)))}"


def mean_minutes(runs: Sequence[Row]) -> str:
    values = [value for run in runs if isinstance(value := run.get("minutes"), float)]
    return f"{np.mean(values):.1f}" if values else ""


def _read(file: Path, settings: dict[str, JsonValue]) -> dict[str, Row]:
    if not file.exists():
        return {}
    try:
        contents = json.loads(file.read_text())
        found, rows = contents["settings"], dict(contents["rows"])
    except (ValueError, TypeError, KeyError) as error:
        raise ResultsError(f"{file}: no results of an earlier run: choose another --out") from error
    if found != settings:
        raise ResultsError(f"{file}: holds rows of other settings: choose another --out")
    return rows
