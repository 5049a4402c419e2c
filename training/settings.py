"""Settings: what a field of them says of itself, and those that every method has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from service.bundle.manifest import ScoreFormula
from training.tiles import Grid

# Of what a recipe sees of a photo.
_MOST_SIDE = 4096
T = TypeVar("T")


def setting(default: T, says: str, low: float | None = None, high: float | None = None, *, flag: bool = True) -> T:
    """A field of a settings dataclass: its default, a sentence for `--help`, its range, whether it is a flag."""
    made: T = field(default=default, metadata={"says": says, "low": low, "high": high, "flag": flag})
    return made


def require_ranges(settings: Any) -> None:
    """ValueError that names the first field outside of its range."""
    for one in fields(settings):
        low, high = bounds(one)
        value = getattr(settings, one.name)
        if isinstance(value, int | float) and not low <= value <= high:
            raise ValueError(f"{one.name.replace('_', '-')} {value}: choose {span(one)}")


def bounds(one: Field[Any]) -> tuple[float, float]:
    """Lowest and highest value of a field; infinite where it has none."""
    low, high = one.metadata.get("low"), one.metadata.get("high")
    return (-float("inf") if low is None else low, float("inf") if high is None else high)


def span(one: Field[Any]) -> str:
    """A field's range in words."""
    low, high = bounds(one)
    return f"{low} to {high}" if high < float("inf") else f"{low} or more"


@dataclass(frozen=True)
class RecipeSettings:
    """What every method needs to be told; a method's own settings come after these."""

    preset: str = setting("", "the row of the method's presets that the other settings differ from", flag=False)
    seed: int = setting(0, "of everything random", 0)
    size: int = setting(
        256, "pixels: images, or each of their tiles, are resized to size x size, stretched; a multiple of 32", 32, 4096
    )
    tiles: str = setting("1x1", "rows x columns of tiles that an image is cut into, each looked at at full size")
    overlap: int = setting(32, "pixels that neighbouring tiles share, at most half of size", 0, 2048)
    score: ScoreFormula = setting("paper", "what makes one number of the map, see training/bundling/scores.py")
    holdout: float = setting(0.15, "share of the good photos kept for calibration, never trained on", 0.0, 0.9)

    def __post_init__(self) -> None:
        require_ranges(self)
        if self.size % 32:
            raise ValueError(f"size {self.size}: choose a multiple of 32")
        if max(self.grid.height, self.grid.width) > _MOST_SIDE:
            raise ValueError(
                f"size {self.size} and tiles {self.tiles} make {self.grid.width}x{self.grid.height} pixels, more than "
                f"{_MOST_SIDE} a side: choose a smaller size or fewer tiles"
            )

    @property
    def grid(self) -> Grid:
        """How an image is cut; raises ValueError where tiles or overlap make none."""
        return Grid.of(self.tiles, self.size, self.overlap)


def changed(settings: Any, values: Mapping[str, Any]) -> Any:
    """Settings with other values of fields by name, of its own or of a part that is settings itself."""
    parts = {f.name: getattr(settings, f.name) for f in fields(settings) if is_dataclass(getattr(settings, f.name))}
    own = {f.name: values[f.name] for f in fields(settings) if f.name in values and f.name not in parts}
    return replace(settings, **own, **{name: changed(part, values) for name, part in parts.items()})


def from_record(settings: Any, record: Mapping[str, Any]) -> Any:
    """Settings of the class of `settings` with the values that a manifest kept; TypeError for a name that it has not.

    Values that are not in the record, of a setting that came later, stay those of `settings`.
    """
    values = {
        name: from_record(getattr(settings, name), value) if isinstance(value, Mapping) else value
        for name, value in record.items()
    }
    return replace(settings, **values)
