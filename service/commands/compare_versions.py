"""`python -m service compare-versions`: a version beside the one in service, on recorded images, before it serves."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated

from pydantic import Field

from service.bundle.manifest import Name
from service.bundle.versions import survey
from service.commands.records import RecordsFolder, settings_of
from service.comparing.page import to_html
from service.comparing.versions import Comparison
from service.station.choosing import chosen_version
from service.station.comparing import compare_versions, opener
from service.station.decisions import Decisions
from service.station.reader import Reader


class CompareVersions(RecordsFolder):
    """Compare a version with the one in service, on images that the records kept.

    Counts of verdicts, against what people said of the parts, and an HTML page with the images whose verdict changed.
    Exit 0: no confirmed defect passes that did not pass before, 1: one does.
    """

    recipe: Annotated[Name, Field(description="the recipe")]
    candidate: Annotated[Name, Field(description="version that may serve")]
    active: Annotated[Name | None, Field(description="version to compare with; without it the one in service")] = None
    out: Annotated[Path, Field(description="HTML file for the images whose verdict changed")] = Path("comparison.html")
    most: Annotated[int, Field(ge=1, description="most images, those that people reviewed first")] = 500
    models: Annotated[Path | None, Field(description="folder of recipes; without the flag INSPECT_MODELS_DIR")] = None
    threads: Annotated[int, Field(ge=1, le=256, description="threads of one inference")] = 1


def run(request: CompareVersions) -> int:
    settings = settings_of()
    folder = (request.models or settings.models_dir) / request.recipe
    decisions = Decisions(key=request.key())
    shelf = survey(folder.parent).get(request.recipe)
    if shelf is None:
        raise ValueError(f"no recipe {request.recipe!r} in {folder.parent}")
    active = request.active or chosen_version(folder, shelf, decisions)[0]
    if active == request.candidate:
        raise ValueError(f"version {active} is in service already: name another --candidate, or --active")
    for version in (active, request.candidate):
        if version not in shelf.names:
            raise ValueError(f"{folder}: no version {version}: choose of {', '.join(shelf.names)}")
    with closing(Reader(request.find())) as reader:
        found = compare_versions(
            folder,
            (active, request.candidate),
            reader,
            opener(settings.cache_dir, request.threads),
            decisions=decisions,
            most=request.most,
            max_pixels=settings.max_pixels,
        )
    request.out.write_bytes(to_html(found, f"{request.recipe}: version {request.candidate}, before it serves"))
    print(json.dumps(summary(found) | {"page": str(request.out)}))
    return 1 if found.new_escapes else 0


def summary(found: Comparison) -> dict[str, object]:
    """The counts of a comparison."""
    return {
        "recipe": found.recipe,
        "active": found.before.name,
        "candidate": found.after.name,
        "images": len(found.images),
        "active_verdicts": found.confusion("before"),
        "candidate_verdicts": found.confusion("after"),
        "changed": len(found.changes()),
        "new_escapes": len(found.new_escapes),
        "left_out": dict(found.left_out),
    }
