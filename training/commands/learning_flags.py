"""Flags of every command that trains recipes, and the training that they amount to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from training.commands.recipe_flags import RecipeFlags
from training.commands.settings import MethodFlags
from training.commands.training_job import TrainingJob


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
