"""Random weights under torchvision's names, and what its networks make of them, written out name by name."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]
Features = tuple[Tensor, Tensor, Tensor]
_EXPANSION = 4


class RandomState:
    """Draws convolutions and batch norms until the network is there."""

    def __init__(self) -> None:
        self.state: State = {}
        self.generator = torch.Generator().manual_seed(3)

    def layer(self, convolution: str, norm: str, channels: int, out: int, kernel: int, groups: int = 1) -> None:
        shape = (out, channels // groups, kernel, kernel)
        spread = (2 / (channels // groups * kernel**2)) ** 0.5
        self.state[f"{convolution}.weight"] = spread * torch.randn(shape, generator=self.generator)
        for name in ("weight", "running_var"):
            self.state[f"{norm}.{name}"] = 0.5 + torch.rand(out, generator=self.generator)
        for name in ("bias", "running_mean"):
            self.state[f"{norm}.{name}"] = 0.1 * torch.randn(out, generator=self.generator)
        self.state[f"{norm}.num_batches_tracked"] = torch.tensor(7)


@cache
def resnet_state(
    blocks: tuple[int, ...] = (2, 2, 2, 2), *, bottleneck: bool = False, groups: int = 1, group_width: int = 64
) -> State:
    """All stages and the classifier, as a file of the whole network has them."""
    made = RandomState()
    made.layer("conv1", "bn1", 3, 64, 7)
    channels = 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        inner = width * group_width // 64 * groups if bottleneck else width
        out = width * (_EXPANSION if bottleneck else 1)
        for block in range(count):
            name = f"layer{stage + 1}.{block}."
            if bottleneck:
                made.layer(f"{name}conv1", f"{name}bn1", channels, inner, 1)
                made.layer(f"{name}conv2", f"{name}bn2", inner, inner, 3, groups)
                made.layer(f"{name}conv3", f"{name}bn3", inner, out, 1)
            else:
                made.layer(f"{name}conv1", f"{name}bn1", channels, out, 3)
                made.layer(f"{name}conv2", f"{name}bn2", out, out, 3)
            if block == 0 and (stage > 0 or channels != out):
                made.layer(f"{name}downsample.0", f"{name}downsample.1", channels, out, 1)
            channels = out
    made.state |= {"fc.weight": torch.zeros(1000, channels), "fc.bias": torch.zeros(1000)}
    return made.state


def resnet_features(state: State, x: Tensor, groups: int = 1) -> Features:
    y = _layer(state, "conv1", "bn1", _normalised(x), stride=2).relu()
    y = functional.max_pool2d(y, 3, stride=2, padding=1)
    found = []
    for stage in range(1, 4):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in state:
            name = f"layer{stage}.{block}."
            stride = 2 if stage > 1 and block == 0 else 1
            if f"{name}conv3.weight" in state:
                z = _layer(state, f"{name}conv1", f"{name}bn1", y).relu()
                z = _layer(state, f"{name}conv2", f"{name}bn2", z, stride=stride, groups=groups).relu()
                z = _layer(state, f"{name}conv3", f"{name}bn3", z)
            else:
                z = _layer(state, f"{name}conv1", f"{name}bn1", y, stride=stride).relu()
                z = _layer(state, f"{name}conv2", f"{name}bn2", z)
            if f"{name}downsample.0.weight" in state:
                y = _layer(state, f"{name}downsample.0", f"{name}downsample.1", y, stride=stride)
            y = (y + z).relu()
            block += 1
        found.append(y)
    fine, middle, coarse = found
    return fine, middle, coarse


# Expansion, channels and stride of each block of MobileNetV2 from torchvision's features.1 on.
_INVERTED = [(1, 16, 1)] + [
    (6, out, stride if place == 0 else 1)
    for out, count, stride in ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1))
    for place in range(count)
]


def mobilenet_state() -> State:
    made = RandomState()
    made.layer("features.0.0", "features.0.1", 3, 32, 3)
    channels = 32
    for place, (expansion, out, _) in enumerate(_INVERTED, start=1):
        name, wide, depthwise = f"features.{place}.conv.", channels * expansion, 1 if expansion > 1 else 0
        if expansion > 1:
            made.layer(f"{name}0.0", f"{name}0.1", channels, wide, 1)
        made.layer(f"{name}{depthwise}.0", f"{name}{depthwise}.1", wide, wide, 3, groups=wide)
        made.layer(f"{name}{depthwise + 1}", f"{name}{depthwise + 2}", wide, out, 1)
        channels = out
    return made.state


def mobilenet_features(state: State, x: Tensor) -> Features:
    y = _layer(state, "features.0.0", "features.0.1", _normalised(x), stride=2).clamp(0, 6)
    given = []
    for place, (expansion, _, stride) in enumerate(_INVERTED, start=1):
        name, z, depthwise = f"features.{place}.conv.", y, 1 if expansion > 1 else 0
        if expansion > 1:
            z = _layer(state, f"{name}0.0", f"{name}0.1", z).clamp(0, 6)
        z = _layer(state, f"{name}{depthwise}.0", f"{name}{depthwise}.1", z, stride=stride, groups=z.shape[1]).clamp(
            0, 6
        )
        z = _layer(state, f"{name}{depthwise + 1}", f"{name}{depthwise + 2}", z)
        y = y + z if y.shape == z.shape else z
        given.append(y)
    return given[2], given[5], given[12]


def _layer(state: State, convolution: str, norm: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    kernel = state[f"{convolution}.weight"]
    y = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)
    keep = [state[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    return functional.batch_norm(y, *keep, training=False, eps=1e-5)


def _normalised(x: Tensor) -> Tensor:
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (x - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
