"""Flags of a method: its presets, and each of its settings with sentence, range and default."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from training.methods import METHODS
from training.methods.protocol import Method
from training.settings import RecipeSettings, changed

_PRESET = "the row of settings from which those given here differ"
_METHOD = "the method; --help shows the presets and settings of the one that is named"


class MethodFlags(BaseModel):
    """A method, one of its presets and settings that differ; `with_settings` adds a field for each setting."""

    model_config = ConfigDict(frozen=True)

    method: Annotated[str, Field(description=_METHOD)]
    preset: Annotated[str, Field(description=_PRESET)]

    def changes(self) -> dict[str, Any]:
        """Settings that were given, by name."""
        given = self.model_fields_set - MethodFlags.model_fields.keys()
        return {name: getattr(self, name) for name in setting_names(METHODS[self.method]) if name in given}

    def settings(self, **more: Any) -> RecipeSettings:
        """The preset with what was given and with `more`."""
        return settings_of(self.method, self.preset, {**self.changes(), **more})


def settings_of(method: str, preset: str, changes: Mapping[str, Any]) -> RecipeSettings:
    """The preset of a method with what differs from it."""
    made: RecipeSettings = changed(METHODS[method].preset(preset), changes)
    return made


Flags = TypeVar("Flags", bound=MethodFlags)


def with_settings(
    request: type[Flags], method: Method[Any], preset: str, *, without: Collection[str] = ()
) -> type[Flags]:
    """The request with the presets and settings of `method`; defaults are those of the one like `preset`.

    Settings `without` flags stay as the preset has them.
    """
    names = tuple(method.presets)
    default = preset_like(method, preset)
    added: dict[str, Any] = {
        "method": (Literal[tuple(METHODS)], Field(method.name, description=_METHOD)),
        "preset": (Literal[names], Field(default, description=_PRESET)),
    }
    taken = {*without, *request.model_fields}
    added |= {name: one for name, one in _fields(method.preset(default)).items() if name not in taken}
    return create_model(request.__name__, __base__=request, __doc__=request.__doc__, **added)


def preset_like(method: Method[Any], name: str) -> str:
    """The method's preset of this name, or its own of that kind: `paper`, `riad-paper`; its first where it has none."""
    return next((one for one in method.presets if one in (name, f"{method.name}-{name}")), next(iter(method.presets)))


def setting_names(method: Method[Any]) -> tuple[str, ...]:
    """The method's settings that are flags, those of its parts included."""
    return tuple(_fields(next(iter(method.presets.values()))))


def _fields(settings: Any) -> dict[str, Any]:
    """Type and field, with the value that it has there as default, of each setting that is a flag."""
    found: dict[str, Any] = {}
    kinds = get_type_hints(type(settings))
    for one in fields(settings):
        value = getattr(settings, one.name)
        if is_dataclass(value):
            found |= _fields(value)
        elif one.metadata["flag"]:
            limits = {"ge": one.metadata["low"], "le": one.metadata["high"]}
            given = {name: limit for name, limit in limits.items() if limit is not None}
            found[one.name] = (kinds[one.name], Field(value, description=one.metadata["says"], **given))
    return found
