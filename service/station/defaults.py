"""The recipe that a request without a name is for."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from service.bundle.manifest import NAME_PATTERN
from service.station.choosing import Choice, read_default, write_default
from service.station.decisions import DecisionError, Decisions

# The recipe that comes with the project: something to try, never what an unnamed request is for beside another.
DEMO = "demo"

_REMEDY = "make one the default with POST /recipes/<recipe>/default or INSPECT_DEFAULT_RECIPE"


class DefaultRecipe:
    """The setting; else the one that was chosen; else the only one beside the demo, which then stays the default."""

    def __init__(self, setting: str | None, models: Path, decisions: Decisions) -> None:
        self.setting = setting
        self._models = models
        self._decisions = decisions
        self._chosen: Choice | DecisionError | None = None

    def read(self) -> None:
        """Take what was chosen before; what cannot be believed is told to those who ask for the default."""
        if self.setting:
            return
        try:
            self._chosen = read_default(self._models, self._decisions)
        except DecisionError as error:
            self._chosen = error
        except OSError as error:
            self._chosen = DecisionError(f"the file that names the default cannot be read: {error}")

    def choose(self, name: str, by: str) -> None:
        """Make a recipe the default; raises DecisionError or OSError and then changes nothing."""
        if self.setting:
            raise DecisionError(f"INSPECT_DEFAULT_RECIPE is {self.setting}: change that setting instead")
        self._chosen = write_default(self._models, name, by, self._decisions)

    def keep(self, ready: Collection[str], failed: Collection[str]) -> str | None:
        """Where one recipe alone comes into question, it stays the default; gives a fact for the log if it may not."""
        real = {*ready, *failed} - {DEMO}
        if self.setting or self._chosen or len(real) != 1 or not real <= {*ready}:
            return None
        (only,) = real
        try:
            self.choose(only, "being the only recipe")
        except (DecisionError, OSError) as error:
            # Until the next start it stays the default all the same.
            self._chosen = Choice(only)
            return f"recipe {only} is the default until the next start alone, set INSPECT_DEFAULT_RECIPE: {error}"
        return None

    def name(self, recipes: Collection[str]) -> str:
        """The default among `recipes`; raises DecisionError, whose message goes on from "and", where there is none."""
        if self.setting:
            return self.setting
        if isinstance(self._chosen, DecisionError):
            raise DecisionError(f"the default cannot be believed ({self._chosen}), {_REMEDY}")
        if self._chosen and self._chosen.name not in recipes:
            raise DecisionError(f"the default, {self._chosen.name}, is not there, {_REMEDY}")
        if self._chosen:
            return self._chosen.name
        names = {name for name in recipes if re.fullmatch(NAME_PATTERN, name)}
        if len(candidates := names - {DEMO} or names) != 1:
            raise DecisionError(f"there is no default, {_REMEDY}")
        return candidates.pop()
