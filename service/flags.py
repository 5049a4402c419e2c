"""Command lines made of pydantic models: one field gives flag, help, unit, range, default and validation.

argparse splits the words and prints the help; pydantic alone decides what a value may be. A wrong value is one line
that names the flag or the environment variable and what to give instead.
"""

from __future__ import annotations

import argparse
import os
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

Model = TypeVar("Model", bound=BaseModel)

# How the names of flags end whose value is a folder, not a file.
_FOLDERS = ("dir", "models", "data", "textures", "imagenet", "run", "runs", "cache", "records", "bundle", "triton")


class FlagError(ValueError):
    """A command line or the environment asks for something impossible; one line for each value."""


class _Marker(Enum):
    POSITIONAL = "positional"


# Marks a field whose values stand on the command line without a flag.
POSITIONAL = _Marker.POSITIONAL


@dataclass(frozen=True)
class Alone:
    """Marks a field whose flag may stand without a value, which is then this one."""

    value: str


@dataclass(frozen=True)
class Group:
    """Flags that the help shows under one title; `fields` by name. What no group names comes last."""

    title: str
    fields: tuple[str, ...]


def add_flags(
    parser: argparse.ArgumentParser, model: type[BaseModel], groups: Iterable[Group] = (), *, environment: str = ""
) -> None:
    """Give `parser` a flag for each field of `model`; `environment` is the prefix of the variables it also reads."""
    titled = [(group.fields, parser.add_argument_group(group.title)) for group in groups]
    placed = {name: target for names, target in titled for name in names}
    rest = parser.add_argument_group("more settings") if placed else parser
    for name in dict.fromkeys([*placed, *model.model_fields]):
        field, target = model.model_fields[name], placed.get(name, rest)
        options: dict[str, Any] = {"help": _help(name, field, environment), "default": argparse.SUPPRESS}
        kind = _kind(field)
        if kind is bool:
            options |= {"nargs": "?", "const": "true", "metavar": "true|false"}
        else:
            options["metavar"] = _metavar(name, kind)
        for alone in (one for one in field.metadata if isinstance(one, Alone)):
            options |= {"nargs": "?", "const": alone.value}
        many = get_origin(kind) in {list, tuple}
        if POSITIONAL in field.metadata:
            target.add_argument(name, **options | {"nargs": "+" if many else None})
            continue
        if many:
            options |= {"nargs": "+", "action": "extend"}
        target.add_argument(flag(name), **options)


def read_flags(model: type[Model], given: Mapping[str, Any], *, environment: str = "") -> Model:
    """The model of what was `given` by name (text of a command line) and, for settings, of the environment.

    Raises FlagError with a line for each value that the model refuses.
    """
    try:
        return model(**{name: value for name, value in given.items() if name in model.model_fields})
    except ValidationError as error:
        raise FlagError("\n".join(_complaint(model, one, given, environment) for one in error.errors())) from None


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _complaint(model: type[BaseModel], error: Any, given: Mapping[str, Any], environment: str) -> str:
    name = str(error["loc"][0]) if error["loc"] else ""
    if name not in model.model_fields:
        # A check of several fields together, or a variable that no field has.
        return f"{name}: {error['msg']}" if name else str(error["msg"]).removeprefix("Value error, ")
    field = model.model_fields[name]
    value = error["input"]
    where = name if POSITIONAL in field.metadata else flag(name)
    if name not in given and environment and f"{environment}{name.upper()}" in os.environ:
        where = f"{environment}{name.upper()}"
    if error["type"] == "missing":
        return f"{where} is missing: {field.description or name}"
    reason = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    remedy = f" (allowed: {allowed})" if (allowed := _range(field)) else ""
    return f"{where} {value}: {reason}{remedy}"


def _help(name: str, field: FieldInfo, environment: str) -> str:
    notes = [text for text in (_range(field), _default(field)) if text]
    if environment:
        notes.append(f"{environment}{name.upper()}")
    # argparse formats with %.
    return f"{field.description or ''} [{'; '.join(notes)}]".replace("%", "%%") if notes else field.description or ""


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return ""
    default = field.get_default(call_default_factory=False)
    if field.is_required() or default is PydanticUndefined:
        return "" if POSITIONAL in field.metadata else "required"
    if isinstance(default, Enum):
        default = default.value
    if default is None or default in ((), [], {}, ""):
        return "default: none"
    if isinstance(default, bool):
        return f"default: {str(default).lower()}"
    if isinstance(default, float):
        return f"default: {default:g}"
    return f"default: {' '.join(map(str, default)) if isinstance(default, (list, tuple)) else default}"


def _range(field: FieldInfo) -> str:
    low = high = ""
    for one in field.metadata:
        if isinstance(one, annotated_types.Ge):
            low = f"from {one.ge:g}"
        elif isinstance(one, annotated_types.Gt):
            low = f"above {one.gt:g}"
        elif isinstance(one, annotated_types.Le):
            high = f"to {one.le:g}" if low else f"at most {one.le:g}"
        elif isinstance(one, annotated_types.Lt):
            high = f"below {one.lt:g}"
    return f"{low} {high}".strip()


def _kind(field: FieldInfo) -> Any:
    """The type without `| None`."""
    kind = field.annotation
    if get_origin(kind) in {Union, types.UnionType}:
        (kind,) = [one for one in get_args(kind) if one is not type(None)][:1]
    return kind


def _metavar(name: str, kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if kind is Path:
        return "FOLDER" if name.endswith(_FOLDERS) else "FILE"
    return {int: "N", float: "NUMBER"}.get(kind, name.upper())
