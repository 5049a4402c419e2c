"""Times one bundle's graph on every CPU runtime and precision against its network in plain PyTorch, in turns.

Each contender has a process of its own, so thread pools and memory are its own too; rounds go round robin, because a
machine that is slow for a while is then slow for all, and each turn begins with a run that is not timed. The share of
the ceiling compares the convolutions' arithmetic with the fastest matrix product that as many threads reach here.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.backends.graphs import OnnxModel
from service.bundle.folder import Bundle
from service.bundle.manifest import InputSpec, Precision
from training.bundling.arithmetic import macs

Run = Callable[[NDArray[np.uint8]], object]
_ENERGY = Path("/sys/class/powercap/intel-rapl:0/energy_uj")
_PROBE = 2048  # rows and columns of the matrices
_TYPES = {"fp32": torch.float32, "fp16": torch.bfloat16, "bf16": torch.bfloat16}


class BenchError(ValueError):
    """There is nothing to time; the message says why."""


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


@dataclass(frozen=True)
class Timing:
    """Milliseconds for one inference of `batch` images; images a second at the median; joules an image or None."""

    batch: int
    p50_ms: float
    p99_ms: float
    images_per_s: float
    joules: float | None


@dataclass(frozen=True)
class BenchRow:
    """One contender. `ceiling` is the share of the machine's matrix product at this precision, at batch 1."""

    runtime: str
    precision: Precision
    timings: list[Timing]
    peak_memory_mib: float
    ceiling: float


def parameters_and_macs(model: Path) -> tuple[int, int]:
    """Parameters of all weights, and multiply-accumulates of all convolutions for one image."""
    proto = onnx.load(model)
    return sum(prod(tensor.dims) for tensor in proto.graph.initializer if tensor.dims), sum(macs(proto).values())


def contenders(subject: Subject) -> list[Contender]:
    """Every runtime that is installed with every precision that it can run of the bundle."""
    found = [Contender("pytorch", "fp32")] if subject.network else []
    if find_spec("anomalib"):
        found.append(Contender("anomalib", "fp32"))
    found += [Contender("ort-cpu", precision) for precision in subject.models if precision != "bf16"]
    if find_spec("openvino"):
        from service.backends.openvino import has_bf16

        skipped = {"fp16"} if has_bf16() else {"fp16", "bf16"}
        if find_spec("anomalib"):
            found.append(Contender("anomalib-openvino", "bf16" if has_bf16() else "fp32"))
        found += [Contender("openvino", precision) for precision in subject.models if precision not in skipped]
    return found


def run_bench(subject: Subject, *, threads: int, batches: Sequence[int], rounds: int) -> dict[str, Any]:
    """Machine, arithmetic and one row a contender, as JSON values; `rounds` timed inferences of each batch size.

    Raises BenchError where a contender cannot be opened or dies.
    """
    spawn = multiprocessing.get_context("spawn")
    parameters, arithmetic = parameters_and_macs(subject.models["fp32"])
    pools: dict[Contender, ProcessPoolExecutor] = {}
    try:
        for contender in contenders(subject):
            pools[contender] = ProcessPoolExecutor(1, spawn, initializer=_open, initargs=(subject, contender, threads))
        seconds: dict[tuple[Contender, int], list[tuple[float, float | None]]] = {
            (contender, batch): [] for contender in pools for batch in batches
        }
        probes: dict[Precision, list[float]] = {contender.precision: [] for contender in pools}
        # The first round warms up: thread pools, memory and kernels chosen for a new batch size.
        for turn in range(rounds + 1):
            for (contender, batch), times in seconds.items():
                try:
                    taken = pools[contender].submit(_time_once, batch).result()
                except BrokenProcessPool as error:
                    raise BenchError(
                        f"{contender.runtime} in {contender.precision} ended, its own error is above: "
                        "repair or remove that runtime"
                    ) from error
                if turn:
                    times.append(taken)
            for precision, rates in probes.items():
                rates.append(next(iter(pools.values())).submit(_probe, precision).result())
        rows = []
        for contender, pool in pools.items():
            timings = [_timing(batch, seconds[contender, batch]) for batch in batches]
            rate = arithmetic / min(taken for taken, _ in seconds[contender, batches[0]]) * batches[0]
            memory = pool.submit(_peak_memory_mib).result()
            share = rate / max(probes[contender.precision])
            rows.append(BenchRow(contender.runtime, contender.precision, timings, round(memory, 1), share))
    finally:
        for pool in pools.values():
            pool.shutdown()
    return {
        "parameters": parameters,
        "macs": arithmetic,
        "threads": threads,
        "rounds": rounds,
        "ceiling_gmac_per_s": {precision: round(max(rates) / 1e9, 1) for precision, rates in probes.items()},
        "rows": [asdict(row) for row in rows],
    }


