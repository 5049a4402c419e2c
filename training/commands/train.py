"""`python -m training train`: from photos of good parts to a bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field

from service.bundle.folder import Bundle
from training.commands.outcome import UNFIT
from training.commands.recipe_flags import PHOTOS, PlaceFlags, RecipeFlags, RetryFlags
from training.commands.settings import MethodFlags
from training.commands.training_job import TrainingJob, train_until_fit
from training.evaluation.evaluate import markdown
from training.evaluation.report import REPORT


class LearningFlags(MethodFlags, RecipeFlags):
    """What every command that trains recipes is told."""

    textures: Annotated[
        Path | None, Field(description="folder of texture images, e.g. DTD; procedural ones without it")
    ] = None
    device: Annotated[str, Field(description="auto (a GPU where there is one), cpu, cuda or cuda:N")] = "auto"
    compile: Annotated[bool, Field(description="run the network through torch.compile")] = False

    def job(
        self, data: Path, recipe: str, run: Path, models: Path, version: str | None, seed: int | None = None
    ) -> TrainingJob:
        """A training of `data` with these flags; `seed` in place of the settings' own."""
        settings = self.settings() if seed is None else self.settings(seed=seed)
        order = self.order(
            recipe=recipe,
            method=self.method,
            data=data,
            models=models,
            version=version,
            score=settings.score,
            seed=settings.seed,
        )
        return TrainingJob(settings, run, order, self.textures, self.device, self.compile)


class Train(LearningFlags, RetryFlags, PlaceFlags):
    """Train on good photos, export, calibrate, evaluate where labelled defects exist, write the bundle."""

    data: Annotated[Path, Field(description=PHOTOS)]
    recipe: Annotated[str | None, Field(description="name of the recipe; without it that of the folder")] = None
    run: Annotated[Path | None, Field(description="folder for checkpoint and losses; without it runs/RECIPE")] = None


def run(request: Train) -> int:
    recipe = request.recipe or request.data.resolve().name
    folder = request.run or Path("runs") / recipe
    job = request.job(request.data, recipe, folder, request.models, request.version)
    bundle = train_until_fit(job, request.retries)
    if bundle is None:
        return 0
    tell(bundle)
    return UNFIT if bundle.manifest.unfit else 0


def tell(bundle: Bundle) -> None:
    """Print where the bundle is, its thresholds and its figures."""
    manifest, thresholds = bundle.manifest, bundle.manifest.thresholds
    print(f"report {bundle.file(REPORT)}")
    print(f"bundle {bundle.path}: review {thresholds.review:.4f}, reject {thresholds.reject:.4f}")
    if thresholds.calibration.warning:
        print(f"warning: {thresholds.calibration.warning}")
    if manifest.metrics:
        print(markdown({manifest.recipe: manifest.metrics}))
    calibration = thresholds.calibration
    low, high = calibration.escape_interval
    print(
        f"rendered defects on held-out photos: {calibration.escapes} of {calibration.defect_images} pass as OK "
        f"(95 % interval {low:.0%} to {high:.0%})"
    )
    for before in manifest.training.after or []:
        print(f"version {before.version}, trained before with --seed {before.seed}, is unfit: {before.unfit}")
    if manifest.unfit:
        print(
            f"UNFIT: {manifest.unfit}. The service does not serve this version. Train again with more photos, another "
            "--seed or --method, or say --most-escapes",
            file=sys.stderr,
        )
