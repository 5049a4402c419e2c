"""The authors' networks and evaluation, written from their formulas and key names alone: what an import must reproduce.

Works on plain state dicts with torch functions; shares no code with the project.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]


def reconstructive_state(w: int, generator: torch.Generator) -> State:
    """Random weights under the authors' keys; base width 128 is theirs."""
    state: State = {}
    previous = 3
    for i, c in enumerate((w, 2 * w, 4 * w, 8 * w, 8 * w), start=1):
        _double(state, f"encoder.block{i}", previous, c, c, generator)
        previous = c
    for i, (c_in, c_out) in enumerate(((8 * w, 4 * w), (4 * w, 2 * w), (2 * w, w), (w, w)), start=1):
        _conv_bn(state, f"decoder.up{i}", 1, 2, c_in, c_in, generator)
        _double(state, f"decoder.db{i}", c_in, c_in, c_out, generator)
    _conv(state, "decoder.fin_out.0", w, 3, generator)
    return state


def discriminative_state(w: int, generator: torch.Generator) -> State:
    state: State = {}
    previous = 6
    for i, c in enumerate((w, 2 * w, 4 * w, 8 * w, 8 * w, 8 * w), start=1):
        _double(state, f"encoder_segment.block{i}", previous, c, c, generator)
        previous = c
    stages = (("b", 8 * w, 8 * w, 8 * w), ("1", 8 * w, 4 * w, 8 * w), ("2", 4 * w, 2 * w, 4 * w))
    for name, c_in, c_out, skip in (*stages, ("3", 2 * w, w, 2 * w), ("4", w, w, w)):
        _conv_bn(state, f"decoder_segment.up{'_' if name == 'b' else ''}{name}", 1, 2, c_in, c_out, generator)
        _double(state, f"decoder_segment.db{'_' if name == 'b' else ''}{name}", c_out + skip, c_out, c_out, generator)
    _conv(state, "decoder_segment.fin_out.0", w, 2, generator)
    return state


def official_map_and_score(rec: State, seg: State, rgb: NDArray[np.uint8], size: int) -> tuple[Tensor, float]:
    """Anomaly map `(size, size)` and image score of one RGB photo, as the authors' test script computes them."""
    bgr = cv2.resize(np.ascontiguousarray(rgb[:, :, ::-1]), (size, size)).astype(np.float32) / 255.0
    x = torch.from_numpy(bgr.transpose(2, 0, 1))[None]
    joined = torch.cat((_reconstruct(rec, x), x), dim=1)
    out = torch.softmax(_segment(seg, joined), dim=1)[:, 1:]
    averaged = functional.avg_pool2d(out, 21, stride=1, padding=21 // 2)
    return out[0, 0], float(averaged.max())


def _reconstruct(s: State, x: Tensor) -> Tensor:
    for i in range(1, 6):
        x = _run_double(s, f"encoder.block{i}", x if i == 1 else functional.max_pool2d(x, 2))
    for i in range(1, 5):
        x = _run_double(s, f"decoder.db{i}", _run_up(s, f"decoder.up{i}", x))
    return functional.conv2d(x, s["decoder.fin_out.0.weight"], s["decoder.fin_out.0.bias"], padding=1)


def _segment(s: State, x: Tensor) -> Tensor:
    skips: list[Tensor] = []
    for i in range(1, 7):
        x = _run_double(s, f"encoder_segment.block{i}", x if i == 1 else functional.max_pool2d(x, 2))
        skips.append(x)
    for name, skip in zip(("_b", "1", "2", "3", "4"), skips[4::-1], strict=True):
        x = torch.cat((_run_up(s, f"decoder_segment.up{name}", x), skip), dim=1)
        x = _run_double(s, f"decoder_segment.db{name}", x)
    return functional.conv2d(x, s["decoder_segment.fin_out.0.weight"], s["decoder_segment.fin_out.0.bias"], padding=1)


def _run_double(s: State, key: str, x: Tensor) -> Tensor:
    return _run_conv_bn(s, key, 3, 4, _run_conv_bn(s, key, 0, 1, x))


def _run_up(s: State, key: str, x: Tensor) -> Tensor:
    return _run_conv_bn(s, key, 1, 2, functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))


def _run_conv_bn(s: State, key: str, conv: int, bn: int, x: Tensor) -> Tensor:
    x = functional.conv2d(x, s[f"{key}.{conv}.weight"], s[f"{key}.{conv}.bias"], padding=1)
    mean, variance = s[f"{key}.{bn}.running_mean"], s[f"{key}.{bn}.running_var"]
    x = (x - mean.view(-1, 1, 1)) / torch.sqrt(variance.view(-1, 1, 1) + 1e-5)
    return torch.relu(x * s[f"{key}.{bn}.weight"].view(-1, 1, 1) + s[f"{key}.{bn}.bias"].view(-1, 1, 1))


def _double(state: State, key: str, c_in: int, c_mid: int, c_out: int, generator: torch.Generator) -> None:
    _conv_bn(state, key, 0, 1, c_in, c_mid, generator)
    _conv_bn(state, key, 3, 4, c_mid, c_out, generator)


def _conv_bn(state: State, key: str, conv: int, bn: int, c_in: int, c_out: int, generator: torch.Generator) -> None:
    _conv(state, f"{key}.{conv}", c_in, c_out, generator)
    state[f"{key}.{bn}.weight"] = 1 + 0.1 * torch.randn(c_out, generator=generator)
    state[f"{key}.{bn}.bias"] = 0.1 * torch.randn(c_out, generator=generator)
    state[f"{key}.{bn}.running_mean"] = 0.1 * torch.randn(c_out, generator=generator)
    state[f"{key}.{bn}.running_var"] = 0.5 + torch.rand(c_out, generator=generator)
    state[f"{key}.{bn}.num_batches_tracked"] = torch.tensor(1)


def _conv(state: State, key: str, c_in: int, c_out: int, generator: torch.Generator) -> None:
    # He scaling keeps the signal alive through 50 layers, so that a difference anywhere shows in the map.
    state[f"{key}.weight"] = torch.randn((c_out, c_in, 3, 3), generator=generator) * (2 / (9 * c_in)) ** 0.5
    state[f"{key}.bias"] = 0.05 * torch.randn(c_out, generator=generator)
