"""Times one bundle's graph on every CPU runtime and precision against its network in plain PyTorch, in turns.

Each contender has a process of its own, so thread pools and memory are its own too; rounds go round robin, because a
machine that is slow for a while is then slow for all, and each turn begins with a run that is not timed. The share of
the ceiling compares the convolutions' arithmetic with the fastest that as many threads reached here in that precision,
in PyTorch's matrix product or in one of the contenders: a product that a runtime outdoes is no ceiling.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from math import prod
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import onnx
import torch
from torch import nn

from service.backends.cpu import describe_cpu
from service.bundle.folder import Bundle
from service.bundle.manifest import InputSpec, Precision
from training.benchmarks.contender import (
    Contender,
    Subject,
    begin_probing,
    first_inference,
    open_contender,
    peak_memory_mib,
    probe,
    time_once,
)
from training.bundling.arithmetic import macs

T = TypeVar("T")

_SPAWN = multiprocessing.get_context("spawn")


class BenchError(ValueError):
    """There is nothing to time; the message says why."""


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
    """One contender. `cold_start_s` lasts from its process's start to its first result. `ceiling` is the share of the
    fastest arithmetic at this precision, at the first batch size; None where the machine only emulates that.
    """

    runtime: str
    precision: Precision
    timings: list[Timing]
    peak_memory_mib: float
    cold_start_s: float
    ceiling: float | None


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
    parameters, arithmetic = parameters_and_macs(subject.models["fp32"])
    pools: dict[Contender, ProcessPoolExecutor] = {}
    prober = ProcessPoolExecutor(1, _SPAWN, initializer=begin_probing, initargs=(threads,))
    cold_starts: dict[Contender, float] = {}
    try:
        for contender in contenders(subject):
            started = time.perf_counter()
            pools[contender] = _process_of(subject, contender, threads)
            _ask(pools[contender], contender, first_inference)
            cold_starts[contender] = time.perf_counter() - started
        seconds: dict[tuple[Contender, int], list[tuple[float, float | None]]] = {
            (contender, batch): [] for contender in pools for batch in batches
        }
        products: dict[Precision, float] = {"fp32": 0.0, **{contender.precision: 0.0 for contender in pools}}
        # The first round warms up: thread pools, memory and kernels chosen for a new batch size.
        for turn in range(rounds + 1):
            for (contender, batch), times in seconds.items():
                taken = _ask(pools[contender], contender, partial(time_once, batch))
                if turn:
                    times.append(taken)
            for precision, highest in products.items():
                if turn == 0 or not _is_emulated(precision, products):
                    products[precision] = max(highest, prober.submit(probe, precision).result())
        rates = {
            contender: arithmetic / min(taken for taken, _ in seconds[contender, batches[0]]) * batches[0]
            for contender in pools
        }
        ceilings = reached(products, rates)
        rows = []
        for contender, pool in pools.items():
            timings = [_timing(batch, seconds[contender, batch]) for batch in batches]
            emulated = _is_emulated(contender.precision, ceilings)
            rows.append(
                BenchRow(
                    contender.runtime,
                    contender.precision,
                    timings,
                    peak_memory_mib=round(pool.submit(peak_memory_mib).result(), 1),
                    cold_start_s=round(cold_starts[contender], 2),
                    ceiling=None if emulated else rates[contender] / ceilings[contender.precision],
                )
            )
    finally:
        for pool in (prober, *pools.values()):
            pool.shutdown()
    return {
        "cpu": describe_cpu(),
        "parameters": parameters,
        "macs": arithmetic,
        "threads": threads,
        "rounds": rounds,
        "ceiling_gmac_per_s": _in_gmac(ceilings),
        "matrix_product_gmac_per_s": _in_gmac(products),
        "emulated": [precision for precision in ceilings if _is_emulated(precision, ceilings)],
        "rows": [asdict(row) for row in rows],
    }


def reached(products: Mapping[Precision, float], rates: Mapping[Contender, float]) -> dict[Precision, float]:
    """The fastest of each precision: of the matrix product and of those who ran in it."""
    return {
        precision: max([product, *(rate for contender, rate in rates.items() if contender.precision == precision)])
        for precision, product in products.items()
    }


def _in_gmac(rates: Mapping[Precision, float]) -> dict[Precision, float]:
    return {precision: round(rate / 1e9, 1) for precision, rate in rates.items()}


def _process_of(subject: Subject, contender: Contender, threads: int) -> ProcessPoolExecutor:
    # The way to a network of PyTorch's would bring PyTorch into the process.
    known = subject if contender.runtime == "pytorch" else replace(subject, network=None)
    return ProcessPoolExecutor(1, _SPAWN, initializer=open_contender, initargs=(known, contender, threads))


def _ask(pool: ProcessPoolExecutor, contender: Contender, question: Callable[[], T]) -> T:
    try:
        return pool.submit(question).result()
    except BrokenProcessPool as error:
        raise BenchError(
            f"{contender.runtime} in {contender.precision} ended, its own error is above: repair or remove that runtime"
        ) from error


def _is_emulated(precision: Precision, ceilings: Mapping[Precision, float]) -> bool:
    """Fewer bits that multiply slower than float32 have no instructions of their own here, so no ceiling either."""
    return precision != "fp32" and ceilings[precision] < ceilings["fp32"]


def tabulate(record: dict[str, Any]) -> str:
    """The record of `run_bench` as a Markdown table; `faster` is the first row's median over the row's, at batch 1."""
    plain = record["rows"][0]["timings"][0]["p50_ms"]
    batches = [timing["batch"] for timing in record["rows"][0]["timings"]]
    head = ["runtime", "precision", *(f"batch {batch}: p50 / p99, ms" for batch in batches)]
    head += ["images/s", "faster", "of ceiling", "peak MiB", "cold start, s"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for row in record["rows"]:
        cells = [f"{timing['p50_ms']:.1f} / {timing['p99_ms']:.1f}" for timing in row["timings"]]
        best = max(timing["images_per_s"] for timing in row["timings"])
        faster = plain / row["timings"][0]["p50_ms"]
        share = "none" if row["ceiling"] is None else f"{row['ceiling']:.0%}"
        figures = [
            f"{best:.1f}",
            f"{faster:.1f}x",
            share,
            f"{row['peak_memory_mib']:.0f}",
            f"{row['cold_start_s']:.1f}",
        ]
        lines.append(" | ".join([row["runtime"], row["precision"], *cells, *figures]))
    size = f"{record['parameters'] / 1e6:.2f} M parameters, {record['macs'] / 1e9:.2f} GMAC an image"
    table = [f"{size}, {record['threads']} threads, {record['cpu']}\n", *(f"| {line} |" for line in lines)]
    rates, products = record["ceiling_gmac_per_s"], record["matrix_product_gmac_per_s"]
    notes = [
        f"\nNo ceiling in {precision}: the fastest here reaches {rates[precision]} GMAC/s in it and "
        f"{rates['fp32']} in fp32, so this CPU only emulates it."
        for precision in record["emulated"]
    ]
    notes += [
        f"\nThe ceiling in {precision} is the fastest row's {rates[precision]} GMAC/s: PyTorch's matrix product "
        f"reaches {products[precision]}."
        for precision in rates
        if precision not in record["emulated"] and rates[precision] > products[precision]
    ]
    return "\n".join([*table, *notes])


def draw(record: dict[str, Any], file: Path) -> None:
    """Bars of the median latency at the first batch size, with the 99th percentile, as an image."""
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


def export_random(network: Callable[[], nn.Module], height: int, width: int, folder: Path) -> Subject:
    """An untrained network, in `folder`: time does not depend on what it learned.

    In INT8 three layers stay in float, the two before the first concatenation and the one that reads it: the least
    that trained networks which look at their own reconstruction needed.
    """
    from training.bundling.graph import InspectionGraph
    from training.bundling.onnx import to_onnx
    from training.bundling.qdq import observe, to_qdq

    torch.manual_seed(0)
    model = to_onnx(InspectionGraph(network()).eval(), height, width)
    names = [node.name for node in onnx.load_from_string(model).graph.node if node.op_type == "Conv"]
    reads = _reading_a_concatenation(model)
    layers = [name for i, name in enumerate(names) if reads is None or not reads - 2 <= i <= reads]
    noise = list(np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8))
    files: dict[Precision, Path] = {"fp32": folder / "model.onnx", "int8": folder / "model.int8.onnx"}
    files["fp32"].write_bytes(model)
    files["int8"].write_bytes(to_qdq(model, observe(model, noise), layers, "uint8"))
    return Subject({**files, "bf16": files["fp32"]}, InputSpec(height=height, width=width), network)


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
