"""CUDA through cuda-python: every call's status is looked at, and a failure is a BackendError."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from service.backends.base import BackendError


@dataclass(frozen=True)
class Gpu:
    """What an engine is built for. No name: any GPU of this compute capability (`tensorrt_rtx` can, `tensorrt` not)."""

    compute_capability: str  # "8.6"
    name: str | None = None


class Cuda:
    """The CUDA runtime; `Cuda().call("cudaMalloc", 64)` gives the address or raises BackendError naming the call."""

    def __init__(self, runtime: Any = None) -> None:
        self._runtime = runtime or _import_runtime()

    def call(self, function: str, *arguments: Any) -> Any:
        status, *results = getattr(self._runtime, function)(*arguments)
        if int(status) != 0:
            _, text = self._runtime.cudaGetErrorString(status)
            raise BackendError(f"{function}: {text.decode()} (CUDA error {int(status)})")
        return results[0] if results else None

    def __getattr__(self, constant: str) -> Any:
        return getattr(self._runtime, constant)

    def gpu(self, device: int) -> Gpu:
        """The GPU of this index; raises BackendError where there is none."""
        try:
            properties = self.call("cudaGetDeviceProperties", device)
        except BackendError as error:
            raise BackendError(
                f"no GPU {device} to use: {error}. Look at what nvidia-smi says; pass the GPU into the container"
            ) from error
        return Gpu(f"{properties.major}.{properties.minor}", properties.name.decode().rstrip("\0"))


def _import_runtime() -> Any:
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise BackendError(
            f"CUDA for Python is not installed ({error}): in the checkout, pip install '.[gpu]'"
        ) from error
