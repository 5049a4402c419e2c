"""The trainings of a job: one from photos to a bundle, and more of them while the recipe is unfit for service."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from service.bundle.folder import Bundle, write_bundle
from service.bundle.manifest import UnfitAttempt
from training.bundling.order import RecipeOrder
from training.commands.material import read_material
from training.commands.photos import tell_survey
from training.commands.trained import Trained, write_trained
from training.commands.training_job import TrainingJob
from training.loop import distributed, memory
from training.loop.runs import Run, disk_full_named
from training.methods import METHODS


def train(job: TrainingJob) -> Bundle | None:
    """Train, calibrate, evaluate and write the bundle; of several processes only the first does the rest and has it."""
    method, settings = METHODS[job.order.method], job.settings
    # What is missing should be known before photos are read.
    pretrained = method.pretrained(settings) if method.pretrained else None
    with distributed.joined(job.device) as device:
        leads = distributed.rank() == 0
        if leads:
            tell_survey(job.order.require_usable(job.spec))
            job.claim()
        distributed.wait()
        memory.keep_freed_memory()
        material = read_material(job)
        run = Run(job.run, job.compiled, start=job.line.start if job.line else None)
        started = time.monotonic()
        with memory.shortage_named(f"training with {job.resolution}"):
            network = settings.grid.over(method.fit(settings, material.given, run, device)).cpu()
        trained = Trained(network, device, time.monotonic() - started, distributed.world(), pretrained)
    return write_trained(trained, material, job) if leads else None


def train_until_fit(job: TrainingJob, retries: int) -> Bundle | None:
    """Train; where the recipe is unfit for service, train up to `retries` times more, each with the next seed.

    One seed may fail where the next does not. The bundle that lets the smallest share of rendered defects pass; it is
    the newest. Several processes train once: only the first of them would know of a second training.
    """
    best = bundle = train(job)
    for left in range(retries, 0, -1):
        if bundle is None or (bundle.manifest.training.processes or 1) > 1 or not bundle.manifest.unfit:
            break
        unfit = _attempt(job, bundle)
        job = job.again(unfit)
        print(
            f"{bundle.path} is unfit for service: {unfit.unfit}; it is trained again with --seed "
            f"{job.settings.seed} in {job.run} ({left} of {retries} left)",
            file=sys.stderr,
        )
        bundle = train(job)
        best = min((one for one in (bundle, best) if one is not None), key=_share_that_passes)
    if best is None or bundle is None or best.path == bundle.path:
        return best
    with disk_full_named(job.order.models / job.order.recipe):
        return _written_last(best, [*job.after, _attempt(job, bundle)], job.order)


def _attempt(job: TrainingJob, bundle: Bundle) -> UnfitAttempt:
    return UnfitAttempt(version=bundle.manifest.version, seed=job.settings.seed, unfit=str(bundle.manifest.unfit))


def _written_last(best: Bundle, trained: Sequence[UnfitAttempt], order: RecipeOrder) -> Bundle:
    """`best` once more, newer than all that were `trained`: where unfit versions may serve, the newest serves first."""
    manifest = best.manifest.model_copy(
        update={
            "version": f"{trained[0].version}-best",
            "created": datetime.now(UTC),
            "training": best.manifest.training.model_copy(update={"after": list(trained)}),
        }
    )
    contents = {name: best.read(name) for name in manifest.files}
    written = write_bundle(order.models, order.signed(manifest), contents)
    print(
        f"none is fit: {best.path}, which lets the fewest rendered defects pass, is written again as {written.path}",
        file=sys.stderr,
    )
    return written


def _share_that_passes(bundle: Bundle) -> float:
    calibration = bundle.manifest.thresholds.calibration
    return calibration.escapes / max(1, calibration.defect_images)
