"""`python -m training`: train, evaluate and import recipes from the command line."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

import httpx2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from tqdm import tqdm

from service.backends import Backend, BackendError, open_backend
from service.bundle import Bundle, BundleError, Thresholds, read_bundle
from service.images import ImageError, Pixels, read, resize
from service.quality import Quality, measure
from training.ablations import ABLATIONS, Plan, run_ablations
from training.anomalies import AnomalySimulator, SimulatorConfig
from training.config import PRESETS, TrainConfig, preset
from training.data import DataError, good_images, labelled_images, load_images, split
from training.demo_parts import write_dataset
from training.evaluate import EvaluationError, backend_scorer, evaluate, http_scorer, markdown
from training.export import REPORT, ExportError, HeldOut, Scored, export_bundle
from training.networks import Draem
from training.official import CheckpointError, load_official
from training.regions import RegionError, keep_mask
from training.report import Parts, Training, labelled_parts, render
from training.reproduce import PAPER, find_categories, tabulate
from training.results import ResultsError, Row, run_queue
from training.simulated_defects import KINDS, ImpossibleDefectError, apply, foreground_mask
from training.textures import load_textures
from training.trainer import STATS, TrainingError, claim_run, keep_freed_memory, train, training_minutes

_ERRORS = (
    BackendError,
    BundleError,
    CheckpointError,
    DataError,
    EvaluationError,
    ExportError,
    ImageError,
    RegionError,
    ResultsError,
    TrainingError,
)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
    except (*_ERRORS, OSError, ValueError, httpx2.HTTPError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def train_command(options: argparse.Namespace) -> None:
    """Train on good photos, export, calibrate, evaluate where labelled defects exist, write the bundle."""
    run: Path = options.run or Path("runs") / options.recipe
    config = _config(options)
    photos = good_images(options.data)
    claim_run(run, config, photos)
    keep_freed_memory()
    trained_on, held_out = split(photos, config.holdout, config.seed)
    good = load_images(trained_on, config.size, "good photos")
    textures = load_textures(options.textures, config.size, limit=config.max_textures, seed=config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = train(config, good, textures, run, device=device).cpu()
    record: dict[str, JsonValue] = {
        "config": asdict(config),
        "good_photos": len(trained_on),
        "textures": len(textures) if options.textures else "procedural",
        "device": str(device),
        "threads": torch.get_num_threads(),
        "minutes": round(training_minutes(run), 2),
    }
    simulator = AnomalySimulator(good, textures, config.simulator, torch.Generator().manual_seed(config.seed))
    material = Training(
        record, [json.loads(line) for line in (run / STATS).read_text().splitlines()], simulator.batch(8)
    )
    bundle = _finish(options, network, held_out, config.size, config.seed, material)
    _write_results(run, bundle)


def import_command(options: argparse.Namespace) -> None:
    """Make a bundle from the authors' two checkpoint files; good photos are needed to calibrate the thresholds."""
    network = load_official(options.reconstructive, options.discriminative)
    record: dict[str, JsonValue] = {
        "imported": [options.reconstructive.name, options.discriminative.name],
        "calibrated_on_training_photos": True,
    }
    _finish(options, network, good_images(options.data), options.size, 0, Training(record))


def evaluate_command(options: argparse.Namespace) -> None:
    """Score the labelled test split with a bundle, in process or through a running service."""
    bundle = read_bundle(options.bundle)
    images = labelled_images(options.data)
    thresholds = bundle.manifest.thresholds
    if options.url:
        with httpx2.Client(base_url=options.url, timeout=60) as client:
            results = evaluate(images, http_scorer(client, bundle.manifest.recipe), thresholds)
        results["through"] = "http"
    else:
        backend = open_backend(bundle, "auto", threads=os.cpu_count() or 1)
        results = evaluate(images, backend_scorer(backend, bundle.manifest.input.height), thresholds)
        results["through"] = f"{backend.name} {backend.precision}"
        backend.close()
    print(markdown({bundle.manifest.recipe: results}))
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


