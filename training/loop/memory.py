"""Memory of a training: how much it needed, and how it keeps what it has."""

from __future__ import annotations

import ctypes
import platform
import resource
import sys
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PeakMemory:
    """MiB: resident memory of the process, and what torch had allocated on its GPU (0 without one)."""

    resident: int = 0
    gpu: int = 0

    def or_more(self, device: torch.device) -> PeakMemory:
        """This, or what the process has needed so far where that is more."""
        # Kibibytes on Linux, bytes on macOS.
        unit = 2**20 if sys.platform == "darwin" else 2**10
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
        gpu = torch.cuda.max_memory_allocated(device) // 2**20 if device.type == "cuda" else 0
        return PeakMemory(max(self.resident, resident), max(self.gpu, gpu))


def keep_freed_memory() -> None:
    """Tell glibc to reuse large blocks instead of returning them: activations are re-mapped every step otherwise.

    Measured with widths 32/16, batch 8, bf16 on 2 cores: 1.57 times faster steps.
    """
    if platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_mmap_max = -1, -4
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
