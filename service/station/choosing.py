"""Which version of a recipe serves, and which recipe a request without a name is for. A choice, once made, stays.

    models/<recipe>/ACTIVE    the version that serves, the one before it, since when and by whom
    models/DEFAULT            the recipe of requests that name none
    models/<recipe>/COLLECTING  since when, and by whose choice, a recipe without a model collects photos

The first version that serves is written down too. So a version that appears later serves when somebody activates it,
and one that is damaged changes nothing for the others. Where nothing is written down, the newest version is meant; and
where one of the versions cannot be read, nobody knows which that is: then none serves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from service.bundle.manifest import NAME_PATTERN, BundleError
from service.bundle.versions import Shelf
from service.station.decisions import DecisionError, Decisions

ACTIVE = "ACTIVE"
DEFAULT = "DEFAULT"
COLLECTING = "COLLECTING"

_NAME = re.compile(NAME_PATTERN)
_SINCE, _SEAL = "since ", "seal "


@dataclass(frozen=True)
class Choice:
    """A name that was chosen, and the one before it; `since` and `by` are empty in files that a person wrote."""

    name: str
    before: str | None = None
    since: str = ""
    by: str = ""

    def __str__(self) -> str:
        return f"chosen {self.since} by {self.by}" if self.since else "written down by hand"


def read_active(folder: Path, decisions: Decisions) -> Choice | None:
    """The version of the recipe in `folder` that was chosen, if any was; raises DecisionError, OSError."""
    remedy = f"POST /recipes/{folder.name}/activate?version=…"
    return _read(folder / ACTIVE, f"the version of {folder.name}", remedy, decisions)


def write_active(folder: Path, version: str, before: str | None, by: str, decisions: Decisions) -> Choice:
    """Choose a version; raises DecisionError or OSError and then changes nothing."""
    return _write(folder / ACTIVE, f"the version of {folder.name}", version, before, by, decisions)


def read_default(models: Path, decisions: Decisions) -> Choice | None:
    """The recipe that was chosen for requests without a name, if any was; raises DecisionError, OSError."""
    remedy = "POST /recipes/<recipe>/default, or set INSPECT_DEFAULT_RECIPE"
    return _read(models / DEFAULT, "the default recipe", remedy, decisions)


def write_default(models: Path, recipe: str, by: str, decisions: Decisions) -> Choice:
    """Choose the default recipe; raises DecisionError or OSError and then changes nothing."""
    return _write(models / DEFAULT, "the default recipe", recipe, None, by, decisions)


def read_collecting(folder: Path, decisions: Decisions) -> Choice | None:
    """Since when the recipe in `folder` collects photos, if it does; raises DecisionError, OSError."""
    return _read(folder / COLLECTING, _collects(folder), f"POST /recipes/{folder.name}/collect", decisions)


def write_collecting(folder: Path, by: str, decisions: Decisions) -> Choice:
    """Let the recipe collect photos; raises DecisionError or OSError and then changes nothing."""
    return _write(folder / COLLECTING, _collects(folder), folder.name, None, by, decisions)


def end_collecting(folder: Path, by: str, decisions: Decisions) -> None:
    """Let it collect no more; raises OSError."""
    decisions.remove(folder / COLLECTING, _collects(folder), by)


def _collects(folder: Path) -> str:
    return f"that {folder.name} collects photos"


def chosen_version(folder: Path, shelf: Shelf, decisions: Decisions) -> tuple[str, Choice | None]:
    """The version that serves, with the choice that says so, if any; raises BundleError, DecisionError, OSError."""
    if active := read_active(folder, decisions):
        if active.name not in shelf.names:
            raise BundleError(
                f"{folder / ACTIVE}: version {active.name!r} is not there: bring it back, or activate "
                f"{' or '.join(shelf.names)}"
            )
        return active.name, active
    if shelf.faults:
        sound = [name for name in shelf.names if name not in shelf.faults]
        remedy = f"repair it, remove it, or activate {' or '.join(sound)}" if sound else "copy it again"
        raise BundleError(
            f"which version of {folder.name} is the newest is not known: {next(iter(shelf.faults.values()))}: {remedy}"
        )
    return shelf.names[-1], None


def _read(file: Path, about: str, remedy: str, decisions: Decisions) -> Choice | None:
    data = decisions.read(file)
    if data is None:
        decisions.require_none(file, about)
        return None
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DecisionError(f"{file}: not text in UTF-8: {remedy}") from error
    seal = next((line.removeprefix(_SEAL) for line in lines if line.startswith(_SEAL)), None)
    text = [line for line in lines if line and not line.startswith(_SEAL)]
    decisions.require_seal(file, about, "\n".join(text), seal)
    since, _, by = next((line for line in text if line.startswith(_SINCE)), "").removeprefix(_SINCE).partition(" by ")
    names = " ".join(line for line in text if not line.startswith(_SINCE)).split()
    if not 1 <= len(names) <= 2 or not all(map(_NAME.fullmatch, names)):
        raise DecisionError(f"{file}: it names {' '.join(names)[:80]!r}, not one that may serve: {remedy}")
    return Choice(names[0], names[1] if len(names) > 1 else None, since, by)


def _write(file: Path, about: str, name: str, before: str | None, by: str, decisions: Decisions) -> Choice:
    choice = Choice(name, before, datetime.now(UTC).isoformat(), " ".join(by.split()))
    text = "\n".join([*filter(None, (name, before)), f"{_SINCE}{choice.since} by {choice.by}"])
    seal = decisions.seal(about, text)
    decisions.write(file, about, by, text, f"{text}\n{_SEAL}{seal}\n" if seal else f"{text}\n")
    return choice
