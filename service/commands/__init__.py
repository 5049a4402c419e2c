"""Commands that talk to a running service, and key making: `python -m service inspect|qualify|activate|rollback|…`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from service.backends.base import BackendError
from service.backends.engines import Library, build_engine, engine_path, gpus, key_of, open_library, read_engine
from service.backends.opening import gpu_precision
from service.bundle.archives import fetch
from service.bundle.folder import Bundle, list_versions, read_bundle
from service.bundle.manifest import BundleError
from service.client import AsyncClient, Client
from service.commands.benchmark import benchmark, write_results
from service.commands.qualify import exit_code, qualify, report, write_record
from service.http.access import new_key
from service.settings import Settings
from service.station.recipes import read_active

# What is told in one line, not as a traceback.
_FAILURES = (BackendError, BundleError, OSError, ValueError)
_UNITS = {"/s": 1.0, "/min": 1 / 60, "ms": 1.0, "s": 1000.0}


def inspect_command(options: argparse.Namespace) -> int:
    """Inspect picture files; one JSON line each. Exit 0: all OK, 1: one is REVIEW or NG, 2: one was not inspected."""
    with Client(options.url, api_key=options.api_key) as client:
        outcomes = []
        for file in options.files:
            outcome = client.inspect(file, recipe=options.recipe)
            outcomes.append(outcome)
            print(json.dumps({"file": str(file), "verdict": outcome.verdict, **outcome.reply}))
    return exit_code(outcomes)


def qualify_command(options: argparse.Namespace) -> int:
    """Load a station at a fixed rate and say whether it keeps its deadline; exit 0: PASS, 1: FAIL."""
    images = [file.read_bytes() for file in options.files]

    async def run() -> int:
        async with AsyncClient(options.url, api_key=options.api_key, connections=options.connections) as client:
            result = await qualify(
                client,
                images,
                rate_hz=options.rate,
                deadline_ms=options.deadline,
                seconds=options.seconds,
                recipe=options.recipe,
                required=options.required,
            )
        print(report(result))
        if options.record:
            write_record(result, options.record, url=options.url)
        return 0 if result.passed else 1

    return asyncio.run(run())


def benchmark_command(options: argparse.Namespace) -> int:
    """Measure the service on this machine against its bare backend; starts and ends its own service."""
    figures = asyncio.run(
        benchmark(
            options.models,
            options.recipe,
            requests=options.requests,
            overload_s=options.overload,
            soak_s=options.soak,
            seed=options.seed,
        )
    )
    print(json.dumps(figures, indent=2))
    if options.record:
        write_results(figures, options.record)
    return 0


def change_command(options: argparse.Namespace) -> int:
    """Activate a version of a recipe, go back to the one before, or run its golden gate."""
    params = {"version": options.version} if options.change == "activate" else {}
    return _administer(options, "POST", options.change, params=params)


def limits_command(options: argparse.Namespace) -> int:
    """Change thresholds and quality limits of the version in service, or go back to its manifest's with --reset."""
    names = ("review", "reject", "pixel", "min_area")
    change: dict[str, Any] = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.quality:
        change["quality"] = dict(options.quality)
    if bool(change) == options.reset:
        raise ValueError("either name limits to change, or --reset")
    if options.reset:
        return _administer(options, "POST", "limits/reset")
    return _administer(options, "PATCH", "limits", json=change)


def _administer(options: argparse.Namespace, method: str, what: str, **request: Any) -> int:
    headers = {"X-API-Key": options.api_key} if options.api_key else {}
    with httpx2.Client(base_url=options.url, headers=headers, timeout=300) as client:
        response = client.request(method, f"/recipes/{options.recipe}/{what}", **request)
    print(json.dumps(response.json()))
    return 0 if response.status_code == httpx2.codes.OK else 1


def fetch_command(options: argparse.Namespace) -> int:
    """Bring the recipes of a tar archive, an http(s) address or a file, to a folder of recipes; one path a line."""
    for bundle in fetch(options.source, options.sha256, options.models):
        print(bundle.path)
    return 0


def build_engine_command(options: argparse.Namespace) -> int:
    """Build the TensorRT engines that the service would build at its start; one JSON line each. A recipe that fails
    is named on standard error with the reason and stops no other. Exit 0: one or more have their engines, 2: none has.
    """
    recipes = list_versions(options.models)
    chosen = [options.recipe] if options.recipe else sorted(recipes)
    if missing := sorted(set(chosen) - recipes.keys()):
        raise BundleError(
            f"{options.models}: no recipe {missing[0]!r}: choose {', '.join(recipes) or 'another folder'}"
        )
    library = open_library()
    failed = 0
    for recipe in chosen:
        try:
            active = read_active(options.models / recipe)
            bundle = read_bundle(options.models / recipe / (active[0] if active else recipes[recipe][-1]))
            _build_engines(bundle, options, library)
        except Exception as error:
            text = str(error) if isinstance(error, _FAILURES) else f"{type(error).__name__}: {error}"
            print(f"error: recipe {recipe}: {text}", file=sys.stderr)
            failed += 1
    return 2 if chosen and failed == len(chosen) else 0


def _build_engines(bundle: Bundle, options: argparse.Namespace, library: Library) -> None:
    precision = gpu_precision(bundle, options.precision)
    for gpu in gpus(options.compute_capability, library):
        if options.missing:
            key = key_of(bundle, precision, options.max_batch, gpu, library)
            path = engine_path(options.cache, key)
            if isinstance(read_engine(path, key), bytes):
                print(json.dumps({"engine": str(path), "kept": True}))
                continue
        record = build_engine(
            bundle, precision, max_batch=options.max_batch, cache=options.cache, gpu=gpu, library=library
        )
        print(json.dumps({"engine": str(engine_path(options.cache, record.key)), **record.model_dump(mode="json")}))


