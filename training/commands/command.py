"""What a command is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from training.methods import METHODS
from training.methods.protocol import Method


@dataclass(frozen=True)
class Command:
    """The request that `request` makes for a method and a preset, whose docstring is the help, and what runs it.

    Flags for `first` are what most people need: the help begins with them. `method` is taken where none is named.
    """

    request: Callable[[Method[Any], str | None], type[BaseModel]]
    run: Callable[[Any], int]
    first: tuple[str, ...] = ()
    method: str = next(iter(METHODS))
