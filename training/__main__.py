"""`python -m training`: train, evaluate and import recipes from the command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor
from tqdm import tqdm

from service.backends import Backend, BackendError, open_backend
from service.bundle import Bundle, BundleError, Thresholds, read_bundle
from service.engines import build_engine, engine_path, gpus, open_library
from service.images import ImageError, Pixels, read, resize
from service.quality import Quality, measure
from training import distributed
from training.anomalies import SimulatorConfig
from training.config import PRESETS, TrainConfig, load_config, preset, save_config
from training.contamination import outlying_scores, unusual_photos
from training.data import DataError, good_images, labelled_images, load_images
from training.demo_parts import write_dataset
from training.distributed import DeviceError
from training.evaluate import EvaluationError, backend_scorer, evaluate, http_scorer, markdown
from training.export import ExportError, HeldOut, InspectionGraph, export_bundle, score_with_torch
from training.networks import Draem
from training.official import CheckpointError, load_official
from training.queue import INTERRUPTED, QueueError, QueueStoppedError, work_through
from training.regions import RegionError, keep_mask
from training.simulated_defects import KINDS, ImpossibleDefectError, apply, foreground_mask
from training.textures import load_textures
from training.trainer import (
    CHECKPOINT,
    InterruptedRunError,
    TrainingError,
    disk_full_named,
    keep_freed_memory,
    peak_memory,
    train,
    training_minutes,
)

RESULTS = "results.json"
_DATA = "good photos, or a folder in MVTec layout"
_ERRORS = (
    BackendError,
    BundleError,
    CheckpointError,
    DataError,
    DeviceError,
    EvaluationError,
    ExportError,
    ImageError,
    QueueError,
    RegionError,
    TrainingError,
)


def main(arguments: list[str] | None = None) -> int:
    return _run(_parser().parse_args(arguments))


def _run(options: argparse.Namespace) -> int:
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
    except (InterruptedRunError, QueueStoppedError) as error:
        print(error, file=sys.stderr)
        return INTERRUPTED
    except (*_ERRORS, OSError, ValueError, httpx2.HTTPError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def train_command(options: argparse.Namespace) -> None:
    """Train on good photos, export, calibrate, evaluate where labelled defects exist, write the bundle."""
    run: Path = options.run or Path("runs") / options.recipe
    config = _config(options)
    photos = good_images(options.data)
    with distributed.joined(options.device) as device:
        leads = distributed.rank() == 0
        if leads:
            _claim_run(run, config, photos)
        distributed.wait()
        keep_freed_memory()
        trained_on, held_out = split(photos, config.holdout, config.seed)
        good = load_images(trained_on, config.size, "good photos")
        # Before hours of training, not after: may the rest be read, and are the photos good?
        held_out_photos = load_images(held_out, config.size, "held-out photos")
        if (options.data / "test").is_dir():
            labelled_images(options.data)
        suspects = _suspects(torch.cat((good, held_out_photos)), [*trained_on, *held_out]) if leads else []
        textures = load_textures(options.textures, config.size, limit=config.max_textures, seed=config.seed)
        network = train(config, good, textures, run, device=device, compiled=options.compile).cpu()
        processes = distributed.world()
    if not leads:
        return
    graph = InspectionGraph(network, keep_mask(options.region, options.ignore, config.size)).eval()
    all_photos = _pixels(torch.cat((good, held_out_photos)))
    outlying = _outlying(score_with_torch(graph, all_photos).scores, [*trained_on, *held_out])
    record: dict[str, JsonValue] = {
        "config": asdict(config),
        "good_photos": len(trained_on),
        "textures": len(textures) if options.textures else "procedural",
        "device": str(device),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "minutes": round(training_minutes(run), 2),
        "peak_memory_mib": asdict(peak_memory(run)),
        "unusual_photos": suspects,
        "outlying_scores": outlying,
    }
    with disk_full_named(options.models / options.recipe):
        bundle = _finish(options, network, _pixels(held_out_photos), config.seed, record)
    with disk_full_named(run / RESULTS):
        _write_results(run, bundle)


def queue_command(options: argparse.Namespace) -> None:
    """Train one recipe for each folder, named like it, one after the other; what is finished is not trained again."""
    # A spawned process finds functions of training.__main__, but not of the __main__ that `python -m` makes of it.
    from training.__main__ import _train_in_queue as train_in_queue

    jobs: dict[str, Callable[[], int]] = {}
    for folder in options.data:
        recipe = folder.resolve().name
        if recipe in jobs:
            raise QueueError(f"{folder}: a second folder named {recipe}: recipes take their names from the folders")
        settings = {**vars(options), "data": folder, "recipe": recipe, "command": None}
        jobs[recipe] = partial(train_in_queue, argparse.Namespace(**settings))
    work_through(jobs)


def _train_in_queue(options: argparse.Namespace) -> int:
    options.command = _train_unless_finished
    status = _run(options)
    if status == 1:
        print(f"{options.recipe}: failed", file=sys.stderr)
    return status


def _train_unless_finished(options: argparse.Namespace) -> None:
    run = Path("runs") / options.recipe if options.runs is None else options.runs / options.recipe
    options.run = run
    if (run / RESULTS).exists():
        _claim_run(run, _config(options), good_images(options.data))
        print(f"{options.recipe}: finished before, see {run / RESULTS}")
        return
    train_command(options)


def _suspects(photos: Tensor, paths: list[Path]) -> list[JsonValue]:
    """Warn of photos unlike the others, before anything is trained on them; what the manifest keeps of it."""
    found = unusual_photos(photos)
    size = photos.shape[-1]
    for one in found:
        print(
            f"warning: look at {paths[one.index]}: {one.deviations:.1f} deviations from the other good photos, most at "
            f"x {one.x * size:.0f}, y {one.y * size:.0f} of {size}; train without it if it shows a defect",
            file=sys.stderr,
        )
    return [
        {"photo": paths[one.index].name, "deviations": round(one.deviations, 1), "x": one.x, "y": one.y}
        for one in found
    ]


def _outlying(scores: NDArray[np.float32], paths: list[Path]) -> list[JsonValue]:
    """Warn of good photos that the trained network scores far above the others."""
    found = outlying_scores(scores)
    for i in found:
        print(
            f"warning: look at {paths[i]}: it scores {scores[i]:.3f}, the other good photos about "
            f"{np.median(scores):.3f}; train again without it if it shows a defect",
            file=sys.stderr,
        )
    return [{"photo": paths[i].name, "score": round(float(scores[i]), 4)} for i in found]


def import_command(options: argparse.Namespace) -> None:
    """Make a bundle from the authors' two checkpoint files; good photos are needed to calibrate the thresholds."""
    network = load_official(options.reconstructive, options.discriminative)
    photos = _read_all(good_images(options.data), options.size)
    record: dict[str, JsonValue] = {
        "imported": [options.reconstructive.name, options.discriminative.name],
        "calibrated_on_training_photos": True,
    }
    _finish(options, network, photos, 0, record)


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


