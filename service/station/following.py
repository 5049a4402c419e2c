"""The folder of recipes while the service runs: recipes and versions come and go, are half copied, are repaired."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from service.bundle.files import remove_leftovers
from service.bundle.versions import Shelf, fingerprint, survey

log = logging.getLogger("draem_inspect")


class ModelsFolder:
    """Looks at the folder again and again, and knows which recipes to try: those that changed and now stand still."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tried: dict[str, object] = {}
        self._seen: dict[str, object] = {}
        self._told: set[str] = set()
        # At the last look.
        self.shelves: dict[str, Shelf] = {}

    def look(self) -> dict[str, Shelf]:
        """The recipes that are there now; raises OSError where the folder cannot be read."""
        shelves = survey(self._root)
        for name, shelf in shelves.items():
            for entry, reason in shelf.ignored.items():
                self.tell(f"{self._root / name / entry} is passed over: {reason}")
            for version, fault in shelf.faults.items():
                self.tell(f"recipe {name}: version {version} cannot serve: {fault}")
        self.shelves = {name: shelf for name, shelf in shelves.items() if shelf.versions}
        return self.shelves

    def shelf(self, name: str) -> Shelf:
        """What the folder of a recipe holds now."""
        return survey(self._root).get(name, Shelf([], {}))

    def shelves_now(self) -> dict[str, Shelf]:
        """What the folder of every recipe holds now; of all that there were at the last look, where it is away."""
        try:
            return survey(self._root)
        except OSError:
            return self.shelves

    def versions_beside(self, serving: Mapping[str, str]) -> dict[str, tuple[int, int]]:
        """How many versions of each recipe were newer than the one that serves, how many faulty, at the last look."""
        return {
            name: (len(shelf.newer_than(serving.get(name, ""))), len(shelf.faults))
            for name, shelf in self.shelves.items()
        }

    def tidy(self) -> None:
        """Remove what writers left behind that ended in the middle."""
        for folder in (self._root, *(self._root / name for name in self.shelves)):
            remove_leftovers(folder)

    def trying(self, name: str) -> None:
        """Note that a recipe is tried as it is now."""
        self._tried[name] = fingerprint(self._root / name)

    def due(self, ready: Collection[str], failed: Collection[str]) -> list[str]:
        """Recipes of the last look that are not ready and whose files changed since they were tried, but not since the
        look before: a copy is under way until nothing changes any more.
        """
        due = []
        for name in self.shelves:
            if name in ready:
                self._tried.pop(name, None)
                continue
            now = fingerprint(self._root / name)
            still = self._seen.get(name) == now
            self._seen[name] = now
            if name not in failed:
                self._tried[name] = None
            elif name not in self._tried:
                # Taken out of service while it ran: not tried again until something changes.
                self._tried[name] = now
            elif still and self._tried[name] != now:
                due.append(name)
        return due

    def tell_newer(self, serving: Mapping[str, str]) -> None:
        """Log which versions are newer than those that serve."""
        for name, version in serving.items():
            if name in self.shelves and (newer := self.shelves[name].newer_than(version)):
                self.tell(
                    f"recipe {name}: version {version} serves; newer, not active: {', '.join(newer)} "
                    f"(POST /recipes/{name}/activate?version=…)"
                )

    def tell(self, fact: str) -> None:
        """Log a fact about the folder, once."""
        if fact not in self._told:
            self._told.add(fact)
            log.warning("%s", fact)
