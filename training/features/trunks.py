"""The trunks by name, where their weights come from, and what the manifest says of these.

Weights learned on ImageNet have terms that are unsettled for some users: a method that builds on them says so in the
manifest, and DRÆM itself stays free of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from torch import Tensor

from service.bundle.manifest import Pretrained
from training.features.efficientnet_lite import PRETRAINED, EfficientNetLite0, packaged_weights, weights_file
from training.features.torchvision_trunks import MobileNetV2, ResNet
from training.features.trunk import Trunk, TrunkError
from training.settings import setting
from training.weight_files import read_tensors

PACKAGED = "efficientnet-lite0"
TrunkName = Literal[
    "efficientnet-lite0",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "mobilenet_v2",
]
TRUNKS: dict[TrunkName, Callable[[], Trunk]] = {
    "efficientnet-lite0": EfficientNetLite0,
    "resnet18": partial(ResNet, (2, 2, 2), bottleneck=False),
    "resnet34": partial(ResNet, (3, 4, 6), bottleneck=False),
    "resnet50": partial(ResNet, (3, 4, 6), bottleneck=True),
    "resnet101": partial(ResNet, (3, 4, 23), bottleneck=True),
    "resnext50_32x4d": partial(ResNet, (3, 4, 6), bottleneck=True, groups=32, group_width=4),
    "wide_resnet50_2": partial(ResNet, (3, 4, 6), bottleneck=True, group_width=128),
    "wide_resnet101_2": partial(ResNet, (3, 4, 23), bottleneck=True, group_width=128),
    "mobilenet_v2": MobileNetV2,
}
_WRAPPED = ("module.", "model.", "backbone.", "encoder.")  # what trainers put before the names of a network's weights


@dataclass(frozen=True)
class TrunkChoice:
    """Settings of every method that builds on pretrained features."""

    trunk: TrunkName = setting("efficientnet-lite0", "the pretrained network whose features are used")
    weights: str = setting(
        "", "file of the trunk's weights with torchvision's names, .pth or .safetensors; without it the package's"
    )
    weights_licence: str = setting("not stated", "licence of that file, for the manifest")

    def __post_init__(self) -> None:
        if self.trunk not in TRUNKS:
            raise ValueError(f"trunk {self.trunk}: choose {', '.join(TRUNKS)}")


def load_trunk(choice: TrunkChoice | None = None) -> Trunk:
    """The trunk with its pretrained weights, frozen, in eval mode. TrunkError where there are none, or others."""
    choice = choice or TrunkChoice()
    trunk = TRUNKS[choice.trunk]()
    file = _named(choice)
    weights = read_tensors(file) if file else packaged_weights()
    for prefix in _WRAPPED:
        if weights and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    try:
        trunk.take(weights)
    except KeyError as error:
        raise TrunkError(
            f"{file}: not the weights of {choice.trunk}: {error.args[0]} is not in it, but {_shown(weights)}; names "
            f"are torchvision's. Known trunks: {', '.join(TRUNKS)}"
        ) from error
    except TrunkError as error:
        raise TrunkError(f"{file}: not the weights of {choice.trunk}: {error}") from error
    return trunk.requires_grad_(False).eval()


def pretrained_of(choice: TrunkChoice) -> Pretrained:
    """What the manifest says of the weights; TrunkError where there are none."""
    file = _named(choice)
    if file is None:
        weights_file()
        return PRETRAINED
    if not file.is_file():
        raise TrunkError(f"--weights {file}: {'a folder, no file' if file.is_dir() else 'no such file'}")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Pretrained(name=choice.trunk, origin=f"file {file.name}", licence=choice.weights_licence, sha256=digest)


def _named(choice: TrunkChoice) -> Path | None:
    """The file that was named; None where the package's are meant."""
    if choice.weights:
        return Path(choice.weights)
    if choice.trunk != PACKAGED:
        raise TrunkError(
            f"--trunk {choice.trunk}: only the weights of {PACKAGED} come as a package: name a local file with "
            f"--weights FILE, as torchvision's or timm's {choice.trunk} keeps them"
        )
    return None


def _shown(weights: Mapping[str, Tensor]) -> str:
    names = sorted(weights)
    return f"{len(names)} others such as {names[0]}" if names else "nothing"
