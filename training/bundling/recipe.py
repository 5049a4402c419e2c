"""From a trained network to a recipe, in one straight line: graph, ONNX, scores, thresholds, figures, report, bundle.

What was trained, and how, is the caller's: an import trains nothing, and of several processes only the first gets here.
"""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn

from service.backends.base import score_images
from service.bundle.folder import Bundle, describe, write_bundle
from service.bundle.manifest import Manifest
from training.bundling.calibration import calibrate, why_unfit
from training.bundling.golden import GOLDEN_TOLERANCE, golden_choice, golden_files
from training.bundling.graph import KEEP, InspectionGraph, keep_file
from training.bundling.held_out import HeldOut, rendered_parts, simulate_defects
from training.bundling.onnx import OPSET, check_parity, opened, to_onnx
from training.bundling.order import RecipeOrder
from training.evaluation.evaluate import evaluate, score_with
from training.evaluation.parts import labelled_parts
from training.evaluation.report import REPORT, Training, render


def write_recipe(network: nn.Module, held_out: HeldOut, order: RecipeOrder, training: Training) -> Bundle:
    """Export, compare with torch, calibrate, evaluate through the exported graph, and write the bundle in one step.

    `network` takes RGB `(N, 3, H, W)` in [0, 1] to maps `(N, H, W)` in [0, 1].

    Raises ExportError where ONNX Runtime and torch disagree, BundleError where the version exists already.
    """
    spec = held_out.spec
    keep = order.keep(spec)
    rendered = simulate_defects(held_out.photos, order.seed)
    labelled = order.labelled()

    graph = InspectionGraph(network, keep, order.score).eval()
    model = to_onnx(graph, spec.height, spec.width)
    with opened(model, spec) as backend:
        defects = [one.picture for one in rendered]
        parity = check_parity(graph, backend, [*held_out.photos[:4], *defects[:4]])
        good_scored, defects_scored = score_images(backend, held_out.photos), score_images(backend, defects)
        tested = [score_with(backend, spec, image.path) for image in labelled]

    thresholds = calibrate(
        good_scored,
        defects_scored,
        false_reject_rate=order.false_reject_rate,
        trained_on=training.record.calibrated_on_training_photos,
        min_area=order.min_area,
        masks=[one.mask for one in rendered],
    )
    metrics = evaluate(labelled, tested, thresholds, spec.crop) if labelled else None
    version = order.version or datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    groups = [
        held_out.parts(good_scored, trained_on=training.record.calibrated_on_training_photos),
        rendered_parts(rendered, defects_scored),
        *labelled_parts(labelled, tested, spec),
    ]
    report = render(order.recipe, version, order.score, thresholds, groups, metrics, training)

    golden, files = golden_files(graph, golden_choice(held_out.photos, good_scored, defects, defects_scored))
    contents = {"model.onnx": model, **files, REPORT: report, **keep_file(keep)}
    manifest = Manifest(
        format_version=1,
        recipe=order.recipe,
        version=version,
        method=order.method,
        created=datetime.now(UTC),
        git_revision=_git_revision(),
        input=spec,
        score_formula=order.score,
        thresholds=thresholds,
        quality=held_out.limits(),
        models={"fp32": "model.onnx"},
        opset=OPSET,
        keep_mask=KEEP if KEEP in contents else None,
        golden=golden,
        tolerances={"fp32": GOLDEN_TOLERANCE},
        metrics=metrics,
        unfit=why_unfit(thresholds.calibration, order.most_escapes),
        training=training.record.model_copy(update={"export_parity": parity, "torch": torch.__version__}),
        files=describe(contents),
    )
    return write_bundle(order.models, order.signed(manifest), contents)


def _git_revision() -> str | None:
    """Revision of the code that trained; None outside of a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
