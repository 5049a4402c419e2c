"""Backends run a bundle's graph. One small protocol; an `if` chooses among the implementations."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.bundle import Bundle, Precision

BackendChoice = Literal["auto", "ort-cpu"]


class BackendError(RuntimeError):
    """The backend cannot be opened or failed while running; nothing it returned may be trusted."""


class Backend(Protocol):
    """Owned by one thread: no method may be called concurrently."""

    name: str
    provider: str
    precision: Precision
    max_batch_size: int

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """RGB uint8 `(N, H, W, 3)`, N <= max_batch_size -> anomaly maps float32 `(N, H, W)`, scores float32 `(N,)`.

        Raises BackendError when the runtime fails. Whether the values are finite is for the caller to judge.
        """

    def close(self) -> None: ...


def open_backend(bundle: Bundle, choice: BackendChoice, *, threads: int) -> Backend:
    """Open the model of `bundle`; `auto` is ONNX Runtime on the CPU. Raises BackendError, never substitutes."""
    # Imported here so that reading a bundle does not need the runtime.
    from service.backends.ort import OrtBackend

    manifest = bundle.manifest
    return OrtBackend(bundle.file(manifest.models["fp32"]), manifest.input, "fp32", threads=threads)
