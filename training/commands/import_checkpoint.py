"""`python -m training import-checkpoint`: a bundle from weights that were trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, create_model

from service.bundle.manifest import InputSpec, ScoreFormula, TrainingRecord
from training.bundling.held_out import HeldOut
from training.bundling.recipe import write_recipe
from training.commands.outcome import tell
from training.commands.photos import tell_survey
from training.commands.recipe_flags import PHOTOS, PlaceFlags, RecipeFlags
from training.data.folders import good_images
from training.evaluation.report import Training
from training.methods import METHODS
from training.methods.protocol import Method
from training.weight_files import CheckpointError


class ImportCheckpoint(RecipeFlags, PlaceFlags):
    """Make a bundle from the authors' two checkpoint files or anomalib's one; good photos calibrate the thresholds."""

    region: Annotated[
        Path | None,
        Field(description="where anomalies count: PNG (white) or JSON polygons; the network goes on seeing all of it"),
    ] = None
    method: Annotated[str, Field(description="the method that the files are of")]
    data: Annotated[Path, Field(description=PHOTOS)]
    recipe: Annotated[str, Field(description="name of the recipe")]
    size: Annotated[int, Field(ge=32, le=4096, description="pixels: photos are resized to size x size")] = 256
    score: Annotated[ScoreFormula, Field(description="what makes one number of the map")] = "paper"


def request_of(method: Method[Any]) -> type[ImportCheckpoint]:
    """The request with a flag for each file of the method's checkpoints; the first is needed."""
    files: dict[str, Any] = {}
    for name, what in (method.checkpoint.files if method.checkpoint else {}).items():
        files[name] = (Path, Field(description=what)) if not files else (Path | None, Field(None, description=what))
    methods = (str, Field(method.name, description="the method that the files are of"))
    return create_model(
        "ImportCheckpoint", __base__=ImportCheckpoint, __doc__=ImportCheckpoint.__doc__, method=methods, **files
    )


def run(request: ImportCheckpoint) -> int:
    method = METHODS[request.method]
    if method.checkpoint is None:
        raise CheckpointError(f"{method.name} has no checkpoints to import")
    order = request.order(
        recipe=request.recipe,
        method=request.method,
        data=request.data,
        models=request.models,
        version=request.version,
        score=request.score,
    )
    # The whole photo, as the network learned it: a region only masks.
    spec = InputSpec(height=request.size, width=request.size)
    tell_survey(order.require_usable(spec))
    given = {name: getattr(request, name) for name in method.checkpoint.files}
    files = {name: file for name, file in given.items() if file}
    network = method.checkpoint.load(files)
    # All of them: which ones the network was trained on is not known.
    held_out = HeldOut.of(good_images(request.data), spec)
    record = TrainingRecord(imported=[file.name for file in files.values()], calibrated_on_training_photos=True)
    tell(write_recipe(network, held_out, order, Training(record)))
    return 0
