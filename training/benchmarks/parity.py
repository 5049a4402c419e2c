"""The same images through every runtime and precision: how far maps and scores lie apart, which verdicts differ.

`python -m training.benchmarks parity`. Each method is trained for moments on the rendered demo part, exported as every
bundle is, and given the precisions that it is accepted in. Reference is the trained network itself in PyTorch, judged
by the bundle's thresholds. Accuracy is none of its figures: what is compared is one network with itself.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue

from service.backends.base import BackendChoice, BackendError, Scored, score_images
from service.backends.cpu import describe_cpu
from service.backends.cuda import Cuda
from service.backends.opening import open_backend
from service.bundle.files import replace_file
from service.bundle.folder import Bundle
from service.bundle.manifest import InputSpec, Precision, Thresholds, TrainingRecord
from service.images.decoding import Pixels
from service.images.quality import measure
from service.images.resizing import resize
from training.bundling.acceptance import add_first_accepted
from training.bundling.graph import InspectionGraph, score_with_torch
from training.bundling.held_out import HeldOut
from training.bundling.lower_precision import Lowered, quantized_for
from training.bundling.order import RecipeOrder
from training.bundling.quantize import QuantizationError
from training.bundling.recipe import write_recipe
from training.data.demo_parts import KINDS, render_defect, render_good
from training.evaluation.report import Training
from training.loop.runs import Run
from training.methods import METHODS
from training.methods.protocol import TrainingSet
from training.settings import changed

# Good parts that are trained on, that the thresholds come from, and that are compared; defects of each kind beside the
# last.
_TRAINED_ON, _HELD_OUT, _COMPARED, _DEFECTS = 24, 12, 12, 3
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Row:
    """One runtime in one precision against PyTorch: the largest differences, of how many images the verdict is another
    one, how far from its limit a score that crossed one lay at most in PyTorch, and how many are OK here and NG there.
    `refused` says why there is none.
    """

    method: str
    runtime: str
    precision: Precision
    images: int = 0
    map_error: float = 0.0
    score_error: float = 0.0
    verdicts_differ: int = 0
    crossed_from: float = 0.0
    opposite: int = 0
    refused: str = ""


def compare(name: str, precisions: Collection[Precision], *, size: int, steps: int, seed: int) -> Iterator[Row]:
    """The rows of a method, as they come."""
    rng = np.random.default_rng(seed)
    good = [resize(render_good(rng), size, size) for _ in range(_TRAINED_ON + _HELD_OUT + _COMPARED)]
    defects = [resize(render_defect(rng, kind)[0], size, size) for kind in KINDS for _ in range(_DEFECTS)]
    trained_on, held_out = good[:_TRAINED_ON], good[_TRAINED_ON:-_COMPARED]
    images = [*good[-_COMPARED:], *defects]
    with tempfile.TemporaryDirectory() as folder:
        network, bundle = _train(name, trained_on, held_out, Path(folder), size=size, steps=steps, seed=seed)
        expected = score_with_torch(InspectionGraph(network, None, bundle.manifest.score_formula).eval(), images)
        for precision, found in _precisions(bundle, precisions, trained_on, held_out, Path(folder), seed):
            for runtime in _runtimes(precision):
                if isinstance(found, str):
                    yield Row(name, runtime, precision, refused=found)
                    continue
                yield _row(name, runtime, precision, found, expected, images, Path(folder))


def _train(
    name: str, trained_on: list[Pixels], held_out: list[Pixels], folder: Path, *, size: int, steps: int, seed: int
) -> tuple[torch.nn.Module, Bundle]:
    """The network of a method's fastest preset after a few steps, and the bundle that is made of it."""
    method = METHODS[name]
    preset = next(one for name, one in method.presets.items() if "paper" not in name)
    settings = changed(preset, {"size": size, "steps": steps, "batch": 4, "seed": seed, "samples": 64, "bf16": False})
    tensor = torch.from_numpy(np.stack(trained_on)).permute(0, 3, 1, 2).contiguous()
    textures = method.textures(settings, None) if method.textures else None
    (run := folder / "run").mkdir()
    torch.manual_seed(seed)
    network = method.fit(settings, TrainingSet(tensor, textures), Run(run), _CPU).cpu().eval()
    order = RecipeOrder(
        recipe=name, method=name, data=folder, models=folder / "models", version="1", score=settings.score, seed=seed
    )
    names, quality = [str(i) for i in range(len(held_out))], [measure(one, one) for one in held_out]
    photos = HeldOut(held_out, names, quality, InputSpec(height=size, width=size))
    pretrained = method.pretrained(settings) if method.pretrained else None
    record = TrainingRecord(config=asdict(settings), good_photos=len(trained_on), pretrained=pretrained)
    return network, write_recipe(network, photos, order, Training(record))


