"""`python -m training`: train, evaluate and import recipes from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from service.bundle.manifest import ScoreFormula
from training.commands import (
    NO_FLAGS,
    ablate_command,
    bench_command,
    demo_data_command,
    evaluate_command,
    export_command,
    import_command,
    queue_command,
    reproduce_command,
    run_command,
    train_command,
)
from training.experiments.ablations import ABLATIONS
from training.experiments.reproduce import PAPER
from training.methods.draem.config import PRESETS, TrainConfig
from training.methods.draem.simulator import SimulatorConfig

_DATA = "good photos, or a folder in MVTec layout"


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return run_command(options.command, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True)

    command = _command(commands, "train", train_command)
    command.add_argument("--data", type=Path, required=True, help=_DATA)
    command.add_argument("--recipe", help="name of the recipe; default that of the folder")
    command.add_argument("--run", type=Path, help="folder for checkpoint and statistics; default runs/RECIPE")
    _training_flags(command, "edge")
    _setting_flags(command, TrainConfig, SimulatorConfig)
    _place_flags(command)
    _bundle_flags(command)

    command = _command(commands, "queue", queue_command)
    command.add_argument("--data", type=Path, nargs="+", required=True, help=f"folders, each: {_DATA}")
    command.add_argument("--runs", type=Path, help="folder of the folders for checkpoints and statistics; default runs")
    _training_flags(command, "edge")
    _setting_flags(command, TrainConfig, SimulatorConfig)
    _place_flags(command)
    _bundle_flags(command)

    command = _command(commands, "import-checkpoint", import_command)
    command.add_argument("--data", type=Path, required=True, help=_DATA)
    command.add_argument("--recipe", required=True, help="name of the recipe")
    command.add_argument(
        "--reconstructive", type=Path, required=True, help="the authors' *.pckl, or anomalib's file of both"
    )
    command.add_argument("--discriminative", type=Path, help="the authors' *_seg.pckl")
    command.add_argument("--size", type=int, default=256)
    command.add_argument(
        "--score", choices=get_args(ScoreFormula), default="paper", help="see training/bundling/scores.py"
    )
    _place_flags(command)
    _bundle_flags(command)

    command = _command(commands, "evaluate", evaluate_command)
    command.add_argument("--bundle", type=Path, required=True, help="models/RECIPE/VERSION")
    command.add_argument("--data", type=Path, required=True, help="folder in MVTec layout")
    command.add_argument("--url", help="score through the service at this address instead of in this process")
    command.add_argument("--out", type=Path, help="write the figures to this JSON file")

    command = _command(commands, "export", export_command)
    command.add_argument("--bundle", type=Path, required=True, help="models/RECIPE/VERSION")
    command.add_argument(
        "--int8",
        nargs="?",
        const="cpu",
        choices=("cpu", "gpu"),
        help="write a version that has INT8 too, in the layout of CPUs (the default) or of TensorRT",
    )
    command.add_argument("--bf16", action="store_true", help="write a version that may be rounded to bfloat16 on CPUs")
    command.add_argument("--data", type=Path, help=f"of --int8 and --bf16, as it was trained on: {_DATA}")
    command.add_argument(
        "--version", help="of the bundle with --int8 or --bf16; default the old one's with -int8, -bf16"
    )
    command.add_argument("--sign", type=Path, help="PEM file of an Ed25519 private key to sign that version with")
    command.add_argument("--tensorrt", action="store_true", help="build TensorRT engines")
    command.add_argument("--triton", type=Path, metavar="DIR", help="add the recipe to this Triton model repository")
    command.add_argument(
        "--precision",
        nargs="*",
        choices=("fp32", "fp16", "int8"),
        help="default: fp32 for Triton, all that the bundle has for TensorRT",
    )
    command.add_argument("--max-batch", type=int, default=8, help="most images in one inference")
    command.add_argument("--cache", type=Path, default=Path("cache"), help="the service's INSPECT_CACHE_DIR")
    command.add_argument(
        "--compute-capability", nargs="*", default=[], metavar="8.6", help="for other GPUs than this machine's"
    )

    command = _command(commands, "bench", bench_command)
    subject = command.add_mutually_exclusive_group(required=True)
    subject.add_argument("--bundle", type=Path, help="models/RECIPE/VERSION")
    subject.add_argument(
        "--widths", type=int, nargs=2, metavar=("R", "D"), help="an untrained network; the paper's: 128 64"
    )
    command.add_argument("--compact", action="store_true", help="the untrained network is one of 2x2 pixel blocks")
    command.add_argument("--size", type=int, default=256, help="pixels of the untrained network's input")
    command.add_argument("--threads", type=int, default=0, help="of one inference; 0: all cores")
    command.add_argument("--batch", type=int, nargs="+", default=[1, 4, 8], help="images in one inference")
    command.add_argument("--rounds", type=int, default=50, help="timed inferences of each batch size")
    command.add_argument("--out", type=Path, help="write the figures to this JSON file and a plot beside it")

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
    command.add_argument("--categories", nargs="+", help="these only; default all that are there", metavar="CATEGORY")
    command.add_argument("--seed", type=int, nargs="+", default=[0], dest="seeds", help="one run each; default 0")
    command.add_argument("--out", type=Path, required=True, help="JSON file of the rows; all else goes beside it")
    _training_flags(command, "paper")
    _setting_flags(command, TrainConfig, SimulatorConfig, without={"seed"})
    _bundle_flags(command)

    command = _command(commands, "demo-data", demo_data_command)
    command.add_argument("folder", type=Path)
    command.add_argument("--seed", type=int, default=0)
    return parser


def _command(commands: Any, name: str, function: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
    command.set_defaults(command=function)
    return command


def _training_flags(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument("--textures", type=Path, help="folder of texture images, e.g. DTD; procedural without it")
    command.add_argument("--preset", choices=PRESETS, default=default)
    command.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda or cuda:N")
    command.add_argument("--compile", action="store_true", help="run the network through torch.compile")


def _setting_flags(
    command: argparse.ArgumentParser,
    *classes: type[TrainConfig] | type[SimulatorConfig],
    without: Collection[str] = (),
) -> None:
    settings = command.add_argument_group("settings that differ from the preset")
    for cls in classes:
        kinds = get_type_hints(cls)
        for f in fields(cls):
            if f.name not in {*NO_FLAGS, *without}:
                kind, choices = kinds[f.name], get_args(kinds[f.name]) or None
                flag = str if choices else _boolean if kind is bool else kind
                metavar = None if choices else "X"
                settings.add_argument(f"--{f.name.replace('_', '-')}", type=flag, choices=choices, metavar=metavar)


def _place_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--version", help="version of the bundle; default the time")
    command.add_argument("--models", type=Path, default=Path("models"), help="where bundles go")


def _bundle_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--region", type=Path, help="where anomalies count: PNG (white) or JSON polygons")
    command.add_argument("--ignore", type=Path, help="where anomalies do not count: PNG (white) or JSON polygons")
    command.add_argument(
        "--min-area", type=int, default=0, help="smallest region that is reported, in pixels of --size"
    )
    command.add_argument("--sign", type=Path, help="PEM file of an Ed25519 private key to sign the bundle with")
    command.add_argument("--false-reject-rate", type=_rate, default=0.01, help="share of good parts, 0.01 is 1 %%")


def _rate(text: str) -> float:
    rate = float(text)
    if not 0 < rate < 1:
        raise argparse.ArgumentTypeError(f"{text} is no share between 0 and 1: 0.01 is 1 %")
    return rate


def _boolean(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


if __name__ == "__main__":
    sys.exit(main())
