"""Precision of a training: what half precision is on a device."""

from __future__ import annotations

import torch

from service.backends.cpu import held_to

_HAVE_BF16 = {"AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX512_CORE_AMX_FP16", "AVX10_1_512"}


def half_type(device: torch.device) -> torch.dtype | None:
    """What `bf16` computes in on this device: bfloat16; float16 on GPUs that only emulate it; None on CPUs without it
    or where oneDNN is held to less.

    There bfloat16 is emulated: a convolution of 16 channels, forward and backward, took 10 times as long as in float32
    where oneDNN was held to AVX2, and 1.8 times where it was held to AVX-512 without bfloat16.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    has = torch.cpu.get_capabilities()
    if (held := held_to()) and held not in _HAVE_BF16:
        return None
    return torch.bfloat16 if any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else None
