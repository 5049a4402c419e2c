"""`python -m training`: train, evaluate and import recipes from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from service.bundle.manifest import ScoreFormula
from training.commands import (
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
from training.experiments.reproduce import PAPER
from training.methods import METHODS
from training.methods.protocol import Method
from training.settings import span

_DATA = "good photos, or a folder in MVTec layout"


def main(arguments: list[str] | None = None) -> int:
    options = _parser(_method(arguments)).parse_args(arguments)
    return run_command(options.command, options)


def _method(arguments: list[str] | None) -> Method[Any]:
    """The method that the command line names: its presets and settings are flags of the commands that train."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--method", choices=METHODS, default=next(iter(METHODS)))
    return METHODS[first.parse_known_args(arguments)[0].method]


def _parser(method: Method[Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True)

    command = _command(commands, "train", train_command)
    command.add_argument("--data", type=Path, required=True, help=_DATA)
    command.add_argument("--recipe", help="name of the recipe; default that of the folder")
    command.add_argument("--run", type=Path, help="folder for checkpoint and statistics; default runs/RECIPE")
    _training_flags(command, method, "edge")
    _setting_flags(command, method)
    _place_flags(command)
    _bundle_flags(command)

    command = _command(commands, "queue", queue_command)
    command.add_argument("--data", type=Path, nargs="+", required=True, help=f"folders, each: {_DATA}")
    command.add_argument("--runs", type=Path, help="folder of the folders for checkpoints and statistics; default runs")
    _training_flags(command, method, "edge")
    _setting_flags(command, method)
    _place_flags(command)
    _bundle_flags(command)

    command = _command(commands, "import-checkpoint", import_command)
    command.add_argument("--data", type=Path, required=True, help=_DATA)
    command.add_argument("--recipe", required=True, help="name of the recipe")
    _method_flag(command, method)
    for place, (name, what) in enumerate((method.checkpoint.files if method.checkpoint else {}).items()):
        command.add_argument(f"--{name}", type=Path, required=place == 0, help=what)
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
    subject.add_argument("--preset", choices=list(method.presets), help="an untrained network of these settings")
    _method_flag(command, method)
    command.add_argument("--threads", type=int, default=0, help="of one inference; 0: all cores")
    command.add_argument(
        "--batch", type=int, nargs="+", default=[1, 4, 8], dest="batches", help="images in one inference"
    )
    command.add_argument("--rounds", type=int, default=50, help="timed inferences of each batch size")
    command.add_argument("--out", type=Path, help="write the figures to this JSON file and a plot beside it")

    _setting_flags(command, method, parts=False, without={"batch"})

    command = _command(commands, "ablate", ablate_command)
    command.add_argument("--data", type=Path, action="append", required=True, help="folder in MVTec layout; repeatable")
    command.add_argument("--textures", type=Path, help="folder of texture images, e.g. DTD; procedural without it")
    command.add_argument("--imagenet", type=Path, help="folder of ordinary photos: textures of the row of that name")
    _method_flag(command, method)
    command.add_argument("--only", nargs="+", choices=method.ablations, help="these rows; default all", metavar="ROW")
    _preset_flag(command, method, "quick")
    command.add_argument("--seed", type=int, nargs="+", default=[0], dest="seeds", help="one run each; default 0")
    command.add_argument("--out", type=Path, required=True, help="JSON file of the rows; table and runs go beside it")
    _setting_flags(command, method, parts=False, without={"seed", "networks", "distance", "max_textures"})

    command = _command(commands, "reproduce", reproduce_command)
    command.add_argument("--dataset", choices=PAPER, required=True)
    command.add_argument("--data", type=Path, required=True, help="folder with one folder a category, in MVTec layout")
    command.add_argument("--categories", nargs="+", help="these only; default all that are there", metavar="CATEGORY")
    command.add_argument("--seed", type=int, nargs="+", default=[0], dest="seeds", help="one run each; default 0")
    command.add_argument("--out", type=Path, required=True, help="JSON file of the rows; all else goes beside it")
    _training_flags(command, method, "paper")
    _setting_flags(command, method, without={"seed"})
    _bundle_flags(command)

    command = _command(commands, "demo-data", demo_data_command)
    command.add_argument("folder", type=Path)
    command.add_argument("--seed", type=int, default=0)
    return parser


def _command(commands: Any, name: str, function: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
    command.set_defaults(command=function)
    return command


def _training_flags(command: argparse.ArgumentParser, method: Method[Any], default: str) -> None:
    _method_flag(command, method)
    command.add_argument("--textures", type=Path, help="folder of texture images, e.g. DTD; procedural without it")
    _preset_flag(command, method, default)
    command.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda or cuda:N")
    command.add_argument("--compile", action="store_true", help="run the network through torch.compile")


def _method_flag(command: argparse.ArgumentParser, method: Method[Any]) -> None:
    command.add_argument(
        "--method",
        choices=METHODS,
        default=method.name,
        help=f"the flags below are those of {method.name}; with another --method, --help shows its own",
    )


def _preset_flag(command: argparse.ArgumentParser, method: Method[Any], default: str) -> None:
    names = list(method.presets)
    default = default if default in names else names[0]
    command.add_argument("--preset", choices=names, default=default, help=f"default {default}")


def _setting_flags(
    command: argparse.ArgumentParser, method: Method[Any], *, parts: bool = True, without: Collection[str] = ()
) -> None:
    title = f"settings of {method.name} that differ from the preset"
    _flags_of(command.add_argument_group(title), next(iter(method.presets.values())), parts, without)


def _flags_of(group: Any, settings: Any, parts: bool, without: Collection[str]) -> None:
    kinds = get_type_hints(type(settings))
    for f in fields(settings):
        value = getattr(settings, f.name)
        if is_dataclass(value):
            if parts:
                _flags_of(group, value, parts, without)
        elif f.metadata["flag"] and f.name not in without:
            kind, choices = kinds[f.name], get_args(kinds[f.name]) or None
            says = f.metadata["says"] + (f" ({span(f)})" if f.metadata["low"] is not None else "")
            group.add_argument(
                f"--{f.name.replace('_', '-')}",
                type=str if choices else _boolean if kind is bool else kind,
                choices=choices,
                metavar=None if choices else "X",
                help=says.replace("%", "%%"),
            )


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