def tabulate(record: dict[str, Any]) -> str:
    """The record of `run_bench` as a Markdown table; `faster` is the first row's median over the row's, at batch 1."""
    plain = record["rows"][0]["timings"][0]["p50_ms"]
    batches = [timing["batch"] for timing in record["rows"][0]["timings"]]
    head = ["runtime", "precision", *(f"batch {batch}: p50 / p99, ms" for batch in batches)]
    head += ["images/s", "faster", "of ceiling", "peak MiB"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for row in record["rows"]:
        cells = [f"{timing['p50_ms']:.1f} / {timing['p99_ms']:.1f}" for timing in row["timings"]]
        best = max(timing["images_per_s"] for timing in row["timings"])
        faster = plain / row["timings"][0]["p50_ms"]
        figures = [f"{best:.1f}", f"{faster:.1f}x", f"{row['ceiling']:.0%}", f"{row['peak_memory_mib']:.0f}"]
        lines.append(" | ".join([row["runtime"], row["precision"], *cells, *figures]))
    title = f"{record['parameters'] / 1e6:.2f} M parameters, {record['macs'] / 1e9:.2f} GMAC an image"
    return "\n".join([f"{title}, {record['threads']} threads\n", *(f"| {line} |" for line in lines)])


def draw(record: dict[str, Any], file: Path) -> None:
    """Bars of the median latency at the first batch size, with the 99th percentile, as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.6 + 0.45 * len(record["rows"])), layout="constrained")
    axes = figure.subplots()
    names = [f"{row['runtime']} {row['precision']}" for row in record["rows"]]
    first = [row["timings"][0] for row in record["rows"]]
    p50 = np.array([timing["p50_ms"] for timing in first])
    p99 = np.array([timing["p99_ms"] for timing in first])
    bars = axes.barh(names, p50, xerr=[np.zeros_like(p50), p99 - p50], color="#3a6ea5", ecolor="#888888")
    axes.bar_label(bars, fmt="%.1f", padding=4)
    axes.invert_yaxis()
    axes.set_xlabel(f"ms an inference of {first[0]['batch']}, median, line to p99")
    figure.savefig(file)


def subject_of(bundle: Bundle, network: Callable[[], nn.Module] | None) -> Subject:
    """The bundle's files, and the network of its settings untrained: time does not depend on what it learned."""
    manifest = bundle.manifest
    models = {precision: bundle.file(file) for precision, file in manifest.models.items()}
    # The whole network rounds to bf16 here whether or not that was accepted: it is timed, not believed.
    return Subject({**models, "bf16": models["fp32"]}, manifest.input, network)


def export_random(network: Callable[[], nn.Module], size: int, folder: Path) -> Subject:
    """An untrained network, in `folder`: time does not depend on what it learned.

    In INT8 three layers stay in float, the two before the first concatenation and the one that reads it: the least
    that trained networks which look at their own reconstruction needed.
    """
    from training.bundling.export import InspectionGraph, to_onnx
    from training.bundling.quantize import observe, to_qdq

    torch.manual_seed(0)
    model = to_onnx(InspectionGraph(network()).eval(), size)
    names = [node.name for node in onnx.load_from_string(model).graph.node if node.op_type == "Conv"]
    reads = _reading_a_concatenation(model)
    layers = [name for i, name in enumerate(names) if reads is None or not reads - 2 <= i <= reads]
    noise = list(np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8))
    files: dict[Precision, Path] = {"fp32": folder / "model.onnx", "int8": folder / "model.int8.onnx"}
    files["fp32"].write_bytes(model)
    files["int8"].write_bytes(to_qdq(model, observe(model, noise), layers, "uint8"))
    return Subject({**files, "bf16": files["fp32"]}, InputSpec(height=size, width=size), network)


