"""ONNX Runtime backend."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.backends import BackendError
from service.bundle import InputSpec, Precision

_SIGNATURE = {"image": "tensor(uint8)", "anomaly_map": "tensor(float)", "score": "tensor(float)"}


class OrtBackend:
    """CPU sessions with explicit provider and thread count; refuses a session that reports another provider.

    An image that is alone gets all threads: it is back soonest. Images side by side get a half each: the threads of one
    run wait for each other after every layer, so two narrow runs get more done than two wide ones, or a batch of two
    (service/RESULTS.md). The price is the weights in memory twice.
    """

    name = "onnxruntime"
    provider = "CPUExecutionProvider"
    max_batch_size = 1

    def __init__(self, model: Path, expected: InputSpec, precision: Precision, *, threads: int) -> None:
        self.precision: Precision = precision
        self.lanes = min(2, threads)
        self._wide = self._open(model, expected, threads)
        self._narrow = self._wide if self.lanes == 1 else self._open(model, expected, threads // self.lanes)
        self._running = 0
        self._count = threading.Lock()

    def _open(self, model: Path, expected: InputSpec, threads: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads would steal the cores that decode the next image.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(str(model), options, providers=[self.provider])
        except Exception as error:
            raise BackendError(f"{model}: ONNX Runtime cannot load it: {error}") from error
        actual = session.get_providers()[0]
        if actual != self.provider:
            raise BackendError(f"{self.provider} was asked for, the session runs on {actual}")
        nodes = [*session.get_inputs(), *session.get_outputs()]
        if {node.name: node.type for node in nodes} != _SIGNATURE:
            raise BackendError(f"{model}: signature is {[(n.name, n.type) for n in nodes]}, not {_SIGNATURE}")
        shape = [expected.height, expected.width, 3]
        if nodes[0].shape[1:] != shape:
            raise BackendError(f"{model}: one image is {nodes[0].shape[1:]}, the manifest says {shape}")
        return session

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with self._session() as session:
            try:
                anomaly_map, score = session.run(["anomaly_map", "score"], {"image": images})
            except Exception as error:
                raise BackendError(f"ONNX Runtime failed: {error}") from error
        return anomaly_map, score

    @contextmanager
    def _session(self) -> Iterator[onnxruntime.InferenceSession]:
        with self._count:
            alone = self._running == 0
            self._running += 1
        try:
            yield self._wide if alone else self._narrow
        finally:
            with self._count:
                self._running -= 1

    def close(self) -> None:
        del self._wide, self._narrow