def export_command(options: argparse.Namespace) -> None:
    """Make from a bundle what another runtime needs: TensorRT engines, beside the bundle's ONNX in a cache."""
    if not options.tensorrt:
        raise ExportError("nothing to export to: add --tensorrt")
    bundle = read_bundle(options.bundle)
    library = open_library()
    for gpu in gpus(options.compute_capability, library):
        for precision in options.precision or bundle.manifest.models:
            record = build_engine(
                bundle, precision, max_batch=options.max_batch, cache=options.cache, gpu=gpu, library=library
            )
            print(f"{engine_path(options.cache, record.key)}: {record.bytes} bytes in {record.build_s} s")


def demo_data_command(options: argparse.Namespace) -> None:
    """Render the demo part: good photos and defects in MVTec layout."""
    write_dataset(options.folder, good=160, test_good=30, defects_per_kind=8, seed=options.seed)


def _claim_run(run: Path, config: TrainConfig, photos: list[Path]) -> None:
    """Begin a run in folder `run`, or go on with one of the same settings and photos; else TrainingError."""
    listing = "".join(f"{photo.name} {photo.stat().st_size}\n" for photo in photos)
    run.mkdir(parents=True, exist_ok=True)
    if not (run / CHECKPOINT).exists():
        with disk_full_named(run / "config.json"):
            (run / "photos.txt").write_text(listing)
            save_config(config, run / "config.json")
        return
    for what, same in (
        ("settings", load_config(run / "config.json") == config),
        ("photos", (run / "photos.txt").read_text() == listing),
    ):
        if not same:
            raise TrainingError(f"{run}: holds a run with other {what}: remove it or choose another --run")


