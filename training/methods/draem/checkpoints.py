"""Networks trained elsewhere: the authors' two state dicts (`*.pckl`, `*_seg.pckl`), and anomalib's file with both.

A network is known by its keys, whatever stands before them (`module.` of DataParallel, anomalib's
`model.reconstructive_subnetwork.`) and whatever dict they lie in (`state_dict`, `model`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from training.networks.draem import Draem
from training.weight_files import CheckpointError, read_tensors

Part = Literal["reconstructive", "discriminative"]

_HEADS: dict[str, Part] = {
    "encoder": "reconstructive",
    "decoder": "reconstructive",
    "encoder_segment": "discriminative",
    "decoder_segment": "discriminative",
}
_FIRST = {"reconstructive": ("encoder.block1.0.weight", 3), "discriminative": ("encoder_segment.block1.0.weight", 6)}
_ANOMALIB = "reconstructive_subnetwork.", "discriminative_subnetwork."


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
    for key, tensor in read_tensors(file).items():
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
