"""What a run's folder keeps of the bundle that it gave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from service.bundle.files import replace_file
from service.bundle.folder import Bundle, read_bundle
from service.bundle.manifest import BundleError
from training.data.folders import DataError
from training.evaluation.evaluate import markdown
from training.evaluation.report import REPORT
from training.loop.runs import RESULTS


def write_results(run: Path, bundle: Bundle) -> None:
    """Keep the report and the figures of a bundle in the run's folder too; results.json marks the run as finished."""
    manifest = bundle.manifest
    shutil.copyfile(bundle.file(REPORT), run / REPORT)
    if manifest.metrics:
        (run / "results.md").write_text(markdown({manifest.recipe: manifest.metrics}) + "\n")
    replace_file(run / RESULTS, manifest.model_dump_json(indent=2, exclude={"files"}) + "\n")


def version_of(run: Path, models: Path) -> Bundle:
    """The version that a finished run gave; raises DataError where there is none, or not any more."""
    file = run / RESULTS
    if not file.is_file():
        raise DataError(f"{run}: no finished run: name the folder that a training left, such as runs/RECIPE")
    try:
        manifest = json.loads(file.read_text())
        place = models / manifest["recipe"] / manifest["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: damaged ({error}): bring it back, or train anew in another --run") from error
    try:
        return read_bundle(place)
    except BundleError as error:
        raise DataError(f"{error}: the version that {run} gave is compared with: bring it back") from error
