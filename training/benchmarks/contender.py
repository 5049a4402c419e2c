"""One contender of the benchmark, in a process of its own: how it is opened, timed and measured.

PyTorch is imported only where it is the contender, so that the memory and the cold start of the others are their own.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.backends.graphs import OnnxModel
from service.bundle.manifest import InputSpec, Precision

if TYPE_CHECKING:
    from torch import nn

Run = Callable[[NDArray[np.uint8]], object]
_ENERGY = Path("/sys/class/powercap/intel-rapl:0/energy_uj")
_PROBES = (256, 512, 1024, 2048)  # rows and columns of the matrices
_LONGEST_PROBE_S = 0.4  # what the next size may be expected to take


@dataclass(frozen=True)
class Subject:
    """What is timed: ONNX files by precision, their input, and how the same network is built in PyTorch, if it can be.

    bf16 is the fp32 file, rounded as it runs.
    """

    models: dict[Precision, Path]
    input: InputSpec
    network: Callable[[], nn.Module] | None = None


@dataclass(frozen=True)
class Contender:
    runtime: str  # pytorch, anomalib, anomalib-openvino, or a choice of service.backends
    precision: Precision


# The opened network lives in these globals of the contender's process.
_run: Run
_input: InputSpec


def open_contender(subject: Subject, contender: Contender, threads: int) -> None:
    global _run, _input
    _input = subject.input
    _run = _opened(subject, contender, threads)


def _opened(subject: Subject, contender: Contender, threads: int) -> Run:
    if contender.runtime in ("pytorch", "anomalib", "anomalib-openvino"):
        import torch

        torch.set_num_threads(threads)
        network = subject.network() if subject.network else _peer()
        return in_openvino(network, subject.input) if contender.runtime == "anomalib-openvino" else _in_torch(network)
    model = OnnxModel.read(subject.models[contender.precision])
    if contender.runtime == "openvino":
        from service.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(model, subject.input, contender.precision, threads=threads).run
    from service.backends.ort import OrtBackend

    return OrtBackend(model, subject.input, contender.precision, threads=threads).run


def _peer() -> nn.Module:
    """anomalib's network at the paper's widths, the only ones it has; it adds the softmax and the score."""
    from anomalib.models.image.draem.torch_model import DraemModel  # type: ignore[import-not-found]

    network: nn.Module = DraemModel()
    return network


def _in_torch(network: nn.Module) -> Run:
    import torch

    network.eval()

    def run(images: NDArray[np.uint8]) -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)

    return run


def in_openvino(network: nn.Module, expected: InputSpec) -> Run:
    """Compiled for the CPU without any property, which is what anomalib's OpenVINOInferencer asks for."""
    import openvino
    import torch

    class Traceable(torch.nn.Module):
        """Its answer is no plain tuple, which a trace must be."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network.eval()

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            answer = self.network(images)
            return answer.anomaly_map, answer.pred_score

    example = torch.zeros(1, 3, expected.height, expected.width)
    compiled = openvino.compile_model(openvino.convert_model(Traceable(), example_input=example), "CPU")

    def run(images: NDArray[np.uint8]) -> object:
        return compiled([images.transpose(0, 3, 1, 2).astype(np.float32) / 255])

    return run


def first_inference() -> None:
    """The end of a cold start: one image through the opened network."""
    _run(np.zeros((1, _input.height, _input.width, 3), np.uint8))


def time_once(batch: int) -> tuple[float, float | None]:
    """Seconds and joules of one inference; joules are None where the machine does not count them."""
    images = np.random.default_rng(0).integers(0, 256, (batch, _input.height, _input.width, 3), np.uint8)
    # The contender before leaves its data in the caches and its threads waiting for work at full speed.
    _run(images)
    energy, start = _energy_uj(), time.perf_counter()
    _run(images)
    taken, after = time.perf_counter() - start, _energy_uj()
    # The counter wraps around.
    return taken, (after - energy) / 1e6 if energy is not None and after is not None and after >= energy else None


def _energy_uj() -> int | None:
    try:
        return int(_ENERGY.read_text())
    except (OSError, ValueError):
        return None


def begin_probing(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def probe(precision: Precision) -> float:
    """Multiply-accumulates a second of PyTorch's matrix product; 16 bits are bfloat16, which CPUs multiply.

    The matrices grow until the next product could take long: where a type is emulated, large ones take minutes.
    """
    import torch

    types = {"fp32": torch.float32, "fp16": torch.bfloat16, "bf16": torch.bfloat16}
    best = 0.0
    for side in _PROBES:
        multiply, kind = (torch._int_mm, torch.int8) if precision == "int8" else (torch.mm, types[precision])
        a = torch.ones(side, side, dtype=kind)
        multiply(a, a)
        start = time.perf_counter()
        multiply(a, a)
        taken = time.perf_counter() - start
        best = max(best, side**3 / taken)
        if 8 * taken > _LONGEST_PROBE_S:
            break
    return best


def peak_memory_mib() -> float:
    """Most memory that this process has held."""
    try:
        # Not getrusage: on Linux its peak is that of the process which started this one, where that is larger.
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