def _precisions(
    bundle: Bundle,
    asked: Collection[Precision],
    trained_on: list[Pixels],
    held_out: list[Pixels],
    folder: Path,
    seed: int,
) -> Iterator[tuple[Precision, Bundle | str]]:
    """The bundle in each precision, or why it is not accepted in it."""
    yield "fp32", bundle
    attempts: dict[Precision, Iterable[Lowered]] = {
        "bf16": [Lowered("bf16")],
        "int8": quantized_for(bundle, trained_on, "uint8", seed=seed),
    }
    for precision, lowered in attempts.items():
        if precision not in asked:
            continue
        try:
            models = folder / "models"
            yield (
                precision,
                add_first_accepted(bundle, lowered, held_out, models=models, version=precision, seed=seed),
            )
        except (BackendError, QuantizationError) as error:
            yield precision, str(error)


def _runtimes(precision: Precision) -> list[BackendChoice]:
    found: list[BackendChoice] = [] if precision == "bf16" else ["ort-cpu"]
    if find_spec("openvino"):
        found.append("openvino")
    with suppress(BackendError):
        Cuda().gpu(0)
        found += [] if precision == "bf16" else ["ort-cuda", "tensorrt"]
    return found


def _row(
    method: str,
    runtime: BackendChoice,
    precision: Precision,
    bundle: Bundle,
    expected: Sequence[Scored],
    images: Sequence[Pixels],
    cache: Path,
) -> Row:
    try:
        backend = open_backend(bundle, runtime, threads=len(os.sched_getaffinity(0)), precision=precision, cache=cache)
    except BackendError as error:
        return Row(method, runtime, precision, refused=str(error))
    found = score_images(backend, images)
    backend.close()
    return apart(Row(method, runtime, precision), bundle.manifest.thresholds, expected, found)


def apart(row: Row, limits: Thresholds, expected: Sequence[Scored], found: Sequence[Scored]) -> Row:
    """The row with how far `found` lies from `expected`."""
    pairs = list(zip(expected, found, strict=True))
    crossed = [(a.score, limits.band(a.score), limits.band(b.score)) for a, b in pairs]
    crossed = [one for one in crossed if one[1] != one[2]]
    return replace(
        row,
        images=len(pairs),
        map_error=max(float(np.abs(a.anomaly_map - b.anomaly_map).max()) for a, b in pairs),
        score_error=max(abs(a.score - b.score) for a, b in pairs),
        verdicts_differ=len(crossed),
        crossed_from=max(
            (min(abs(one[0] - limits.review), abs(one[0] - limits.reject)) for one in crossed), default=0.0
        ),
        opposite=sum("REVIEW" not in one[1:] for one in crossed),
    )


def tabulate(rows: Sequence[Row]) -> str:
    """Markdown, with the reasons of refusals under the table."""
    heads = ["method", "runtime", "precision", "map", "score", "verdicts that differ", "of them OK for NG, NG for OK"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        differ = f"{row.verdicts_differ} of {row.images}"
        if row.verdicts_differ:
            differ += f", from at most {row.crossed_from:.1e} beside a limit"
        figures = f"{row.map_error:.1e} | {row.score_error:.1e} | {differ} | {row.opposite}"
        told = "not accepted | | | " if row.refused else figures
        lines.append(f"| {row.method} | {row.runtime} | {row.precision} | {told} |")
    refused: dict[str, list[str]] = {}
    for row in rows:
        if row.refused:
            refused.setdefault(f"{row.precision}: {row.refused}", []).append(f"{row.method} in {row.runtime}")
    return "\n".join([*lines, *(f"\n{', '.join(names)}: {why}" for why, names in refused.items())])


def kept_rows(file: Path | None, settings: dict[str, JsonValue]) -> list[Row]:
    """The rows of a run that was stopped; ValueError where they are of other settings."""
    if not file or not file.exists():
        return []
    record = json.loads(file.read_text())
    if record["settings"] != settings:
        raise ValueError(f"{file}: holds rows of other settings: choose another --record")
    return [Row(**row) for row in record["rows"]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks parity", description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="without it all")
    parser.add_argument(
        "--precisions",
        nargs="*",
        choices=("bf16", "int8"),
        default=["bf16", "int8"],
        help="beside fp32; without it both",
    )
    parser.add_argument("--size", type=int, default=128, help="edge of the images, pixels")
    parser.add_argument("--steps", type=int, default=60, help="of training, where a method learns in steps")
    parser.add_argument("--seed", type=int, default=0, help="of images, networks and training")
    parser.add_argument("--record", type=Path, help="JSON file of the rows: the same command goes on where it stopped")
    options = parser.parse_args(arguments)
    figures = {"size": options.size, "steps": options.steps, "seed": options.seed}
    settings = {"cpu": describe_cpu(), "precisions": options.precisions, **figures}
    try:
        rows = kept_rows(options.record, settings)
    except ValueError as error:
        parser.error(str(error))
    for name in options.methods:
        if any(row.method == name for row in rows):
            continue
        for row in compare(name, options.precisions, **figures):
            rows.append(row)
            print(row, file=sys.stderr)
        if options.record:
            record = {"settings": settings, "rows": [asdict(row) for row in rows]}
            replace_file(options.record, json.dumps(record, indent=2) + "\n")
    print(f"{settings['cpu']}\n\n{tabulate(rows)}")
    return 1 if any(row.verdicts_differ for row in rows) else 0
