"""What the commands of `python -m training` do; their flags are in `training.__main__`."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx2
import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from service.backends.base import BackendError
from service.backends.engines import build_engine, engine_path, gpus, open_library
from service.backends.opening import open_backend
from service.bundle.folder import Bundle, read_bundle
from service.bundle.manifest import NAME_PATTERN, BundleError
from service.bundle.signing import load_private_key
from service.images.decoding import Pixels, read
from service.images.headers import ImageError
from service.images.resizing import fit, resize
from training.benchmarks import inference as bench
from training.bundling.export import ExportError, InspectionGraph, score_with_torch
from training.bundling.lower_precision import add_precision, quantize_for
from training.bundling.quantize import Activations, QuantizationError
from training.bundling.recipe import (
    photos_sha256,
    split_as_trained,
    warn_of_darkness,
    warn_of_outlying,
    warn_of_unusual,
    write_recipe,
    write_results,
)
from training.bundling.triton import export_triton
from training.commands.queue import INTERRUPTED, QueueError, QueueStoppedError, work_through
from training.data.demo_parts import write_dataset
from training.data.folders import DataError, good_images, labelled_folder, split
from training.data.labels import labelled_images
from training.data.reading import load_images, require_readable
from training.data.regions import RegionError, keep_mask
from training.data.survey import survey
from training.evaluation.evaluate import EvaluationError, backend_scorer, evaluate, http_scorer, markdown
from training.evaluation.report import TRAINED_ON, Training
from training.experiments.ablations import Plan, run_ablations
from training.experiments.reproduce import find_categories, tabulate
from training.experiments.results import ResultsError, Row, run_queue
from training.loop import distributed
from training.loop.distributed import DeviceError
from training.loop.memory import PeakMemory, keep_freed_memory
from training.loop.precision import half_type
from training.loop.runs import (
    CHECKPOINT,
    RESULTS,
    STATS,
    InterruptedRunError,
    Run,
    TrainingError,
    claim_run,
    disk_full_named,
    peak_memory,
    training_minutes,
)
from training.methods import METHODS
from training.methods.protocol import CheckpointError, Method, TrainingSet
from training.settings import RecipeSettings, changed

_ERRORS = (
    BackendError,
    bench.BenchError,
    BundleError,
    CheckpointError,
    DataError,
    DeviceError,
    EvaluationError,
    ExportError,
    ImageError,
    QuantizationError,
    QueueError,
    RegionError,
    ResultsError,
    TrainingError,
)


def run_command(command: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> int:
    """Exit status of a command; what a user can mend is one line on stderr."""
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
    options.recipe = options.recipe or options.data.resolve().name
    run: Path = options.run or Path("runs") / options.recipe
    method = METHODS[options.method]
    config = _config(method, options)
    if options.textures and not method.textures:
        raise DataError(f"{method.name} learns without textures: leave --textures out")
    photos = good_images(options.data)
    with distributed.joined(options.device) as device:
        leads = distributed.rank() == 0
        if leads:
            _require_usable(options, config.size)
            claim_run(run, method.claimed(config), photos, options.textures)
        distributed.wait()
        keep_freed_memory()
        if leads and getattr(config, "bf16", False) and half_type(device) is None:
            print("warning: this CPU has no bfloat16: it trains in float32, which takes longer", file=sys.stderr)
        trained_on, held_out = split(photos, config.holdout, config.seed)
        good = load_images(trained_on, config.size, "good photos")
        held_out_photos = load_images(held_out, config.size, "held-out photos")
        if leads:
            warn_of_darkness(good, options.data)
        suspects = warn_of_unusual((good, held_out_photos), [*trained_on, *held_out]) if leads else []
        textures = method.textures(config, options.textures) if method.textures else None
        data = TrainingSet(good, textures)
        started = time.monotonic()
        network = method.fit(config, data, Run(run, options.compile), device).cpu()
        processes = distributed.world()
    if not leads:
        return
    graph = InspectionGraph(network, keep_mask(options.region, options.ignore, config.size), config.score).eval()
    all_photos = _pixels(good) + _pixels(held_out_photos)
    outlying = warn_of_outlying(score_with_torch(graph, all_photos).scores, [*trained_on, *held_out])
    looped = (run / CHECKPOINT).exists()
    minutes = training_minutes(run) if looped else (time.monotonic() - started) / 60
    peak = peak_memory(run) if looped else PeakMemory().or_more(device)
    record: dict[str, JsonValue] = {
        "config": asdict(config),
        "good_photos": len(trained_on),
        "photos_sha256": photos_sha256(photos),
        "textures": None if textures is None else len(textures) if options.textures else "procedural",
        "device": str(device),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "minutes": round(minutes, 2),
        "peak_memory_mib": asdict(peak),
        "unusual_photos": suspects,
        "outlying_scores": outlying,
    }
    stats = [json.loads(line) for line in (run / STATS).read_text().splitlines()] if looped else []
    material = Training(record, stats, method.samples(config, data) if method.samples else None)
    names = [path.name for path in held_out]
    with disk_full_named(options.models / options.recipe):
        bundle = write_recipe(
            options,
            network,
            _pixels(held_out_photos),
            names,
            method=method.name,
            seed=config.seed,
            score=config.score,
            training=material,
        )
    with disk_full_named(run / RESULTS):
        write_results(run, bundle)


def _require_usable(options: argparse.Namespace, size: int) -> None:
    """What the end of a training needs, looked at before its hours: names, regions, the key and the test split."""
    for flag, name in (("recipe", options.recipe), ("version", options.version)):
        if name is not None and not re.fullmatch(NAME_PATTERN, name):
            raise DataError(f"{flag} {name!r}: take letters, digits, '.', '_' and '-', at most 64, no space")
    if options.version and (options.models / options.recipe / options.version).exists():
        bundle = options.models / options.recipe / options.version
        raise DataError(f"{bundle}: this version exists already: choose another --version")
    keep_mask(options.region, options.ignore, size)
    if options.sign:
        load_private_key(options.sign)
    try:
        labelled = labelled_images(options.data) if labelled_folder(options.data) else []
        require_readable([image.path for image in labelled], "test photos")
        found = survey(options.data, labelled)
    except DataError as error:
        raise DataError(f"{error}; or train without an evaluation: --data {options.data / 'train' / 'good'}") from None
    print("\n".join(found.counts))
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)


def queue_command(options: argparse.Namespace) -> None:
    """Train one recipe for each folder, named like it, one after the other; what is finished is not trained again."""
    jobs: dict[str, Callable[[], int]] = {}
    for folder in options.data:
        recipe = folder.resolve().name
        if recipe in jobs:
            raise QueueError(f"{folder}: a second folder named {recipe}: recipes take their names from the folders")
        settings = {**vars(options), "data": folder, "recipe": recipe, "command": None}
        jobs[recipe] = partial(_train_in_queue, argparse.Namespace(**settings))
    work_through(jobs)


def _train_in_queue(options: argparse.Namespace) -> int:
    status = run_command(_train_unless_finished, options)
    if status == 1:
        print(f"{options.recipe}: failed", file=sys.stderr)
    return status


def _train_unless_finished(options: argparse.Namespace) -> None:
    run = (options.runs or Path("runs")) / options.recipe
    options.run = run
    method = METHODS[options.method]
    claim_run(run, method.claimed(_config(method, options)), good_images(options.data), options.textures)
    if (run / RESULTS).exists():
        print(f"{options.recipe}: finished before, see {run / RESULTS}")
        return
    train_command(options)


def import_command(options: argparse.Namespace) -> None:
    """Make a bundle from the authors' two checkpoint files or anomalib's one; good photos calibrate the thresholds."""
    _require_usable(options, options.size)
    method = METHODS[options.method]
    if method.checkpoint is None:
        raise CheckpointError(f"{method.name} has no checkpoints to import")
    named = {name: getattr(options, name) for name in method.checkpoint.files}
    files = {name: file for name, file in named.items() if file}
    network = method.checkpoint.load(files)
    paths = good_images(options.data)
    record: dict[str, JsonValue] = {
        "imported": [file.name for file in files.values()],
        TRAINED_ON: True,
    }
    photos = [resize(read(path), options.size, options.size) for path in paths]
    names = [path.name for path in paths]
    write_recipe(
        options,
        network,
        photos,
        names,
        method=method.name,
        seed=0,
        score=options.score,
        training=Training(record),
    )


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
        backend = open_backend(bundle, "ort-cpu", precision="fp32", threads=os.cpu_count() or 1)
        results = evaluate(images, backend_scorer(backend, bundle.manifest.input), thresholds)
        results["through"] = f"{backend.name} {backend.precision}"
        backend.close()
    print(markdown({bundle.manifest.recipe: results}))
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


def export_command(options: argparse.Namespace) -> None:
    """Make from a bundle what another runtime needs: a version with INT8 or bfloat16, engines, a model of Triton's."""
    if not (options.int8 or options.bf16 or options.tensorrt or options.triton):
        raise ExportError("nothing to export to: add --int8, --bf16, --tensorrt or --triton DIR")
    bundle = read_bundle(options.bundle)
    if options.int8 or options.bf16:
        bundle = _with_lower_precision(bundle, options)
    if options.triton:
        precisions = options.precision or ["fp32"]
        if len(precisions) > 1:
            raise ExportError("Triton serves one graph a recipe: give --precision once")
        print(export_triton(bundle, options.triton, precision=precisions[0], max_batch=options.max_batch))
    if options.tensorrt:
        _build_engines(bundle, options)


