"""`python -m training reproduce`: the paper's tables beside what this code gives."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from service.bundle.folder import read_bundle
from training.commands.train import LearningFlags, tell
from training.commands.training_job import train
from training.experiments.reproduce import PAPER, find_categories, tabulate
from training.experiments.results import Row, run_queue


class Reproduce(LearningFlags):
    """Train every category of the paper's tables that is there and put the figures beside the paper's."""

    dataset: Annotated[Literal[tuple(PAPER)], Field(description="the paper's table")]  # type: ignore[valid-type]
    data: Annotated[Path, Field(description="folder with one folder a category, in MVTec layout")]
    categories: Annotated[tuple[str, ...], Field(description="these only; without it all that are there")] = ()
    seed: Annotated[tuple[int, ...], Field(min_length=1, description="one run each")] = (0,)
    out: Annotated[Path, Field(description="JSON file of the rows; all else goes beside it")]


def run(request: Reproduce) -> int:
    work: Path = request.out.with_suffix(".runs")

    def row(category: str, seed: int) -> Row:
        models, version = work / "models", f"{request.preset}-{seed}"
        bundle = models / category / version
        if not bundle.exists():
            folder = work / category / str(seed)
            made = train(request.job(request.data / category, category, folder, models, version, seed))
            if made:
                tell(made)
        manifest = read_bundle(bundle).manifest
        return {**(manifest.metrics or {}), "minutes": manifest.training.minutes}

    categories = find_categories(request.dataset, request.data, request.categories)
    jobs = {f"{category}/{seed}": partial(row, category, seed) for seed in request.seed for category in categories}
    textures = request.textures.resolve().name if request.textures else "procedural"
    changes = {name: value for name, value in request.changes().items() if name != "seed"}
    kept: Row = {"preset": request.preset, "changes": changes, "textures": textures}
    print(run_queue(jobs, request.out, kept, partial(tabulate, request.dataset)))
    return 0
