"""One training, from the photos' folder to the bundle: what `train`, `queue` and `reproduce` do."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from service.bundle.folder import Bundle
from service.bundle.manifest import InputSpec, PeakMemory, TrainingRecord, UnfitAttempt
from training.bundling.continued import with_comparison
from training.bundling.held_out import HeldOut
from training.bundling.order import RecipeOrder
from training.bundling.recipe import write_recipe
from training.bundling.results import write_results
from training.commands.photos import (
    read_photos,
    tell_survey,
    warn_of_darkness,
    warn_of_few,
    warn_of_outlying,
    warn_of_unusual,
)
from training.data.folders import DataError, good_images
from training.data.line import Line, read_defects
from training.data.recorded import ReviewedPart
from training.evaluation.report import Training
from training.loop import distributed, memory
from training.loop.runs import (
    CHECKPOINT,
    RESULTS,
    Run,
    claim_run,
    disk_full_named,
    losses_of,
    peak_memory,
    training_minutes,
)
from training.methods import METHODS
from training.methods.protocol import TrainingSet
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
        crop = self.spec.crop
        claimed = method.claimed(self.settings) | ({"crop": crop.model_dump()} if crop else {})
        claimed |= {"line": sorted(self.line.line.learned)} if self.line else {}
        claim_run(self.run, claimed, photos, self.textures)
        return photos

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


def train_until_fit(job: TrainingJob, retries: int) -> Bundle | None:
    """Train; where the recipe is unfit for service, train up to `retries` times more, each with the next seed.

    One seed may fail where the next does not. The bundle that lets the smallest share of rendered defects pass. Several
    processes train once: only the first of them would know of a second training.
    """
    best = bundle = train(job)
    for left in range(retries, 0, -1):
        if bundle is None or (bundle.manifest.training.processes or 1) > 1 or not (why := bundle.manifest.unfit):
            break
        unfit = UnfitAttempt(version=bundle.manifest.version, seed=job.settings.seed, unfit=why)
        job = job.again(unfit)
        print(
            f"{bundle.path} is unfit for service: {unfit.unfit}; it is trained again with --seed "
            f"{job.settings.seed} in {job.run} ({left} of {retries} left)",
            file=sys.stderr,
        )
        bundle = train(job)
        best = min((one for one in (bundle, best) if one is not None), key=_share_that_passes)
    return best


def _share_that_passes(bundle: Bundle) -> float:
    calibration = bundle.manifest.thresholds.calibration
    return calibration.escapes / max(1, calibration.defect_images)


def train(job: TrainingJob) -> Bundle | None:
    """Train, calibrate, evaluate and write the bundle; of several processes only the first does the rest and has it."""
    method, settings, grid, spec = METHODS[job.order.method], job.settings, job.settings.grid, job.spec
    # What is missing should be known before photos are read.
    pretrained = method.pretrained(settings) if method.pretrained else None
    with distributed.joined(job.device) as device:
        leads = distributed.rank() == 0
        if leads:
            tell_survey(job.order.require_usable(spec))
            job.claim()
        distributed.wait()
        memory.keep_freed_memory()
        photos = read_photos(good_images(job.order.data), settings, spec)
        suspects = None
        if leads:
            warn_of_few(len(photos.held_out_files), job.order.false_reject_rate)
            warn_of_darkness(photos.trained_on, job.order.data)
            suspects = warn_of_unusual((photos.trained_on, photos.held_out), photos.files)
        textures = method.textures(settings, job.textures) if method.textures else None
        defects = None
        if job.line and method.learns_defects:
            defects = read_defects(job.line.line.defects, spec, grid)
        data = TrainingSet(grid.cut(photos.trained_on), textures, *(defects or ()))
        run = Run(job.run, job.compiled, start=job.line.start if job.line else None)
        started = time.monotonic()
        with memory.shortage_named(f"training with {job.resolution}"):
            network = grid.over(method.fit(settings, data, run, device)).cpu()
        seconds, processes = time.monotonic() - started, distributed.world()
    if not leads:
        return None
    looped = (job.run / CHECKPOINT).exists()
    peak = peak_memory(job.run) if looped else memory.PeakMemory().or_more(device)
    record = TrainingRecord(
        config=asdict(settings),
        good_photos=len(photos.trained_on_files),
        photos_sha256=photos.sha256,
        textures=None if textures is None else len(textures) if job.textures else "procedural",
        pretrained=pretrained,
        device=str(device),
        processes=processes,
        threads=torch.get_num_threads(),
        minutes=round(training_minutes(job.run) if looped else seconds / 60, 2),
        peak_memory_mib=PeakMemory(**asdict(peak)),
        unusual_photos=suspects,
        outlying_scores=warn_of_outlying(network, photos, job.order),
        after=list(job.after) or None,
        line_parts=job.line.line.learned if job.line else None,
    )
    samples = method.samples(settings, data) if method.samples else None
    with disk_full_named(job.order.models / job.order.recipe):
        shown = Training(record, losses_of(job.run), samples)
        bundle = _write(network, photos.for_thresholds(), job, shown)
    with disk_full_named(job.run / RESULTS):
        write_results(job.run, bundle)
    return bundle


def _write(network: nn.Module, held_out: HeldOut, job: TrainingJob, shown: Training) -> Bundle:
    """The bundle; beside the version that it continues, where there is one, it is to be seen with the comparison."""
    if job.line is None or job.line.before is None:
        return write_recipe(network, held_out, job.order, shown)
    with TemporaryDirectory() as folder:
        unseen = replace(job.order, models=Path(folder), signing_key=None)
        made = write_recipe(network, held_out, unseen, shown)
        return with_comparison(made, job.line.before, job.line.parts, job.line.line.learned, job.order)
