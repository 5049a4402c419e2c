"""The authors' released checkpoints: two plain state dicts (`*.pckl`, `*_seg.pckl`), trained on BGR images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.methods.draem.networks import Draem


class CheckpointError(Exception):
    """The file is not a DRÆM checkpoint; the message names it and what is missing."""


def load_official(reconstructive: Path, discriminative: Path) -> Draem:
    """Network in eval mode from the authors' two files, any width; takes RGB where theirs took BGR, same numbers.

    Only the weights that see or make colours differ: their colour axes are reversed once, here.
    """
    rec, seg = _read(reconstructive), _read(discriminative)
    network = Draem(
        _first_width(rec, "encoder.block1.0.weight", 3, reconstructive),
        _first_width(seg, "encoder_segment.block1.0.weight", 6, discriminative),
    )
    rec["encoder.block1.0.weight"] = rec["encoder.block1.0.weight"].flip(1)
    for name in ("decoder.fin_out.0.weight", "decoder.fin_out.0.bias"):
        if name in rec:
            rec[name] = rec[name].flip(0)
    stacked = seg["encoder_segment.block1.0.weight"]
    seg["encoder_segment.block1.0.weight"] = torch.cat((stacked[:, :3].flip(1), stacked[:, 3:].flip(1)), dim=1)
    for module, state, file in (
        (network.reconstructive, rec, reconstructive),
        (network.discriminative, seg, discriminative),
    ):
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(f"{file}: {error}") from error
    network.eval()
    return network


def _read(file: Path) -> dict[str, Tensor]:
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such file") from None
    except Exception as error:
        raise CheckpointError(f"{file}: not a checkpoint of plain tensors ({error})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{file}: not a state dict of tensors")
    return dict(state)


def _first_width(state: dict[str, Tensor], key: str, channels: int, file: Path) -> int:
    weight = state.get(key)
    if weight is None or weight.ndim != 4 or weight.shape[1] != channels:
        other = "the discriminative" if channels == 3 else "the reconstructive"
        raise CheckpointError(f"{file}: no {key} for {channels} input channels: is this {other} file?")
    return int(weight.shape[0])
