"""What this machine's CPU is called and which instructions count for a network, for people and for records."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

_COUNTING = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512_bf16": "bf16",
    "amx_bf16": "AMX bf16",
    "amx_int8": "AMX int8",
    "asimd": "NEON",
    "i8mm": "i8mm",
    "bf16": "bf16",
}


def describe_cpu(cpuinfo: str | None = None, environment: Mapping[str, str] = os.environ) -> str:
    """Name and counting instructions, such as `AMD EPYC 7763, AVX2`, from the text of /proc/cpuinfo, by default read
    now; and what oneDNN is held to, where it is.
    """
    text = _cpuinfo() if cpuinfo is None else cpuinfo
    first = text.split("\n\n", 1)[0].splitlines()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first)}
    flags = fields.get("flags", fields.get("Features", "")).split()
    named = fields.get("model name") or platform.processor() or platform.machine()
    held = held_to(environment)
    kept = [f"oneDNN held to {held}"] if held else []
    return ", ".join([named, *(word for flag, word in _COUNTING.items() if flag in flags), *kept])


def held_to(environment: Mapping[str, str] = os.environ) -> str | None:
    """The newest instructions that oneDNN, in PyTorch and in OpenVINO, may use; None where it may use all.

    ONNX Runtime has no such switch.
    """
    asked = environment.get("ONEDNN_MAX_CPU_ISA", environment.get("DNNL_MAX_CPU_ISA", "ALL")).upper()
    return None if asked in {"", "ALL", "DEFAULT"} else asked


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
