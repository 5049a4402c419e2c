"""What a method is: how it learns an anomaly map from photos, and what the rest of training must know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from service.bundle.manifest import Pretrained
from training.evaluation.parts import Sheet
from training.loop.runs import Run
from training.settings import RecipeSettings, from_record

Settings = TypeVar("Settings", bound=RecipeSettings)

_OF_TILES = {"tiles", "overlap"}


@dataclass(frozen=True)
class TrainingSet:
    """What there is to learn from, uint8 RGB `(N, 3, S, S)`: good photos, and textures for a method that asks for them.

    `defects` are labelled ones that may be learned from, `masks` bool `(M, S, S)` where they are; never test images.
    """

    good: Tensor
    textures: Tensor | None = None
    defects: Tensor | None = None
    masks: Tensor | None = None


class AblationRow(Protocol[Settings]):
    """A difference from the full method; `paper`: its image AUROC, pixel AUROC and pixel AP in percent."""

    @property
    def title(self) -> str: ...
    @property
    def paper(self) -> tuple[float, float, float] | None: ...
    @property
    def other_textures(self) -> bool:
        """Learns from the other folder of textures."""

    def apply(self, preset: Settings) -> Settings:
        """The row's settings; a field that does not exist raises TypeError."""


@dataclass(frozen=True)
class CheckpointImport:
    """How others' weights become a network: what each file is, by the flag that names it, and the map of those given.

    The first of the files is needed, the others may be.
    """

    files: Mapping[str, str]
    load: Callable[[Mapping[str, Path]], nn.Module]


@dataclass(frozen=True)
class Method(Generic[Settings]):
    """`fit` gives a module in eval mode, RGB `(N, 3, H, W)` in [0, 1] -> map `(N, H, W)` in [0, 1], for ONNX.

    The presets are complete settings; their fields are the flags of the command line and what the manifest keeps.
    A method that learns in steps gives its lesson to `training.loop.fit.train`; another one needs no loop.
    """

    name: str
    title: str
    presets: Mapping[str, Settings]
    fit: Callable[[Settings, TrainingSet, Run, torch.device], nn.Module]
    # What is chosen after the training with held-out good photos and defects rendered on them, uint8 `(N, 3, H, W)`:
    # the settings that the network has by then.
    settle: Callable[[Settings, nn.Module, Tensor, Tensor], dict[str, Any]] | None = None
    # It learns what each position of a photo looks like: tiles, which are of all positions, teach it nothing.
    of_positions: bool = False
    # Bytes that it needs for so many images of the settings' size, where that is more than a few.
    memory: Callable[[Settings, int], int] | None = None
    # What the manifest says of weights that it does not learn itself; raises UserError where they are not there.
    pretrained: Callable[[Settings], Pretrained] | None = None
    # The textures that it learns from, of a folder or procedural ones; None: it needs none.
    textures: Callable[[Settings, Path | None], Tensor] | None = None
    # Its map with an untrained network: what is timed without a bundle. None: there is none before it saw photos.
    network: Callable[[Settings], nn.Module] | None = None
    # Whether it learns from the defects of a training set too, beside the good photos.
    learns_defects: bool = False
    # What it learned from, for the report.
    samples: Callable[[Settings, TrainingSet], Sheet] | None = None
    # Settings that make the map of what was trained, with the value that stands for all of them: one training serves.
    untrained: Mapping[str, Any] = field(default_factory=dict)
    ablations: Mapping[str, AblationRow[Settings]] = field(default_factory=dict)
    # Settings that the ablation rows decide: flags of `ablate` for them would have no effect.
    set_by_ablations: frozenset[str] = frozenset()
    checkpoint: CheckpointImport | None = None

    def preset(self, name: str) -> Settings:
        """Raises ValueError for an unknown one."""
        if name not in self.presets:
            raise ValueError(f"{self.name} has no preset {name!r}: choose {', '.join(self.presets)}")
        return self.presets[name]

    def recorded(self, record: Mapping[str, Any]) -> Settings:
        """The settings that a manifest kept; TypeError or ValueError where they are not this method's."""
        settings: Settings = from_record(next(iter(self.presets.values())), record)
        return settings

    def claimed(self, settings: Settings) -> dict[str, Any]:
        """What tells one run from another."""
        told = {"method": self.name, **asdict(settings)}
        # Of one tile there is nothing to tell, and runs from before there were tiles do not.
        return {name: value for name, value in told.items() if settings.grid.count > 1 or name not in _OF_TILES}
