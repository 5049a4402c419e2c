"""The bundle that a comparison recommends, put where the service finds it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from service.bundle.folder import Bundle, read_bundle, read_manifest, write_bundle
from service.bundle.versions import survey_recipe
from training.commands.outcome import UNFIT
from training.data.places import require_place


def require_models(models: Path, recipe: str) -> None:
    """DataError where no bundle could be written, before the trainings that end in one."""
    require_place(models / recipe, "no bundle", "--models")


def serve(bundle: Bundle, models: Path) -> Bundle:
    """Into the folder of the bundles as the newest of the recipe, so that it is the one to serve; a version that is
    there already stays as it is.
    """
    manifest = bundle.manifest
    folder = models / manifest.recipe
    shelf = survey_recipe(folder)
    for name in shelf.names:
        there = folder / name
        if name not in shelf.faults and not shelf.newer_than(name) and read_manifest(there).files == manifest.files:
            return read_bundle(there)
    names = (f"{manifest.version}-{number}" if number > 1 else manifest.version for number in count(1))
    version = next(name for name in names if not (folder / name).exists())
    newest = manifest.model_copy(update={"version": version, "created": datetime.now(UTC)})
    return write_bundle(models, newest, {name: bundle.read(name) for name in manifest.files})


def tell(served: Bundle) -> int:
    """Where it is; UNFIT where the service will not serve it, else 0."""
    print(f"bundle {served.path}")
    if not served.manifest.unfit:
        return 0
    print("UNFIT: the service does not serve this version unless it is told to", file=sys.stderr)
    return UNFIT
