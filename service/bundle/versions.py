"""Which folders are versions of recipes, and which of them is newer. Nothing here says which one serves."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from service.bundle.folder import read_manifest_bytes
from service.bundle.litter import is_litter
from service.bundle.manifest import MANIFEST, NAME_PATTERN, BundleError, parse_manifest

_NAME = re.compile(NAME_PATTERN)


@dataclass(frozen=True)
class Version:
    """A version's folder; `created` is an instant in UTC, and `fault` says why the manifest cannot be believed."""

    name: str
    created: datetime | None = None
    fault: str | None = None


@dataclass(frozen=True)
class Shelf:
    """A recipe's folder: its versions, oldest first, those of an unknown age last; and why others are passed over."""

    versions: list[Version]
    ignored: dict[str, str]

    @property
    def names(self) -> list[str]:
        return [version.name for version in self.versions]

    @property
    def faults(self) -> dict[str, str]:
        return {version.name: version.fault for version in self.versions if version.fault}

    def newer_than(self, name: str) -> list[str]:
        """Sound versions that were created after `name`; none where the age of `name` is unknown."""
        created = {version.name: version.created for version in self.versions}
        if (since := created.get(name)) is None:
            return []
        return [other for other, when in created.items() if when is not None and (when, other) > (since, name)]


def survey(root: Path) -> dict[str, Shelf]:
    """The shelf of every recipe below `root`, by name; raises OSError where `root` cannot be read."""
    shelves = {folder.name: survey_recipe(folder) for folder in _folders(root)}
    return {name: shelf for name, shelf in shelves.items() if shelf.versions or shelf.ignored}


def survey_recipe(folder: Path) -> Shelf:
    """What is in the folder of one recipe."""
    versions: list[Version] = []
    ignored: dict[str, str] = {}
    for entry in _folders(folder):
        if not _NAME.fullmatch(entry.name):
            ignored[entry.name] = "not the name of a version"
            continue
        try:
            data = read_manifest_bytes(entry)
            manifest = parse_manifest(data, str(entry / MANIFEST))
        except BundleError as error:
            if _may_be_a_version(entry):
                versions.append(Version(entry.name, fault=str(error)))
            continue
        if (manifest.recipe, manifest.version) == (folder.name, entry.name):
            versions.append(Version(entry.name, manifest.created_utc))
        elif (manifest.recipe == folder.name or not _NAME.fullmatch(folder.name)) and _is_copy(
            data, folder.parent / manifest.recipe / manifest.version
        ):
            ignored[entry.name] = f"a copy of {manifest.recipe}/{manifest.version}"
        else:
            named = f"{manifest.recipe}/{manifest.version}"
            versions.append(Version(entry.name, fault=f"{entry}: the manifest is of {named}: do not rename bundles"))
    versions.sort(key=_age)
    return Shelf(versions, ignored)


def fingerprint(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes when a file below `folder` does: its name, size or time of change."""
    found = []
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                status = os.lstat(Path(place, name))
            except OSError:
                continue
            found.append((str(Path(place, name)), status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))


def _folders(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if not entry.name.startswith(".") and not is_litter(entry.name, folder=True) and entry.is_dir():
            yield entry


def _age(version: Version) -> tuple[bool, float, str]:
    created = version.created
    return created is None, created.timestamp() if created else 0.0, version.name


def _may_be_a_version(entry: Path) -> bool:
    """Whether a folder without a sound manifest is a version that is half copied or damaged, not somebody's notes."""
    try:
        return entry.is_symlink() or any(
            inside.name in {MANIFEST, "golden"} or inside.suffix == ".onnx" for inside in entry.iterdir()
        )
    except OSError:
        return True


def _is_copy(data: bytes, original: Path) -> bool:
    try:
        return read_manifest_bytes(original) == data
    except BundleError:
        return False
