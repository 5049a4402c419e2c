"""Trunks from local files of weights: they give what torchvision's networks give, or say what the file is not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from fusion_training import photos
from torch import Tensor, nn
from trunk_weights import Features, State, mobilenet_features, mobilenet_state, resnet_features, resnet_state

from training.features.distances import PositionGaussian
from training.features.trunk import TrunkError
from training.features.trunks import TRUNKS, TrunkChoice, load_trunk, pretrained_of
from training.loop.runs import Run
from training.methods import METHODS
from training.methods.protocol import TrainingSet
from training.settings import changed
from training.weight_files import CheckpointError, read_tensors

_Reference = Callable[[State, Tensor], Features]
FAMILIES: dict[str, tuple[Callable[[], State], _Reference]] = {
    "resnet18": (resnet_state, resnet_features),
    "resnext50_32x4d": (
        partial(resnet_state, (3, 4, 6), bottleneck=True, groups=32, group_width=4),
        partial(resnet_features, groups=32),
    ),
    "wide_resnet50_2": (partial(resnet_state, (3, 4, 6), bottleneck=True, group_width=128), resnet_features),
    "mobilenet_v2": (mobilenet_state, mobilenet_features),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_of_weights_becomes_the_network_that_they_are_of(name: str, tmp_path: Path) -> None:
    make, reference = FAMILIES[name]
    state = make()
    file = tmp_path / "weights.pth"
    torch.save(state, file)
    x = torch.rand((1, 3, 64, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        trunk = load_trunk(TrunkChoice(name, str(file)))
        found, expected = trunk(x), reference(state, x)
    for feature, wanted, channels, stride in zip(found, expected, trunk.channels, (4, 8, 16), strict=True):
        assert feature.shape == (1, channels, 64 // stride, 32 // stride)
        torch.testing.assert_close(feature, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    wanted_of_file = {name for name in state if name.startswith(("layer4", "fc"))}
    assert not wanted_of_file & set(trunk.state_dict()), "nothing behind the last tap"


def test_every_name_is_a_network() -> None:
    for name, make in TRUNKS.items():
        with torch.device("meta"):
            assert len(make().channels) == 3, name


def test_names_may_stand_behind_others_and_in_safetensors(tmp_path: Path) -> None:
    state = resnet_state()
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "a.pth"
    )
    _write_safetensors(tmp_path / "b.safetensors", state)
    first, second = (load_trunk(TrunkChoice("resnet18", str(tmp_path / name))) for name in ("a.pth", "b.safetensors"))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def _write_safetensors(file: Path, state: State) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    numbers = b""
    for name, value in state.items():
        kind = {torch.float32: "F32", torch.int64: "I64"}[value.dtype]
        raw = value.numpy().tobytes()
        header[name] = {
            "dtype": kind,
            "shape": list(value.shape),
            "data_offsets": [len(numbers), len(numbers) + len(raw)],
        }
        numbers += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + numbers)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-4],  # cut short
        lambda data: b"\xff" * 8 + data[8:],  # a header of many exabytes
        lambda data: data.replace(b'"F32"', b'"F31"', 1),
        lambda data: data.replace(b'"data_offsets": [0,', b'"data_offsets": [9,', 1),
        lambda data: data[:12],
    ],
)
def test_damaged_safetensors_are_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    _write_safetensors(file, {"a": torch.ones(2, 3), "b": torch.ones(4)})
    assert torch.equal(read_tensors(file)["a"], torch.ones(2, 3))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: no file of safetensors, or damaged"):
        read_tensors(file)


def test_a_whole_network_in_a_pickle_is_refused_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    torch.save(nn.Linear(2, 2), file)
    with pytest.raises(
        CheckpointError, match=r"model\.pth: holds Python objects.*refused.*state_dict\(\), 'weights\.pth'"
    ):
        load_trunk(TrunkChoice("resnet18", str(file)))


def test_other_weights_say_what_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    state = resnet_state()
    torch.save(state, file)
    with pytest.raises(TrunkError, match=r"not the weights of resnet50: layer1\.0\.downsample\.0\.weight is not in it"):
        load_trunk(TrunkChoice("resnet50", str(file)))
    with pytest.raises(
        TrunkError, match=r"mobilenet_v2: features\.0\.0\.weight.*Known trunks: efficientnet-lite0, resnet18"
    ):
        load_trunk(TrunkChoice("mobilenet_v2", str(file)))
    torch.save({**state, "layer2.0.conv1.weight": torch.zeros(9, 9)}, file)
    with pytest.raises(
        TrunkError, match=r"layer2\.0\.conv1\.weight has the shape \(9, 9\) instead of \(128, 64, 3, 3\)"
    ):
        load_trunk(TrunkChoice("resnet18", str(file)))
    torch.save({**state, "bn1.bias": torch.full((64,), torch.nan)}, file)
    with pytest.raises(TrunkError, match="conv1 or bn1 has values that are not finite"):
        load_trunk(TrunkChoice("resnet18", str(file)))


def test_a_trunk_without_a_file_says_so_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(TrunkError, match=r"--trunk resnet18: .*--weights FILE"):
        pretrained_of(TrunkChoice("resnet18"))
    with pytest.raises(TrunkError, match=r"no such file"):
        pretrained_of(TrunkChoice("resnet18", str(tmp_path / "none.pth")))
    with pytest.raises(ValueError, match="trunk vgg16: choose efficientnet-lite0, resnet18"):
        TrunkChoice("vgg16")  # type: ignore[arg-type]


def test_the_manifest_says_where_the_weights_come_from(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"some")
    told = pretrained_of(TrunkChoice("resnet18", str(file), "BSD-3-Clause"))
    assert (told.name, told.origin, told.licence) == ("resnet18", "file weights.pth", "BSD-3-Clause")
    assert told.sha256 == hashlib.sha256(b"some").hexdigest()
    assert pretrained_of(TrunkChoice("resnet18", str(file))).licence == "not stated"
    assert pretrained_of(TrunkChoice()).licence == "Apache-2.0"


@pytest.mark.parametrize("name", ["padim", "patchcore", "us", "fusion"])
def test_methods_build_on_any_trunk(name: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(resnet_state(), file)
    method = METHODS[name]
    preset = next(iter(method.presets.values()))
    values = {"size": 64, "trunk": "resnet18", "weights": str(file), "channels": 20, "bank": 50, "steps": 2, "batch": 2}
    small = {"width": 8, "samples": 8} if name == "fusion" else {"width": 2}
    settings = changed(preset, {**values, **small})
    network = method.fit(settings, TrainingSet(photos(), photos()), Run(tmp_path / "run"), torch.device("cpu"))
    with torch.inference_mode():
        found = network(photos()[:2].float() / 255)
    assert found.shape == (2, 64, 64)
    assert torch.isfinite(found).all()
    assert method.pretrained is not None
    assert method.pretrained(settings).name.startswith("resnet18")


def test_more_channels_than_there_are_and_more_than_a_file_holds_are_refused() -> None:
    embeddings = torch.zeros(2, 4, 4, 12)
    with pytest.raises(TrunkError, match="--channels 13: the trunk has 12"):
        PositionGaussian(embeddings, 13, torch.Generator())
    large = torch.zeros(1, 1, 1, 700).expand(2, 64, 64, 700)
    with pytest.raises(TrunkError, match=r"take 8\.0 GB, more than an ONNX file holds: .*--square 2"):
        PositionGaussian(large, 700, torch.Generator(), side=1)
