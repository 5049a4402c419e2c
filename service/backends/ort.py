"""ONNX Runtime backend."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.backends.base import BackendError
from service.backends.graphs import OnnxModel
from service.backends.lanes import Lanes
from service.backends.plans import Plan
from service.bundle.manifest import InputSpec, Precision

_SIGNATURE = {"image": "tensor(uint8)", "anomaly_map": "tensor(float)", "score": "tensor(float)"}


class OrtBackend:
    """CPU sessions with explicit provider and thread count; refuses a session that reports another provider."""

    name = "onnxruntime"
    provider = "CPUExecutionProvider"
    replaceable = True

    def __init__(
        self, model: OnnxModel, expected: InputSpec, precision: Precision, *, threads: int, plan: Plan | None = None
    ) -> None:
        plan = plan or Plan.by_rule(threads)
        self.precision: Precision = precision
        self.max_batch_size = plan.batch
        self._no_images = np.zeros((0, expected.height, expected.width, 3), np.uint8)

        def open_session(threads: int) -> onnxruntime.InferenceSession:
            return _open(model, expected, threads)

        def open_shared(lanes: int, threads: int) -> list[onnxruntime.InferenceSession]:
            # Run by several threads at once: each computes itself, and its session's other threads help all of them.
            return lanes * [open_session(lanes * (threads - 1) + 1)]

        self._lanes = Lanes(plan.lanes, threads, open_session, open_shared)
        self.lanes = self._lanes.count

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with self._lanes.session() as session:
            try:
                anomaly_map, score = session.run(["anomaly_map", "score"], {"image": images})
            except Exception as error:
                raise BackendError(f"ONNX Runtime failed: {error}") from error
        # Its arrays are of the session's own memory, and a map that is kept would keep all of that.
        return anomaly_map.copy(), score.copy()

    def rest(self) -> None:
        """Half of what a model takes are arenas for what lies between its layers: a run of no images shrinks them."""
        self._lanes.rest(self._shrink)

    def close(self) -> None:
        del self._lanes

    def _shrink(self, session: onnxruntime.InferenceSession) -> None:
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        # A graph that takes no image less than one keeps its memory.
        with suppress(Exception):
            session.run(["score"], {"image": self._no_images}, options)


def _open(model: OnnxModel, expected: InputSpec, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads would steal the cores that decode the next image.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(model.data, options, providers=[OrtBackend.provider])
    except Exception as error:
        raise BackendError(f"{model}: ONNX Runtime cannot load it: {error}") from error
    actual = session.get_providers()[0]
    if actual != OrtBackend.provider:
        raise BackendError(f"{OrtBackend.provider} was asked for, the session runs on {actual}")
    nodes = [*session.get_inputs(), *session.get_outputs()]
    if {node.name: node.type for node in nodes} != _SIGNATURE:
        raise BackendError(f"{model}: signature is {[(n.name, n.type) for n in nodes]}, not {_SIGNATURE}")
    shape = [expected.height, expected.width, 3]
    if nodes[0].shape[1:] != shape:
        raise BackendError(f"{model}: one image is {nodes[0].shape[1:]}, the manifest says {shape}")
    return session
