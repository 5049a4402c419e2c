"""Recipes without a model: what a line sends for one is kept for its first training, and never judged.

models/<recipe>/COLLECTING    since when and by whom; it counts as long as the recipe has no version
"""

from __future__ import annotations

import logging
import re
import sqlite3
from pathlib import Path

from service.bundle.manifest import NAME_PATTERN
from service.station.choosing import COLLECTING, Choice, end_collecting, read_collecting, write_collecting
from service.station.decisions import DecisionError, Decisions

log = logging.getLogger("draem_inspect")

# What was refused has no image, what was inspected has a score.
_COLLECTED = (
    "SELECT count(DISTINCT image_sha256) FROM inspections INDEXED BY by_recipe WHERE recipe = ? AND verdict = "
    "'NOT_INSPECTED' AND score IS NULL AND image_sha256 IS NOT NULL"
)


class CollectingRecipes:
    """Those below `models`, as of the last look."""

    def __init__(self, models: Path, decisions: Decisions) -> None:
        self._models = models
        self._decisions = decisions
        self.names: dict[str, Choice] = {}

    def look(self) -> None:
        """Find them; raises OSError."""
        found: dict[str, Choice] = {}
        for file in sorted(self._models.glob(f"*/{COLLECTING}")):
            try:
                if choice := read_collecting(file.parent, self._decisions):
                    found[file.parent.name] = choice
            except DecisionError as error:
                log.error("%s collects nothing: %s", file.parent.name, error)
        self.names = found

    def begin(self, name: str, by: str) -> None:
        """Collect photos for a recipe; raises DecisionError, OSError."""
        if not re.fullmatch(NAME_PATTERN, name):
            raise DecisionError(f"{name[:80]!r} is no name of a recipe: letters, digits, '.', '_' and '-', at most 64")
        (self._models / name).mkdir(parents=True, exist_ok=True)
        self.names[name] = write_collecting(self._models / name, by, self._decisions)

    def end(self, name: str, by: str) -> None:
        """Collect no more; what was kept stays. Raises DecisionError, OSError."""
        end_collecting(self._models / name, by, self._decisions)
        self.names.pop(name, None)


def why_collecting(name: str) -> str:
    return f"recipe {name!r} has no model yet and collects photos for its first training: POST them to /inspect"


def collected(connection: sqlite3.Connection, recipe: str) -> int:
    """Different photos that are kept for the first training of a recipe."""
    count: int = connection.execute(_COLLECTED, (recipe,)).fetchone()[0]
    return count
