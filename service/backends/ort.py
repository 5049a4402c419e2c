"""ONNX Runtime backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.backends import BackendError
from service.bundle import InputSpec, Precision

_SIGNATURE = {"image": "tensor(uint8)", "anomaly_map": "tensor(float)", "score": "tensor(float)"}


class OrtBackend:
    """CPU session with explicit provider and thread count; refuses a session that reports another provider."""

    name = "onnxruntime"
    provider = "CPUExecutionProvider"
    # On a CPU larger batches gain nothing over 2 (service/RESULTS.md); they only hold results back and take memory.
    max_batch_size = 2

    def __init__(self, model: Path, expected: InputSpec, precision: Precision, *, threads: int) -> None:
        self.precision: Precision = precision
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads would steal the cores that decode the next image.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=[self.provider])
        except Exception as error:
            raise BackendError(f"{model}: ONNX Runtime cannot load it: {error}") from error
        self._check(model, expected)

    def _check(self, model: Path, expected: InputSpec) -> None:
        actual = self._session.get_providers()[0]
        if actual != self.provider:
            raise BackendError(f"{self.provider} was asked for, the session runs on {actual}")
        nodes = [*self._session.get_inputs(), *self._session.get_outputs()]
        if {node.name: node.type for node in nodes} != _SIGNATURE:
            raise BackendError(f"{model}: signature is {[(n.name, n.type) for n in nodes]}, not {_SIGNATURE}")
        shape = [expected.height, expected.width, 3]
        if nodes[0].shape[1:] != shape:
            raise BackendError(f"{model}: one image is {nodes[0].shape[1:]}, the manifest says {shape}")

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        try:
            anomaly_map, score = self._session.run(["anomaly_map", "score"], {"image": images})
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed: {error}") from error
        return anomaly_map, score

    def close(self) -> None:
        del self._session