def ablate_command(options: argparse.Namespace) -> None:
    """Train and score the rows of the paper's ablation table; stop it when you like, the same command goes on."""
    plan = Plan(
        preset=replace(preset(options.preset), **_changes(TrainConfig, options)),
        data=options.data,
        textures=options.textures,
        other_textures=options.imagenet,
        names=options.only or list(ABLATIONS),
        seeds=options.seeds,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(run_ablations(plan, options.out, device))


def reproduce_command(options: argparse.Namespace) -> None:
    """Train every category of the paper's tables that is there and put the figures beside the paper's."""
    settings = {**_changes(TrainConfig, options), **_changes(SimulatorConfig, options)}
    work: Path = options.out.with_suffix(".runs")

    def run(category: str, seed: int) -> Row:
        version = f"{options.preset}-{seed}"
        bundle = work / "models" / category / version
        if not bundle.exists():
            train_options = _parser().parse_args(
                ["train", "--data", str(options.data / category), "--recipe", category]
            )
            chosen = {"textures": options.textures, "preset": options.preset, "seed": seed, **settings}
            places = {"models": work / "models", "run": work / category / str(seed), "version": version}
            train_command(argparse.Namespace(**{**vars(train_options), **chosen, **places}))
        manifest = read_bundle(bundle).manifest
        return {**(manifest.metrics or {}), "minutes": manifest.training["minutes"]}

    categories = find_categories(options.dataset, options.data, options.categories)
    jobs = {f"{category}/{seed}": partial(run, category, seed) for seed in options.seeds for category in categories}
    textures = options.textures.resolve().name if options.textures else "procedural"
    kept: Row = {"preset": options.preset, "changes": settings, "textures": textures}
    print(run_queue(jobs, options.out, kept, partial(tabulate, options.dataset)))


def demo_data_command(options: argparse.Namespace) -> None:
    """Render the demo part: good photos and defects in MVTec layout."""
    write_dataset(options.folder, good=160, test_good=30, defects_per_kind=8, seed=options.seed)


def measure_quality(paths: list[Path], size: int) -> list[Quality]:
    """Picture quality of good photos as the service will see them, before any resize."""
    qualities = []
    for path in tqdm(paths, desc="picture quality", unit="img", leave=False):
        photo = read(path)
        qualities.append(measure(photo, resize(photo, size, size)))
    return qualities


def simulate_defects(photos: list[Pixels], seed: int) -> list[Pixels]:
    """One rendered defect of every kind on each of up to 20 photos: none of them made by the training simulator.

    On the part, where it can be told from the background. A kind that cannot be seen on a photo is left out.
    """
    rng = np.random.default_rng(seed)
    part = foreground_mask(photos)
    defects = []
    for photo in photos[:20]:
        for kind in KINDS:
            with suppress(ImpossibleDefectError):
                defects.append(apply(photo, kind, rng, None if kind == "border" else part)[0])
    return defects


def _finish(
    options: argparse.Namespace, network: Draem, held_out: list[Path], size: int, seed: int, training: Training
) -> Bundle:
    version = options.version or datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    photos = [resize(read(path), size, size) for path in held_out]
    rendered = simulate_defects(photos, seed)
    labelled = labelled_images(options.data) if (options.data / "test").is_dir() else []
    tested: dict[Path, tuple[NDArray[np.float32], float]] = {}

    def evaluate_exported(backend: Backend, thresholds: Thresholds) -> dict[str, JsonValue]:
        score = backend_scorer(backend, size)

        def remember(path: Path) -> tuple[NDArray[np.float32], float]:
            return tested.setdefault(path, score(path))

        return evaluate(labelled, remember, thresholds)

    def report(good: Scored, defects: Scored, thresholds: Thresholds, metrics: dict[str, JsonValue] | None) -> bytes:
        names = [f"rendered {i + 1}" for i in range(len(rendered))]
        groups = [
            Parts(
                "held-out good photos", False, [p.name for p in held_out], good.scores, good.maps, photos.__getitem__
            ),
            Parts("rendered defects", True, names, defects.scores, defects.maps, rendered.__getitem__),
        ]
        groups += labelled_parts(labelled, tested, size)
        return render(options.recipe, version, thresholds, groups, metrics, training)

    bundle = export_bundle(
        network,
        HeldOut(photos, rendered, measure_quality(good_images(options.data), size)),
        recipe=options.recipe,
        version=version,
        models=options.models,
        training=training.record,
        false_reject_rate=options.false_reject_rate,
        min_area=options.min_area,
        keep=keep_mask(options.region, options.ignore, size),
        signing_key=options.sign,
        evaluate=evaluate_exported if labelled else None,
        report=report,
    )
    thresholds = bundle.manifest.thresholds
    print(f"report {bundle.file(REPORT)}")
    print(f"bundle {bundle.path}: review {thresholds.review:.4f}, reject {thresholds.reject:.4f}")
    if thresholds.calibration.warning:
        print(f"warning: {thresholds.calibration.warning}")
    if bundle.manifest.metrics:
        print(markdown({options.recipe: bundle.manifest.metrics}))
    return bundle


def _write_results(run: Path, bundle: Bundle) -> None:
    manifest = bundle.manifest
    (run / "results.json").write_text(manifest.model_dump_json(indent=2, exclude={"files"}) + "\n")
    shutil.copyfile(bundle.file(REPORT), run / REPORT)
    if manifest.metrics:
        (run / "results.md").write_text(markdown({manifest.recipe: manifest.metrics}) + "\n")


def _config(options: argparse.Namespace) -> TrainConfig:
    config = replace(preset(options.preset), **_changes(TrainConfig, options))
    return replace(config, simulator=replace(config.simulator, **_changes(SimulatorConfig, options)))


def _changes(cls: type[TrainConfig] | type[SimulatorConfig], options: argparse.Namespace) -> dict[str, Any]:
    values = {f.name: getattr(options, f.name, None) for f in fields(cls) if f.name not in _NO_FLAGS}
    return {name: value for name, value in values.items() if value is not None}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True)

    command = _command(commands, "train", train_command)
    _bundle_flags(command)
    command.add_argument("--textures", type=Path, help="folder of texture images, e.g. DTD; procedural without it")
    command.add_argument("--run", type=Path, help="folder for checkpoint and statistics; default runs/RECIPE")
    command.add_argument("--preset", choices=PRESETS, default="edge")
    _setting_flags(command, TrainConfig, SimulatorConfig)

    command = _command(commands, "import-checkpoint", import_command)
    _bundle_flags(command)
    command.add_argument("--reconstructive", type=Path, required=True, help="the authors' *.pckl")
    command.add_argument("--discriminative", type=Path, required=True, help="the authors' *_seg.pckl")
    command.add_argument("--size", type=int, default=256)

    command = _command(commands, "evaluate", evaluate_command)
    command.add_argument("--bundle", type=Path, required=True, help="models/RECIPE/VERSION")
    command.add_argument("--data", type=Path, required=True, help="folder in MVTec layout")
    command.add_argument("--url", help="score through the service at this address instead of in this process")
    command.add_argument("--out", type=Path, help="write the figures to this JSON file")

    command = _command(commands, "ablate", ablate_command)
    command.add_argument("--data", type=Path, action="append", required=True, help="folder in MVTec layout; repeatable")
    command.add_argument("--textures", type=Path, help="folder of texture images, e.g. DTD; procedural without it")
    command.add_argument("--imagenet", type=Path, help="folder of ordinary photos: textures of the row of that name")
    command.add_argument("--only", nargs="+", choices=ABLATIONS, help="these rows; default all", metavar="ROW")
    command.add_argument("--preset", choices=PRESETS, default="quick", help="networks and schedule")
    command.add_argument("--seed", type=int, nargs="+", default=[0], dest="seeds", help="one run each; default 0")
    command.add_argument("--out", type=Path, required=True, help="JSON file of the rows; table and runs go beside it")
    _setting_flags(command, TrainConfig, without={"seed", "networks", "distance", "max_textures"})

    command = _command(commands, "reproduce", reproduce_command)
    command.add_argument("--dataset", choices=PAPER, required=True)
    command.add_argument("--data", type=Path, required=True, help="folder with one folder a category, in MVTec layout")
    command.add_argument("--textures", type=Path, help="folder of texture images, e.g. DTD; procedural without it")
    command.add_argument("--categories", nargs="+", help="these only; default all that are there", metavar="CATEGORY")
    command.add_argument("--preset", choices=PRESETS, default="paper")
    command.add_argument("--seed", type=int, nargs="+", default=[0], dest="seeds", help="one run each; default 0")
    command.add_argument("--out", type=Path, required=True, help="JSON file of the rows; all else goes beside it")
    _setting_flags(command, TrainConfig, SimulatorConfig, without={"seed"})

    command = _command(commands, "demo-data", demo_data_command)
    command.add_argument("folder", type=Path)
    command.add_argument("--seed", type=int, default=0)
    return parser