def _with_lower_precision(bundle: Bundle, options: argparse.Namespace) -> Bundle:
    """A new version beside `bundle`, calibrated on the photos that it was trained on, accepted on those it was not."""
    if not options.data:
        raise ExportError("a lower precision is calibrated and accepted on good photos: add --data")
    manifest = bundle.manifest
    if manifest.training.get(TRAINED_ON):
        # An imported network was trained on all of them: the comparison with its own float32 stays a fair one.
        seed = 0
        trained_on, held_out = split(good_images(options.data), RecipeSettings().holdout, seed)
    else:
        trained_on, held_out = split_as_trained(bundle, options.data)
        seed = int(str(cast(dict[str, JsonValue], manifest.training["config"])["seed"]))
    photos = [fit(read(path), manifest.input) for path in trained_on]
    places = {"models": bundle.path.parents[1], "seed": seed, "signing_key": options.sign}
    held_out_photos = [fit(read(path), manifest.input) for path in held_out]
    added = {"int8": options.int8, "bf16": options.bf16}
    version = options.version or "-".join([manifest.version, *(name for name, asked in added.items() if asked)])
    with tempfile.TemporaryDirectory() as folder:
        # Every precision gives a whole version; only the last one is to be seen.
        if options.int8 and options.bf16:
            places["models"] = Path(folder)
        if options.int8:
            activations: Activations = "uint8" if options.int8 == "cpu" else "int8"
            quantized = quantize_for(bundle, photos, activations, seed=seed)
            bundle = add_precision(bundle, "int8", held_out_photos, version=version, quantized=quantized, **places)
        if options.bf16:
            places["models"] = options.bundle.parents[1]
            bundle = add_precision(bundle, "bf16", held_out_photos, version=version, **places)
    print(f"bundle {bundle.path}: {', '.join(bundle.manifest.models)}")
    for name, asked in added.items():
        if asked:
            print(f"{name}: {json.dumps(bundle.manifest.training[name])}")
    return bundle