def _reading_a_concatenation(model: bytes) -> int | None:
    """Which of the convolutions, in order, reads the first concatenation."""
    graph = onnx.load_from_string(model).graph
    first = next((node.output[0] for node in graph.node if node.op_type == "Concat"), None)
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    return next((i for i, node in enumerate(convolutions) if node.input[0] == first), None)


def write_record(record: dict[str, Any], file: Path) -> None:
    """JSON to `file`, and the plot beside it as PNG."""
    file.write_text(json.dumps(record, indent=2) + "\n")
    draw(record, file.with_suffix(".png"))


def _timing(batch: int, taken: list[tuple[float, float | None]]) -> Timing:
    seconds = [s for s, _ in taken]
    energy = [j for _, j in taken if j is not None]
    p50 = median(seconds)
    joules = round(median(energy) / batch, 4) if energy else None
    p99 = float(np.percentile(seconds, 99))
    return Timing(batch, round(p50 * 1000, 2), round(p99 * 1000, 2), round(batch / p50, 2), joules)


# What runs in a contender's own process: the opened network lives in this module's global there.
_run: Run
_input: InputSpec


def _open(subject: Subject, contender: Contender, threads: int) -> None:
    global _run, _input
    torch.set_num_threads(threads)
    _input = subject.input
    if contender.runtime in ("pytorch", "anomalib"):
        ours = subject.network if contender.runtime == "pytorch" else None
        _run = _in_torch(ours() if ours else _peer(subject))
        return
    if contender.runtime == "anomalib-openvino":
        _run = in_openvino(_peer(subject), subject.input)
        return
    model = subject.models[contender.precision]
    if contender.runtime == "openvino":
        from service.backends.openvino import OpenVinoBackend

        _run = OpenVinoBackend(OnnxModel.read(model), subject.input, contender.precision, threads=threads).run
        return
    from service.backends.ort import OrtBackend

    _run = OrtBackend(OnnxModel.read(model), subject.input, contender.precision, threads=threads).run


def _peer(subject: Subject) -> nn.Module:
    """anomalib's network at the paper's widths, the only ones it has; it adds the softmax and the score."""
    from anomalib.models.image.draem.torch_model import DraemModel  # type: ignore[import-not-found]

    network: nn.Module = DraemModel()
    return network


def _in_torch(network: nn.Module) -> Run:
    network.eval()

    def run(images: NDArray[np.uint8]) -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)

    return run


def in_openvino(network: nn.Module, expected: InputSpec) -> Run:
    """Compiled for the CPU without any property, which is what anomalib's OpenVINOInferencer asks for."""
    import openvino

    class Traceable(nn.Module):
        """Its answer is no plain tuple, which a trace must be."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network.eval()

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            answer = self.network(images)
            return answer.anomaly_map, answer.pred_score

    example = torch.zeros(1, 3, expected.height, expected.width)
    compiled = openvino.compile_model(openvino.convert_model(Traceable(), example_input=example), "CPU")

    def run(images: NDArray[np.uint8]) -> object:
        return compiled([images.transpose(0, 3, 1, 2).astype(np.float32) / 255])

    return run


def _time_once(batch: int) -> tuple[float, float | None]:
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


def _probe(precision: Precision) -> float:
    """Multiply-accumulates a second of one large matrix product; 16 bits are bfloat16, which CPUs multiply."""
    if precision == "int8":
        a = torch.ones(_PROBE, _PROBE, dtype=torch.int8)
        multiply: Callable[[], object] = lambda: torch._int_mm(a, a)  # noqa: E731
    else:
        b = torch.ones(_PROBE, _PROBE, dtype=_TYPES[precision])
        multiply = lambda: b @ b  # noqa: E731
    multiply()
    start = time.perf_counter()
    multiply()
    return float(_PROBE**3 / (time.perf_counter() - start))


def _peak_memory_mib() -> float:
    try:
        # Not getrusage: on Linux its peak is that of the process which started this one, where that is larger.
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
