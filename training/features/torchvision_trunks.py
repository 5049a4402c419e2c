"""Trunks whose weights have torchvision's names, which timm's have too for ResNets: only up to stride 16.

Written from the papers; torchvision itself is not needed, and would bring its own torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from training.features.trunk import Features, Trunk, fold_norm

# Of ImageNet's photos, by channel.
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
_EPSILON = 1e-5


class _TorchvisionTrunk(Trunk):
    """Its convolutions have the names that they have in files, so that each finds its weights."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", _by_channel(_MEAN))
        self.register_buffer("deviation", _by_channel(_DEVIATION))

    def take(self, weights: Mapping[str, Tensor]) -> None:
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Conv2d):
                fold_norm(layer, weights, name, _norm_after(name), _EPSILON)


class ResNet(_TorchvisionTrunk):
    """He et al. 2016; wide: Zagoruyko and Komodakis 2016; with groups: Xie et al. 2017. `blocks`: of three stages."""

    def __init__(
        self, blocks: tuple[int, int, int], *, bottleneck: bool, groups: int = 1, group_width: int = 64
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        widths = (64, 128, 256)
        self.channels = (256, 512, 1024) if bottleneck else widths
        entering = 64
        for place, (count, width, out) in enumerate(zip(blocks, widths, self.channels, strict=True), start=1):
            inner = width * group_width // 64 * groups
            stage = nn.Sequential()
            for number in range(count):
                stride = 2 if place > 1 and number == 0 else 1
                if bottleneck:
                    stage.append(_Bottleneck(entering, inner, out, stride, groups))
                else:
                    stage.append(_Basic(entering, out, stride))
                entering = out
            self.add_module(f"layer{place}", stage)

    def forward(self, x: Tensor) -> Features:
        x = functional.relu(self.conv1((x - self.mean) / self.deviation))
        fine: Tensor = self.get_submodule("layer1")(functional.max_pool2d(x, 3, 2, 1))
        middle: Tensor = self.get_submodule("layer2")(fine)
        coarse: Tensor = self.get_submodule("layer3")(middle)
        return fine, middle, coarse


class _Residual(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        changes = stride > 1 or channels != out
        self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return functional.relu(self.residual(x) + shortcut)

    def residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class _Basic(_Residual):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__(channels, out, stride)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)

    def residual(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(functional.relu(self.conv1(x)))
        return y


class _Bottleneck(_Residual):
    """The stride is the middle convolution's, as in torchvision; the paper has it in the first."""

    def __init__(self, channels: int, inner: int, out: int, stride: int, groups: int) -> None:
        super().__init__(channels, out, stride)
        self.conv1 = nn.Conv2d(channels, inner, 1)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=groups)
        self.conv3 = nn.Conv2d(inner, out, 1)

    def residual(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv3(functional.relu(self.conv2(functional.relu(self.conv1(x)))))
        return y


class MobileNetV2(_TorchvisionTrunk):
    """Sandler et al. 2018, up to the last block of stride 16."""

    channels = (24, 32, 96)
    # Expansion, channels, blocks and stride of each stage; features are what the stages _TAPS give.
    _STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
    _TAPS = (1, 2, 4)

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1))])
        entering, self.last_of_stages = 32, []
        for expansion, out, count, stride in self._STAGES:
            for number in range(count):
                self.features.append(_Inverted(entering, out, stride if number == 0 else 1, expansion))
                entering = out
            self.last_of_stages.append(len(self.features) - 1)

    def forward(self, x: Tensor) -> Features:
        x = functional.relu6(self.features[0]((x - self.mean) / self.deviation))
        given = {}
        for place, block in enumerate(self.features[1:], start=1):
            x = given[place] = block(x)
        fine, middle, coarse = (given[self.last_of_stages[stage]] for stage in self._TAPS)
        return fine, middle, coarse


class _Inverted(nn.Module):
    """Names as in torchvision: `conv.0.0` and so on, then the last convolution without an activation after it."""

    def __init__(self, channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers.append(nn.Sequential(nn.Conv2d(channels, wide, 1)))
        layers.append(nn.Sequential(nn.Conv2d(wide, wide, 3, stride, 1, groups=wide)))
        layers.append(nn.Conv2d(wide, out, 1))
        self.conv = nn.ModuleList(layers)
        self.skip = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        *before, last = self.conv.children()
        y: Tensor = x
        for layer in before:
            y = functional.relu6(layer(y))
        y = last(y)
        return x + y if self.skip else y


def _norm_after(convolution: str) -> str:
    """`layer1.0.conv2` -> `layer1.0.bn2`; `downsample.0` -> `downsample.1`."""
    *before, last = convolution.split(".")
    norm = last.replace("conv", "bn") if last.startswith("conv") else str(int(last) + 1)
    return ".".join([*before, norm])


def _by_channel(values: tuple[float, float, float]) -> Tensor:
    return Tensor(values).view(1, 3, 1, 1)
