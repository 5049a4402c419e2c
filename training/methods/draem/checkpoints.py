"""Networks trained elsewhere: the authors' two state dicts (`*.pckl`, `*_seg.pckl`), and anomalib's file with both.

A network is known by its keys, whatever stands before them (`module.` of DataParallel, anomalib's
`model.reconstructive_subnetwork.`) and whatever dict they lie in (`state_dict`, `model`). Files are read as tensors
alone, never as code.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from training.methods.protocol import CheckpointError
from training.networks.draem import Draem

Part = Literal["reconstructive", "discriminative"]

_HEADS: dict[str, Part] = {
    "encoder": "reconstructive",
    "decoder": "reconstructive",
    "encoder_segment": "discriminative",
    "decoder_segment": "discriminative",
}
_FIRST = {"reconstructive": ("encoder.block1.0.weight", 3), "discriminative": ("encoder_segment.block1.0.weight", 6)}
_ANOMALIB = "reconstructive_subnetwork.", "discriminative_subnetwork."
_DEEPEST = 3  # dicts inside each other


@dataclass(frozen=True)
class _Weights:
    """One network's tensors under the authors' keys, and whether anomalib made them."""

    file: Path
    state: dict[str, Tensor]
    anomalib: bool


def load_official(reconstructive: Path, discriminative: Path | None = None) -> Draem:
    """Network in eval mode from the authors' two files, or from one file that holds both; any width, float32.

    It takes RGB and gives the same numbers. Where the authors' networks took BGR, the colour axes of the weights that
    see or make colours are reversed once, here; where anomalib's read the image before the reconstruction, the two are
    exchanged.
    """
    rec = _weights("reconstructive", reconstructive, discriminative)
    seg = _weights("discriminative", discriminative or reconstructive, reconstructive if discriminative else None)
    network = Draem(_first_width(rec, "reconstructive"), _first_width(seg, "discriminative"))
    if not rec.anomalib:
        _reverse_colours(rec.state)
    stacked = seg.state["encoder_segment.block1.0.weight"]
    first, second = (
        (stacked[:, 3:], stacked[:, :3]) if seg.anomalib else (stacked[:, :3].flip(1), stacked[:, 3:].flip(1))
    )
    seg.state["encoder_segment.block1.0.weight"] = torch.cat((first, second), dim=1)
    _fill(network.reconstructive, rec)
    _fill(network.discriminative, seg)
    return network.eval()


def _weights(part: Part, file: Path, other: Path | None) -> _Weights:
    found = _networks(file)
    if part in found:
        return found[part]
    if found:
        wrong = next(iter(found))
        remedy = "exchange the two files" if other and part in _networks(other) else f"name the {part} file too"
        raise CheckpointError(f"{file}: this is the {wrong} network, not the {part} one: {remedy}")
    raise CheckpointError(f"{file}: no key of a DRÆM network in it, such as {_FIRST[part][0]}")


def _networks(file: Path) -> dict[Part, _Weights]:
    """The networks that the file holds."""
    found: dict[Part, _Weights] = {}
    for key, tensor in _tensors(_read(file), _DEEPEST).items():
        steps = key.split(".")
        start = next((i for i, step in enumerate(steps) if step in _HEADS), None)
        if start is None:
            continue
        part, before = _HEADS[steps[start]], ".".join([*steps[:start], ""])
        weights = found.setdefault(part, _Weights(file, {}, before.endswith(_ANOMALIB)))
        tail = ".".join(steps[start:])
        if tail in weights.state:
            raise CheckpointError(f"{file}: holds {tail} twice: save one network alone")
        weights.state[tail] = tensor.float() if tensor.is_floating_point() else tensor
    return found


def _tensors(state: Mapping[Any, Any], depth: int) -> dict[str, Tensor]:
    """The tensors of the first dict that has any, `state` itself or one inside it."""
    found = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    inner = [value for value in state.values() if isinstance(value, Mapping)] if depth and not found else []
    return found or next((tensors for value in inner if (tensors := _tensors(value, depth - 1))), {})


def _read(file: Path) -> dict[Any, Any]:
    again = "copy it again from where it was made"
    if not file.is_file():
        raise CheckpointError(f"{file}: {'a folder, no file' if file.is_dir() else 'no such file'}")
    if not file.stat().st_size:
        raise CheckpointError(f"{file}: empty (0 bytes): {again}")
    try:
        # torch does not compare the checksums.
        if zipfile.is_zipfile(file) and (damaged := zipfile.ZipFile(file).testzip()):
            raise CheckpointError(f"{file}: damaged at {damaged}: {again}")
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise CheckpointError(f"{file}: damaged or cut short ({error or 'it ends too early'}): {again}") from error
    # torch raises many types, with advice to load unsafely.
    except Exception as error:
        text = str(error)
        if "TorchScript" in text or "GLOBAL" in text or "not an allowed" in text:
            raise CheckpointError(
                f"{file}: holds Python objects, and loading them would run code from the file: refused. Where it was "
                "made, save the tensors alone: torch.save(network.state_dict(), 'weights.pckl')"
            ) from error
        reason = "cut short" if "EOF" in text or "central directory" in text else "no file of torch.save, or damaged"
        raise CheckpointError(f"{file}: {reason}: {again}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{file}: holds {type(state).__name__}, not a state dict of tensors")
    return state


def _reverse_colours(state: dict[str, Tensor]) -> None:
    state["encoder.block1.0.weight"] = state["encoder.block1.0.weight"].flip(1)
    for name in ("decoder.fin_out.0.weight", "decoder.fin_out.0.bias"):
        if name in state:
            state[name] = state[name].flip(0)


def _first_width(weights: _Weights, part: Part) -> int:
    key, channels = _FIRST[part]
    weight = weights.state.get(key)
    if weight is None or weight.ndim != 4 or weight.shape[1] != channels:
        raise CheckpointError(f"{weights.file}: no {key} for {channels} input channels")
    return int(weight.shape[0])


def _fill(module: nn.Module, weights: _Weights) -> None:
    for key, tensor in weights.state.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{weights.file}: {key} has values that are not finite: that training had failed")
    try:
        module.load_state_dict(weights.state)
    except RuntimeError as error:
        raise CheckpointError(f"{weights.file}: {error}") from error