def new_key_command(options: argparse.Namespace) -> int:
    """Print a new API key, and the line that lets it in."""
    key, line = new_key(options.role, options.name)
    print(f"key, shown once: {key}\nline for INSPECT_API_KEYS_FILE: {line}")
    return 0


def new_signing_keys_command(options: argparse.Namespace) -> int:
    """Write NAME.pem to sign bundles with (keep it where recipes are trained) and NAME.pub to trust them by."""
    # Only needed where bundles are signed.
    from service.bundle.signing import new_keys

    new_keys(options.name.with_suffix(".pem"), options.name.with_suffix(".pub"))
    return 0


def run(arguments: list[str]) -> int:
    """Run one command; connection and file errors are one line, not a traceback."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (*_FAILURES, httpx2.HTTPError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    commands = parser.add_subparsers(required=True)

    command = _command(commands, "inspect", inspect_command)
    command.add_argument("files", nargs="+", type=Path)
    command.add_argument("--recipe")

    command = _command(commands, "qualify", qualify_command)
    command.add_argument("files", nargs="+", type=Path, help="pictures, sent in turn")
    command.add_argument("--recipe")
    command.add_argument("--rate", type=_quantity("/s", "/min"), required=True, help="pictures, e.g. 12/s or 90/min")
    command.add_argument("--deadline", type=_quantity("ms", "s"), required=True, help="time for one, e.g. 80ms")
    command.add_argument("--seconds", type=float, default=30.0)
    command.add_argument("--required", type=float, default=0.999, help="share that must be in time")
    command.add_argument("--connections", type=int, default=100)
    command.add_argument("--record", type=Path, help="write the figures to this JSON file")

    command = commands.add_parser("benchmark", help=benchmark_command.__doc__, description=benchmark_command.__doc__)
    command.add_argument("--models", type=Path, default=Path("models"))
    command.add_argument("--recipe", default="demo")
    command.add_argument("--requests", type=int, default=300)
    command.add_argument("--overload", type=float, default=30.0, help="seconds at twice the capacity; 0: leave out")
    command.add_argument("--soak", type=float, default=0.0, help="seconds at 80 %% of the capacity; 0: leave out")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--record", type=Path, help="write the figures to this JSON file")
    command.set_defaults(command=benchmark_command)

    for change in ("activate", "rollback", "verify"):
        command = _command(commands, change, change_command)
        command.add_argument("recipe")
        if change == "activate":
            command.add_argument("version")
        command.set_defaults(change=change)

    command = commands.add_parser("fetch", help=fetch_command.__doc__, description=fetch_command.__doc__)
    command.add_argument("source", help="tar file with <recipe>/<version>/… in it, compressed or not")
    command.add_argument("--sha256", required=True, help="of the archive, in hex")
    command.add_argument("--models", type=Path, default=Settings().models_dir)
    command.set_defaults(command=fetch_command)

    command = commands.add_parser(
        "build-engine", help=build_engine_command.__doc__, description=build_engine_command.__doc__
    )
    settings = Settings()
    command.add_argument("--recipe", help="default: all")
    command.add_argument("--models", type=Path, default=settings.models_dir)
    command.add_argument("--precision", choices=("auto", "fp32", "fp16", "int8"), default=settings.precision)
    command.add_argument("--max-batch", type=int, default=settings.max_batch)
    command.add_argument("--cache", type=Path, default=settings.cache_dir)
    command.add_argument(
        "--compute-capability", nargs="*", default=[], metavar="8.6", help="for other GPUs than this machine's"
    )
    command.add_argument("--missing", action="store_true", help="only those that the cache does not have")
    command.set_defaults(command=build_engine_command)

    command = _command(commands, "limits", limits_command)
    command.add_argument("recipe")
    for name in ("review", "reject", "pixel"):
        command.add_argument(f"--{name}", type=float, help="threshold, 0 to 1")
    command.add_argument("--min-area", type=int, help="pixels at the network's size")
    command.add_argument("--quality", type=_named_value, action="append", help="e.g. sharpness_min=12.5")
    command.add_argument("--reset", action="store_true", help="all as in the manifest")

    command = commands.add_parser("new-key", help=new_key_command.__doc__, description=new_key_command.__doc__)
    command.add_argument("role", choices=("inspect", "admin"))
    command.add_argument("name")
    command.set_defaults(command=new_key_command)
    command = commands.add_parser("new-signing-keys", help=new_signing_keys_command.__doc__)
    command.add_argument("name", type=Path)
    command.set_defaults(command=new_signing_keys_command)
    return parser


def _command(commands: Any, name: str, function: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
    command.set_defaults(command=function)
    command.add_argument("--url", default="http://127.0.0.1:8000", help="the service; default %(default)s")
    command.add_argument(
        "--api-key", default=os.environ.get("INSPECT_API_KEY"), help="default: environment variable INSPECT_API_KEY"
    )
    return command


def _quantity(*units: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(\D*)", text.strip())
        if not found or found[2] not in units or float(found[1]) <= 0:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number with {' or '.join(units)}")
        return float(found[1]) * _UNITS[found[2]]

    return parse


def _named_value(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    return name, float(value)