def _command(commands: Any, name: str, function: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
    command.set_defaults(command=function)
    return command


def _bundle_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, required=True, help="good photos, or a folder in MVTec layout")
    command.add_argument("--recipe", required=True, help="name of the recipe")
    command.add_argument("--version", help="version of the bundle; default the time")
    command.add_argument("--models", type=Path, default=Path("models"), help="where bundles go")
    command.add_argument("--region", type=Path, help="where anomalies count: PNG (white) or JSON polygons")
    command.add_argument("--ignore", type=Path, help="where anomalies do not count: PNG (white) or JSON polygons")
    command.add_argument(
        "--min-area", type=int, default=0, help="smallest region that is reported, in pixels of --size"
    )
    command.add_argument("--sign", type=Path, help="PEM file of an Ed25519 private key to sign the bundle with")
    command.add_argument("--false-reject-rate", type=float, default=0.01)


_NO_FLAGS = {"preset", "simulator"}


def _setting_flags(
    command: argparse.ArgumentParser,
    *classes: type[TrainConfig] | type[SimulatorConfig],
    without: Collection[str] = (),
) -> None:
    settings = command.add_argument_group("settings that differ from the preset")
    for cls in classes:
        kinds = get_type_hints(cls)
        for f in fields(cls):
            if f.name not in {*_NO_FLAGS, *without}:
                kind, choices = kinds[f.name], get_args(kinds[f.name]) or None
                flag = str if choices else _boolean if kind is bool else kind
                metavar = None if choices else "X"
                settings.add_argument(f"--{f.name.replace('_', '-')}", type=flag, choices=choices, metavar=metavar)


def _boolean(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


if __name__ == "__main__":
    sys.exit(main())
