"""OpenVINO on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from service.backends.base import BackendError
from service.backends.graphs import OnnxModel
from service.backends.lanes import Lanes
from service.backends.plans import Plan
from service.bundle.manifest import InputSpec, Precision

# What the layers that the file does not quantise compute in. Without a hint OpenVINO takes bfloat16 where the CPU has
# it, and says so nowhere. In int8 it is asked to: the few layers left took a sixth of the time in float32.
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}
# Asked for, and less of it given where the machine has fewer cores.
_OF_CORES = {"NUM_STREAMS", "INFERENCE_NUM_THREADS"}
_SIGNATURE = {"image": "u8", "anomaly_map": "f32", "score": "f32"}


def has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16; elsewhere OpenVINO would compute in float32 and call it bfloat16."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoBackend:
    """A model compiled for the CPU with every property that matters written out, and read back.

    Raises BackendError where the compiled model would not run with what was asked for.
    """

    name = "openvino"
    replaceable = True

    def __init__(
        self,
        model: OnnxModel,
        expected: InputSpec,
        precision: Precision,
        *,
        threads: int,
        plan: Plan | None = None,
        bf16: bool | None = None,
    ) -> None:
        """`plan`: None is the rule's for runs side by side, and takes any number of images. `bf16`: whether this CPU
        multiplies bfloat16; None asks OpenVINO.
        """
        one_at_a_time = plan is not None and plan.batch == 1
        plan = plan or Plan.by_rule(threads)
        self.max_batch_size = plan.batch
        bf16 = has_bf16() if bf16 is None else bf16
        self.precision: Precision = precision
        if precision not in _HINTS:
            raise BackendError(f"OpenVINO runs {', '.join(_HINTS)} on CPUs, not {precision}")
        if precision == "bf16" and not bf16:
            raise BackendError("bf16 was asked for, this CPU does not have it: ask for fp32 or int8")
        try:
            graph = openvino.Core().read_model(model.data)
            _check(model, graph, expected)
            if one_at_a_time:
                # Kernels of a shape that is known take less memory by a sixth, and less time by a tenth (RESULTS.md).
                graph.reshape({"image": [1, expected.height, expected.width, 3]})
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(f"{model}: OpenVINO cannot load it: {error}") from error
        self.provider = "CPU"

        def open_requests(streams: int, threads: int) -> list[openvino.InferRequest]:
            return _open(model, graph, expected, _HINTS[precision] if bf16 else "f32", streams, threads)

        self._lanes = Lanes(plan.lanes, threads, lambda threads: open_requests(1, threads)[0], open_requests)
        self.lanes = self._lanes.count

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with self._lanes.session() as request:
            try:
                # Outputs are copied: the next run writes to the same place.
                results = request.infer({"image": np.ascontiguousarray(images)}, share_inputs=True)
            except Exception as error:
                raise BackendError(f"OpenVINO failed: {error}") from error
        return results["anomaly_map"], results["score"]

    def rest(self) -> None:
        # Half of what a model takes, three times: alone, and side by side.
        self._lanes.rest(lambda request: request.get_compiled_model().release_memory())

    def close(self) -> None:
        del self._lanes


def _open(
    model: OnnxModel, graph: Any, expected: InputSpec, precision: str, streams: int, threads: int
) -> list[openvino.InferRequest]:
    """One request for each of `streams` that run side by side, each with `threads`."""
    asked = {
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": streams * threads,
        "INFERENCE_PRECISION_HINT": precision,
        # Threads that decode share these cores: the scheduler shall place all of them.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        compiled = openvino.Core().compile_model(graph, "CPU", asked)
        requests = [compiled.create_infer_request() for _ in range(streams)]
        # Kernels are chosen when a shape is first seen: now, not when a part is waiting.
        for request in requests:
            request.infer({"image": np.zeros((1, expected.height, expected.width, 3), np.uint8)})
    except Exception as error:
        raise BackendError(f"{model}: OpenVINO cannot load it: {error}") from error
    for name, wanted in {"EXECUTION_DEVICES": ["CPU"], **asked}.items():
        found = compiled.get_property(name)
        if _plain(found) != wanted:
            remedy = ": set INSPECT_THREADS and INSPECT_CPU_PLAN to what this machine has" if name in _OF_CORES else ""
            raise BackendError(f"{model}: {name} {wanted} was asked for, OpenVINO runs with {found}{remedy}")
    return requests


def _check(model: OnnxModel, graph: Any, expected: InputSpec) -> None:
    tensors = [*graph.inputs, *graph.outputs]
    types = {tensor.get_any_name(): _plain(tensor.element_type) for tensor in tensors}
    if types != _SIGNATURE:
        raise BackendError(f"{model}: signature is {types}, not {_SIGNATURE}")
    shape, wanted = str(graph.inputs[0].partial_shape), f"[?,{expected.height},{expected.width},3]"
    if shape != wanted:
        raise BackendError(f"{model}: images are {shape}, the manifest says {wanted}")


def _plain(value: Any) -> Any:
    """OpenVINO's own types by the names that it also takes."""
    if isinstance(value, openvino.Type):
        return value.to_string()
    return getattr(value, "name", value)