def split(paths: list[Path], share: float, seed: int) -> tuple[list[Path], list[Path]]:
    """Photos to train on and photos to hold out, drawn by `seed`; both sorted, neither empty."""
    if len(paths) < 4:
        raise DataError(f"{paths[0].parent}: {len(paths)} good photos are too few: take at least 4, better 100")
    count = max(2, round(share * len(paths)))
    order = np.random.default_rng(seed).permutation(len(paths))
    held_out = set(order[:count].tolist())
    return (
        [path for i, path in enumerate(paths) if i not in held_out],
        [path for i, path in enumerate(paths) if i in held_out],
    )


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
    options: argparse.Namespace, network: Draem, photos: list[Pixels], seed: int, record: dict[str, JsonValue]
) -> Bundle:
    size = photos[0].shape[0]
    labelled = labelled_images(options.data) if (options.data / "test").is_dir() else None

    def evaluate_exported(backend: Backend, thresholds: Thresholds) -> dict[str, JsonValue]:
        return evaluate(labelled, backend_scorer(backend, size), thresholds) if labelled else {}

    bundle = export_bundle(
        network,
        HeldOut(photos, simulate_defects(photos, seed), measure_quality(good_images(options.data), size)),
        recipe=options.recipe,
        version=options.version or datetime.now(UTC).strftime("%Y%m%d-%H%M%S"),
        models=options.models,
        training=record,
        false_reject_rate=options.false_reject_rate,
        min_area=options.min_area,
        keep=keep_mask(options.region, options.ignore, size),
        signing_key=options.sign,
        evaluate=evaluate_exported if labelled else None,
    )
    thresholds = bundle.manifest.thresholds
    print(f"bundle {bundle.path}: review {thresholds.review:.4f}, reject {thresholds.reject:.4f}")
    if thresholds.calibration.warning:
        print(f"warning: {thresholds.calibration.warning}")
    if bundle.manifest.metrics:
        print(markdown({options.recipe: bundle.manifest.metrics}))
    return bundle


def _write_results(run: Path, bundle: Bundle) -> None:
    manifest = bundle.manifest
    (run / RESULTS).write_text(manifest.model_dump_json(indent=2, exclude={"files"}) + "\n")
    if manifest.metrics:
        (run / "results.md").write_text(markdown({manifest.recipe: manifest.metrics}) + "\n")


def _pixels(photos: Tensor) -> list[Pixels]:
    return list(np.ascontiguousarray(photos.permute(0, 2, 3, 1).numpy()))


def _read_all(paths: list[Path], size: int) -> list[Pixels]:
    return [resize(read(path), size, size) for path in paths]


