"""`python -m service COMMAND …`: one file a command. A command is a request, made of flags, and a function."""

from __future__ import annotations

import argparse
import inspect as inspect_module
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from service.commands import (
    build_engine,
    compare_versions,
    fetch,
    inspect,
    keys,
    limits,
    qualify,
    records,
    replay,
    versions,
)
from service.commands.outcome import attempt
from service.flags import add_flags, read_flags


@dataclass(frozen=True)
class Command:
    """A request model, whose docstring is the help, and what runs such a request; it returns the exit status."""

    request: type[BaseModel]
    run: Callable[[Any], int]


COMMANDS: dict[str, Command] = {
    "inspect": Command(inspect.Inspect, inspect.run),
    "qualify": Command(qualify.Qualify, qualify.run),
    "activate": Command(versions.Activate, versions.run_activate),
    "rollback": Command(versions.Rollback, versions.run_rollback),
    "verify": Command(versions.Verify, versions.run_verify),
    "shadow": Command(versions.Shadow, versions.run_shadow),
    "collect": Command(versions.Collect, versions.run_collect),
    "default": Command(versions.Default, versions.run_default),
    "compare-versions": Command(compare_versions.CompareVersions, compare_versions.run),
    "limits": Command(limits.Limits, limits.run),
    "records": Command(records.Records, records.run),
    "replay": Command(replay.Replay, replay.run),
    "fetch": Command(fetch.Fetch, fetch.run),
    "build-engine": Command(build_engine.BuildEngine, build_engine.run),
    "new-key": Command(keys.NewKey, keys.run_new_key),
    "new-signing-keys": Command(keys.NewSigningKeys, keys.run_new_signing_keys),
}


def run(arguments: list[str]) -> int:
    """Exit status of one command: see `attempt`."""

    def action() -> int:
        command, request = parse(arguments)
        return command.run(request)

    return attempt(action)


def parse(arguments: list[str]) -> tuple[Command, BaseModel]:
    """The command that `arguments` name and its request; raises FlagError for a value that cannot be."""
    parser = argparse.ArgumentParser(prog="python -m service", allow_abbrev=False)
    add_commands(parser)
    options = vars(parser.parse_args(arguments))
    command = COMMANDS[options.pop("command")]
    return command, read_flags(command.request, options)


def add_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        one = commands.add_parser(
            name, help=summary(command), description=inspect_module.getdoc(command.request), allow_abbrev=False
        )
        add_flags(one, command.request)


def summary(command: Command) -> str:
    """The first sentence of the command's help."""
    return re.split(r"[.:;](?=\s|$)", inspect_module.getdoc(command.request) or "", maxsplit=1)[0]
