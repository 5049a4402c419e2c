"""`python -m training COMMAND …`: one file a command. A command is a request, made of flags, and a function."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from functools import partial
from typing import Any

from pydantic import BaseModel

from service.flags import FlagError, Group, add_flags, read_flags
from training.commands.command import Command
from training.commands.outcome import attempt
from training.commands.settings import MethodFlags, setting_names
from training.commands.table import COMMANDS
from training.methods import METHODS
from training.methods.protocol import Method


def run(arguments: list[str] | None = None) -> int:
    """Exit status of one command: 2 for a command line that cannot be, and see `attempt`."""
    try:
        command, request = parse(sys.argv[1:] if arguments is None else arguments)
    except FlagError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    return attempt(partial(command.run, request))


def parse(arguments: list[str]) -> tuple[Command, BaseModel]:
    """The command that `arguments` name and its request; raises FlagError for a value that cannot be."""
    method, preset = _named(arguments)
    parser = argparse.ArgumentParser(prog="python -m training", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    requests = {name: command.request(method, preset) for name, command in COMMANDS.items()}
    for name, request in requests.items():
        text = inspect.getdoc(request) or ""
        summary = re.split(r"[.:;](?=\s|$)", text, maxsplit=1)[0]
        one = commands.add_parser(name, help=summary, description=text, allow_abbrev=False)
        add_flags(one, request, _groups(COMMANDS[name], request, method))
    options = vars(parser.parse_args(arguments))
    name = options.pop("command")
    return COMMANDS[name], read_flags(requests[name], options)


def _named(arguments: list[str]) -> tuple[Method[Any], str | None]:
    """The method and the preset that the command line names: their settings are flags, with their defaults.

    A preset names its method.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--method")
    first.add_argument("--preset")
    found, _ = first.parse_known_args(arguments)
    named = next((COMMANDS[word].method for word in arguments if word in COMMANDS), next(iter(METHODS)))
    of_preset = next((name for name, method in METHODS.items() if found.preset in method.presets), named)
    name = found.method or of_preset
    if name not in METHODS:
        raise FlagError(f"--method {name}: choose {', '.join(METHODS)}")
    return METHODS[name], found.preset


def _groups(command: Command, request: type[BaseModel], method: Method[Any]) -> list[Group]:
    flags = [name for name in command.first if name in request.model_fields]
    settings = [name for name in setting_names(method) if name in request.model_fields and name not in flags]
    if not issubclass(request, MethodFlags):
        settings = []
    titled = {"what most people need": flags, f"settings of {method.name} that differ from the preset": settings}
    return [Group(title, tuple(names)) for title, names in titled.items() if names]