def _config(options: argparse.Namespace) -> TrainConfig:
    config = preset(options.preset)
    changes = {f.name: value for f in fields(config) if (value := getattr(options, f.name, None)) is not None}
    simulator = {
        f.name: value for f in fields(config.simulator) if (value := getattr(options, f.name, None)) is not None
    }
    return replace(config, **{**changes, "simulator": replace(config.simulator, **simulator)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True)

    command = _command(commands, "train", train_command)
    command.add_argument("--data", type=Path, required=True, help=_DATA)
    command.add_argument("--recipe", required=True, help="name of the recipe")
    command.add_argument("--run", type=Path, help="folder for checkpoint and statistics; default runs/RECIPE")
    _training_flags(command)
    _bundle_flags(command)

    command = _command(commands, "queue", queue_command)
    command.add_argument("--data", type=Path, nargs="+", required=True, help=f"folders, each: {_DATA}")
    command.add_argument("--runs", type=Path, help="folder of the folders for checkpoints and statistics; default runs")
    _training_flags(command)
    _bundle_flags(command)

    command = _command(commands, "import-checkpoint", import_command)
    command.add_argument("--data", type=Path, required=True, help=_DATA)
    command.add_argument("--recipe", required=True, help="name of the recipe")
    _bundle_flags(command)
    command.add_argument("--reconstructive", type=Path, required=True, help="the authors' *.pckl")
    command.add_argument("--discriminative", type=Path, required=True, help="the authors' *_seg.pckl")
    command.add_argument("--size", type=int, default=256)

    command = _command(commands, "evaluate", evaluate_command)
    command.add_argument("--bundle", type=Path, required=True, help="models/RECIPE/VERSION")
    command.add_argument("--data", type=Path, required=True, help="folder in MVTec layout")
    command.add_argument("--url", help="score through the service at this address instead of in this process")
    command.add_argument("--out", type=Path, help="write the figures to this JSON file")

    command = _command(commands, "export", export_command)
    command.add_argument("--bundle", type=Path, required=True, help="models/RECIPE/VERSION")
    command.add_argument("--tensorrt", action="store_true", help="build TensorRT engines")
    command.add_argument(
        "--precision", nargs="*", choices=("fp32", "fp16", "int8"), help="default: all that the bundle has"
    )
    command.add_argument("--max-batch", type=int, default=8, help="most images in one inference")
    command.add_argument("--cache", type=Path, default=Path("cache"), help="the service's INSPECT_CACHE_DIR")
    command.add_argument(
        "--compute-capability", nargs="*", default=[], metavar="8.6", help="for other GPUs than this machine's"
    )

    command = _command(commands, "demo-data", demo_data_command)
    command.add_argument("folder", type=Path)
    command.add_argument("--seed", type=int, default=0)
    return parser


def _command(commands: Any, name: str, function: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
    command.set_defaults(command=function)
    return command


def _training_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--textures", type=Path, help="folder of texture images, e.g. DTD; procedural without it")
    command.add_argument("--preset", choices=PRESETS, default="edge")
    command.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda or cuda:N")
    command.add_argument("--compile", action="store_true", help="run the network through torch.compile")
    settings = command.add_argument_group("settings that differ from the preset")
    for cls in (TrainConfig, SimulatorConfig):
        for f in fields(cls):
            if f.name not in {"preset", "simulator"}:
                settings.add_argument(f"--{f.name.replace('_', '-')}", type=_flag_type(f.type), metavar="X")


def _bundle_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--version", help="version of the bundle; default the time")
    command.add_argument("--models", type=Path, default=Path("models"), help="where bundles go")
    command.add_argument("--region", type=Path, help="where anomalies count: PNG (white) or JSON polygons")
    command.add_argument("--ignore", type=Path, help="where anomalies do not count: PNG (white) or JSON polygons")
    command.add_argument(
        "--min-area", type=int, default=0, help="smallest region that is reported, in pixels of --size"
    )
    command.add_argument("--sign", type=Path, help="PEM file of an Ed25519 private key to sign the bundle with")
    command.add_argument("--false-reject-rate", type=float, default=0.01)


def _flag_type(annotation: Any) -> Callable[[str], Any]:
    kinds: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "bool": _boolean}
    return kinds.get(str(annotation), str)


def _boolean(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


if __name__ == "__main__":
    sys.exit(main())
