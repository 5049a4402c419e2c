"""What is to be trained: what `train`, `queue`, `compare` and `reproduce` order."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service.bundle.folder import Bundle
from service.bundle.manifest import InputSpec, UnfitAttempt
from training.bundling.order import RecipeOrder
from training.data.folders import DataError, good_images
from training.data.line import Line
from training.data.recorded import ReviewedPart
from training.loop import memory
from training.loop.runs import RESULTS, TrainingError, claim_run, other_material, other_settings, put_aside
from training.methods import METHODS
from training.settings import RecipeSettings


@dataclass(frozen=True)
class LineJob:
    """Reviewed parts, what is learned from them, and the run that is continued with the version that it gave."""

    parts: Sequence[ReviewedPart]
    line: Line
    start: Path | None = None
    before: Bundle | None = None


@dataclass(frozen=True)
class TrainingJob:
    """What is trained, where its run lies, and what bundle it is to give; with `line` it learns from reviewed parts."""

    settings: RecipeSettings
    run: Path
    order: RecipeOrder
    textures: Path | None = None
    device: str = "auto"
    compiled: bool = False
    # Those before it that were unfit for service.
    after: tuple[UnfitAttempt, ...] = ()
    line: LineJob | None = None
    flag: str = "--run"  # names the folder of the run

    def claim(self) -> list[Path]:
        """The good photos, once the run's folder is this process's own; raises TrainingError where it is not, DataError
        where the method cannot learn what it is told to.
        """
        method = METHODS[self.order.method]
        if self.textures and not method.textures:
            raise DataError(f"{method.name} learns without textures: leave --textures out")
        if method.of_positions and self.settings.grid.count > 1:
            raise DataError(
                f"{method.name} learns what each position of the photo looks like, and a tile has none: leave --tiles "
                "out and take a larger --size, or another --method"
            )
        photos = good_images(self.order.data)
        self._require_memory(len(photos))
        claim_run(self.run, self._claimed(), photos, self.textures, flag=self.flag)
        return photos

    def _claimed(self) -> dict[str, Any]:
        crop = self.spec.crop
        claimed = METHODS[self.order.method].claimed(self.settings) | ({"crop": crop.model_dump()} if crop else {})
        return claimed | ({"line": sorted(self.line.line.learned)} if self.line else {})

    @property
    def bundle(self) -> Path:
        return self.order.models / self.order.recipe / str(self.order.version)

    def outdated(self) -> str | None:
        """Why the bundle that is there is not what this training would give; None where it is, or where there is none.

        TrainingError where it is of other photos or textures: what was made of those is not to be mixed with this.
        """
        if not self.bundle.exists():
            return None
        if not self.run.exists():
            return f"made by a training whose folder, {self.run}, is gone"
        if difference := other_material(self.run, good_images(self.order.data), self.textures):
            raise TrainingError(f"{self.bundle}: made with other {difference}: choose another {self.flag}")
        difference = other_settings(self.run, self._claimed())
        return f"made with other {difference}" if difference else None

    def made_before(self) -> bool:
        """Whether the bundle is there already; one that is outdated is kept aside, so that it can be made anew."""
        if why := self.outdated():
            print(f"{self.bundle}: {why}: kept in {put_aside(self.run, self.bundle)}", file=sys.stderr)
        return self.bundle.exists()

    @property
    def spec(self) -> InputSpec:
        """What the recipe will see of a photo."""
        return self.order.spec(self.settings.grid.height, self.settings.grid.width)

    def _require_memory(self, photos: int) -> None:
        method, grid = METHODS[self.order.method], self.settings.grid
        # Photos, and their tiles beside them.
        needed = 3 * photos * (grid.height * grid.width + grid.count * grid.size**2)
        if method.memory:
            needed += method.memory(self.settings, photos * grid.count)
        memory.require_memory(needed, f"{method.name} on {photos} photos with {self.resolution}")

    @property
    def resolution(self) -> str:
        return f"--size {self.settings.size} and --tiles {self.settings.tiles}"

    def finished(self) -> bool:
        return (self.run / RESULTS).exists()

    def again(self, unfit: UnfitAttempt) -> TrainingJob:
        """The same with the next seed, in a run's folder and under a version of its own."""
        after = (*self.after, unfit)
        seed = self.settings.seed + 1
        first = self.after[0].version if self.after else unfit.version
        version = self.order.version and f"{first}-seed{seed}"
        return replace(
            self,
            settings=replace(self.settings, seed=seed),
            order=replace(self.order, seed=seed, version=version),
            run=self.run / f"seed{seed}",
            after=after,
        )