def _build_engines(bundle: Bundle, options: argparse.Namespace) -> None:
    library = open_library()
    for gpu in gpus(options.compute_capability, library):
        for precision in options.precision or sorted(bundle.manifest.models.keys() - {"bf16"}):
            record = build_engine(
                bundle, precision, max_batch=options.max_batch, cache=options.cache, gpu=gpu, library=library
            )
            print(f"{engine_path(options.cache, record.key)}: {record.bytes} bytes in {record.build_s} s")


def bench_command(options: argparse.Namespace) -> None:
    """Time a bundle, or an untrained network of a preset, on every runtime and precision beside plain PyTorch."""
    with tempfile.TemporaryDirectory() as folder:
        if options.bundle:
            bundle = read_bundle(options.bundle)
            subject = bench.subject_of(bundle, network_of(bundle))
        else:
            method = METHODS[options.method]
            if method.network is None:
                raise bench.BenchError(f"{method.name} has no network before it has seen photos: use --bundle")
            config = _config(method, options)
            subject = bench.export_random(partial(method.network, config), config.size, Path(folder))
        threads = options.threads or os.cpu_count() or 1
        record = bench.run_bench(subject, threads=threads, batches=options.batches, rounds=options.rounds)
    print(bench.tabulate(record))
    if options.out:
        bench.write_record(record, options.out)


def network_of(bundle: Bundle) -> Callable[[], nn.Module] | None:
    """How the bundle's network is built, where its method has one and the manifest its settings."""
    method, config = METHODS.get(bundle.manifest.method), bundle.manifest.training.get("config")
    if method is None or method.network is None or not isinstance(config, dict):
        return None
    return partial(method.network, method.recorded(config))


def ablate_command(options: argparse.Namespace) -> None:
    """Train and score the rows of the paper's ablation table; stop it when you like, the same command goes on."""
    method = METHODS[options.method]
    plan = Plan(
        method=method,
        preset=_config(method, options),
        data=options.data,
        textures=options.textures,
        other_textures=options.imagenet,
        names=options.only or list(method.ablations),
        seeds=options.seeds,
    )
    with distributed.joined("auto") as device:
        print(run_ablations(plan, options.out, device))


def reproduce_command(options: argparse.Namespace) -> None:
    """Train every category of the paper's tables that is there and put the figures beside the paper's."""
    settings = changes(METHODS[options.method].preset(options.preset), options)
    work: Path = options.out.with_suffix(".runs")

    def run(category: str, seed: int) -> Row:
        version = f"{options.preset}-{seed}"
        bundle = work / "models" / category / version
        if not bundle.exists():
            places = {"models": work / "models", "run": work / category / str(seed), "version": version}
            what = {"data": options.data / category, "recipe": category, "seed": seed}
            train_command(argparse.Namespace(**{**vars(options), **places, **what}))
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


def _pixels(photos: Tensor) -> list[Pixels]:
    return list(np.ascontiguousarray(photos.permute(0, 2, 3, 1).numpy()))


def _config(method: Method[Any], options: argparse.Namespace) -> RecipeSettings:
    preset = method.preset(options.preset)
    config: RecipeSettings = changed(preset, changes(preset, options))
    return config


def changes(settings: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Values that the command line gives to the fields of settings, parts included."""
    found: dict[str, Any] = {}
    for f in fields(settings):
        value = getattr(settings, f.name)
        if is_dataclass(value):
            found |= changes(value, options)
        elif f.metadata["flag"] and getattr(options, f.name, None) is not None:
            found[f.name] = getattr(options, f.name)
    return found
