"""What the images of a recipe version are judged by: the manifest's thresholds and quality limits, or changed ones.

A change is made by an administrator without a new version. It belongs to one version, since the scores of another
network mean something else, and is kept in `models/<recipe>/LIMITS-<version>.json`, beside ACTIVE. A file that cannot
be read, makes no sense or lacks the seal of service.station.decisions where there is a key is an error, never passed
over: the recipe would judge by limits that nobody wants.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from service.bundle.manifest import (
    Manifest,
    Name,
    QualityLimits,
    Thresholds,
    UnitInterval,
    require_strict_json,
)
from service.station.decisions import DecisionError, Decisions

# Fields of the file that are no limits.
_NOT_LIMITS = {"version", "changed", "by", "seal"}

QualityName = Literal[
    "sharpness_min",
    "contrast_min",
    "brightness_min",
    "brightness_max",
    "dark_max",
    "bright_max",
    "aspect_min",
    "aspect_max",
]


class LimitsError(Exception):
    """The limits cannot be used; the message names the file or the value, and the remedy."""


class LimitsChange(BaseModel):
    """New values of some limits; null takes the manifest's value again, what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    review: UnitInterval | None = None
    reject: UnitInterval | None = None
    pixel: UnitInterval | None = None
    min_area: Annotated[int, Field(ge=0)] | None = None
    quality: dict[QualityName, float | None] = {}


class StoredChange(LimitsChange):
    """The file: what differs from the manifest of `version`, since when and by whom; with a key, sealed."""

    version: Name
    changed: AwareDatetime
    by: str
    seal: str | None = None

    @property
    def text(self) -> str:
        """What a seal is of."""
        return self.model_dump_json(exclude={"seal"}, exclude_none=True)

    @property
    def empty(self) -> bool:
        values = self.model_dump(exclude=_NOT_LIMITS, exclude_none=True)
        return not values.pop("quality") and not values


@dataclass(frozen=True)
class Limits:
    """Limits in force; `change` is None where they are the manifest's."""

    thresholds: Thresholds
    quality: QualityLimits
    change: StoredChange | None = None

    @cached_property
    def sha256(self) -> str:
        """The same for limits that judge every image alike, whoever set them."""
        judged = self.thresholds.model_dump(mode="json", exclude={"calibration"})
        return hashlib.sha256(json.dumps([judged, self.quality.model_dump(mode="json")]).encode()).hexdigest()

    @classmethod
    def of(cls, manifest: Manifest, change: StoredChange | None = None) -> Self:
        """The manifest's limits with `change` applied; raises LimitsError where they contradict each other."""
        if change is None or change.empty:
            return cls(manifest.thresholds, manifest.quality)
        values = change.model_dump(exclude={*_NOT_LIMITS, "quality"}, exclude_none=True)
        try:
            thresholds = Thresholds.model_validate(dict(manifest.thresholds) | values)
            quality = QualityLimits.model_validate(dict(manifest.quality) | _given(change.quality))
        except ValidationError as error:
            raise LimitsError(_first(error)) from error
        for name in ("brightness", "aspect"):
            low, high = getattr(quality, f"{name}_min"), getattr(quality, f"{name}_max")
            if low > high:
                raise LimitsError(f"quality.{name}_min {low} is above quality.{name}_max {high}")
        return cls(thresholds, quality, change)


def read_limits(folder: Path, manifest: Manifest, decisions: Decisions) -> Limits:
    """The limits of a version of the recipe in `folder`; raises LimitsError, OSError."""
    file, about = _file(folder, manifest.version), _about(folder, manifest.version)
    try:
        data = decisions.read(file)
        if data is None:
            decisions.require_none(file, about)
            return Limits.of(manifest)
        change = StoredChange.model_validate_json(data)
        require_strict_json(data)
        decisions.require_seal(file, about, change.text, change.seal)
        if change.version != manifest.version:
            raise LimitsError(f"it is of version {change.version}")
        return Limits.of(manifest, change)
    except DecisionError as error:
        raise LimitsError(f"{error}; or {_reset(manifest)}") from error
    except (ValueError, LimitsError) as error:
        reason = _first(error) if isinstance(error, ValidationError) else str(error)
        raise LimitsError(f"{file}: {reason}: repair it, or {_reset(manifest)}") from error


def change_limits(folder: Path, manifest: Manifest, change: LimitsChange, by: str, decisions: Decisions) -> Limits:
    """Apply and store `change`, made by `by`, on top of earlier ones; raises LimitsError and then changes nothing."""
    before = read_limits(folder, manifest, decisions).change
    kept = before.model_dump(exclude=_NOT_LIMITS) if before else {"quality": {}}
    quality = _given(kept["quality"] | change.quality)
    values = kept | change.model_dump(exclude_unset=True) | {"quality": quality}
    stored = StoredChange(**values, version=manifest.version, changed=datetime.now(UTC), by=by)
    limits = Limits.of(manifest, stored)
    try:
        _store(folder, stored, decisions)
    except DecisionError as error:
        raise LimitsError(str(error)) from error
    except OSError as error:
        raise LimitsError(f"{_file(folder, manifest.version)}: cannot be written: {error.strerror}") from error
    return limits


def reset_limits(folder: Path, version: str, by: str, decisions: Decisions) -> None:
    """Forget the change of a version; raises DecisionError or OSError and then forgets nothing."""
    _store(folder, StoredChange(version=version, changed=datetime.now(UTC), by=by), decisions)


def _store(folder: Path, change: StoredChange, decisions: Decisions) -> None:
    file, about = _file(folder, change.version), _about(folder, change.version)
    seal = decisions.seal(about, change.text)
    # With a key the file stays, sealed: one that is gone could as well have been taken away.
    if change.empty and seal is None:
        decisions.remove(file, about, change.by)
        return
    content = change.model_copy(update={"seal": seal}).model_dump_json(exclude_none=True, indent=2) + "\n"
    decisions.write(file, about, change.by, change.text, content)


def _about(folder: Path, version: str) -> str:
    return f"the limits of {folder.name}/{version}"


def _reset(manifest: Manifest) -> str:
    return f"go back to the manifest's limits with POST /recipes/{manifest.recipe}/limits/reset"


def _file(folder: Path, version: str) -> Path:
    return folder / f"LIMITS-{version}.json"


def _given(values: dict[Any, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    reason = str(first["msg"]).removeprefix("Value error, ")
    return f"{where}: {reason}" if where else reason
