"""Benchmark of the service on this machine, against the bare backend in the same run: overhead, throughput, overload.

`python -m training.benchmarks serving`. It starts the service as a process of its own, with the defaults, and ends it.
Client and service share the machine, so throughput is what is left after the client's own work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from service.backends.base import Backend
from service.backends.cpu import describe_cpu
from service.backends.opening import open_backend
from service.bundle.folder import Bundle, read_bundle
from service.client import AsyncClient
from service.client.bare import BareClient
from service.client.load import qualify
from service.images.decoding import decode, encode, read
from service.images.quality import measure
from service.images.resizing import fit, resize
from training.benchmarks.stand_in import RECIPE, write_stand_in

# The UNIX socket of the service in its folder, and frames that are sent over it.
_SOCKET = "socket"
_FRAMES = 20
# Times during a soak at which what the service holds is read, beside its start.
_HELD = 20


async def benchmark(
    models: Path, recipe: str, *, requests: int, overload_s: float, soak_s: float, seed: int
) -> dict[str, Any]:
    """All figures of one run as JSON values; times in milliseconds, rates in images per second."""
    with tempfile.TemporaryDirectory() as first:
        async with _service(models, recipe, Path(first)) as (_, url), httpx2.AsyncClient(base_url=url) as http:
            recipes = (await http.get("/recipes")).json()
    version = next(one["version"] for one in recipes if one["recipe"] == recipe)
    bundle = read_bundle(models / recipe / version)
    images = [encode(picture, ".jpg") for picture in _pictures(bundle, seed)]
    cores = len(os.sched_getaffinity(0))
    figures: dict[str, Any] = {"quality_gate_1024_ms": _quality_gate_ms(bundle, seed, requests)}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # The service takes what was measured here to be fastest: they share the cache.
        bare = figures["bare_backend"] = _bare_backend(bundle, images, folder, cores, requests)
        process, url = await stack.enter_async_context(_service(models, recipe, folder))
        client = await stack.enter_async_context(AsyncClient(url, timeout_s=60))
        figures["one_at_a_time"] = await _one_at_a_time(client, images, requests)
        large = [encode(resize(picture, 1024, 1024), ".jpg") for picture in _pictures(bundle, seed)]
        figures["one_at_a_time_1024"] = await _one_at_a_time(client, large, requests)
        figures["frames_of_5_megapixels"] = await _frames(url, f"http+unix://{folder / _SOCKET}", seed)
        load = BareClient(url)
        figures["saturated"] = await _saturated(load, images, requests, process, cores)
        capacity = figures["saturated"]["per_s"]
        if overload_s:
            before = _rss_mb(process)
            result = await qualify(
                load, images, rate_hz=2 * capacity, deadline_ms=_deadline_ms(capacity), seconds=overload_s
            )
            figures["overload_2x"] = {
                **asdict(result),
                "goodput_share_of_capacity": round(result.goodput_hz / capacity, 4),
                "rss_mb": [before, _rss_mb(process)],
                "refusal_ms": await _refusal_ms(url, result.sent),
            }
        if soak_s:
            held = asyncio.create_task(_held(process, soak_s / _HELD))
            result = await qualify(load, images, rate_hz=0.8 * capacity, deadline_ms=5000, seconds=soak_s)
            figures["soak_80_percent"] = {**asdict(result), **await held}
        load.close()
    for name, rate in (("share_of_bare_backend", "per_s"), ("share_without_client", "per_s_without_client")):
        figures["saturated"][name] = round(figures["saturated"][rate] / max(bare["per_s"].values()), 4)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {cores} cores, {describe_cpu()}",
        "recipe": f"{recipe} {bundle.manifest.version}",
        "seed": seed,
        "command": " ".join(["python -m training.benchmarks", *sys.argv[1:]]),
        **figures,
    }


def _pictures(bundle: Bundle, seed: int) -> list[np.ndarray]:
    """Golden images with sensor noise, so that no two are the same."""
    rng = np.random.default_rng(seed)
    golden = [read(bundle.file(g.image)) for g in bundle.manifest.golden]
    noisy = (golden[i % len(golden)] + rng.normal(0, 3, golden[0].shape) for i in range(16))
    return [np.clip(picture, 0, 255).astype(np.uint8) for picture in noisy]


def _quality_gate_ms(bundle: Bundle, seed: int, requests: int) -> float:
    """Time of the quality gate of a 1024x1024 image, with its way to the network's size."""
    spec = bundle.manifest.input
    picture = np.random.default_rng(seed).integers(0, 256, (1024, 1024, 3), np.uint8)
    times = []
    for _ in range(requests):
        started = time.perf_counter()
        measure(picture, fit(picture, spec))
        times.append(time.perf_counter() - started)
    return round(1000 * statistics.median(times), 3)


def _bare_backend(bundle: Bundle, images: list[bytes], cache: Path, cores: int, requests: int) -> dict[str, Any]:
    """What the backend does in this process: latency of one image, throughput of batches and of runs side by side.

    The best of those is what the service is measured by. Decoding as well, as the service must, is a row of its own.
    """
    backend = open_backend(bundle, "auto", threads=cores, cache=cache, plan="auto")
    spec = bundle.manifest.input

    def prepare(number: int) -> np.ndarray:
        return fit(decode(images[number % len(images)]), spec)

    pixels = np.stack([prepare(number) for number in range(len(images))])
    single = [_timed(backend, pixels[i % len(pixels)][None]) for i in range(requests + 3)][3:]
    per_s = {}
    sizes = (1, 2, 4, 8)
    batched = open_backend(bundle, "auto", threads=cores, cache=cache, plan=f"1x{max(sizes)}")
    for size in sizes:
        runs = backend if size <= backend.max_batch_size else batched
        times = [_timed(runs, pixels[:size]) for _ in range(max(4, requests // size // 2))]
        per_s[f"batches of {size}"] = round(size / statistics.median(times), 3)
    batched.close()
    if backend.lanes > 1:
        per_s["side by side"] = _side_by_side(backend, requests, lambda number: pixels[number % len(pixels)])
    decoding = _side_by_side(backend, requests, prepare)
    backend.close()
    return {
        "backend": f"{backend.name} {backend.precision}",
        "p50_ms": round(1000 * statistics.median(single), 3),
        "per_s": per_s,
        "decode_and_model_per_s": decoding,
    }


def _side_by_side(backend: Backend, requests: int, prepare: Callable[[int], np.ndarray]) -> float:
    """Images per second where as many threads as the backend takes each prepare and run one image after the other."""
    with ThreadPoolExecutor(backend.lanes) as threads:
        started = time.perf_counter()
        list(threads.map(lambda number: backend.run(prepare(number)[None]), range(requests)))
        return round(requests / (time.perf_counter() - started), 3)


def _timed(backend: Backend, batch: np.ndarray) -> float:
    started = time.perf_counter()
    backend.run(batch)
    return time.perf_counter() - started


async def _one_at_a_time(client: AsyncClient, images: list[bytes], requests: int) -> dict[str, Any]:
    """Latency and, from the service's own stages, its overhead: the total without decoding and model."""
    stages: list[dict[str, float]] = []
    latencies: list[float] = []
    for i in range(requests + 5):
        started = time.perf_counter()
        outcome = await client.inspect(images[i % len(images)])
        latencies.append(1000 * (time.perf_counter() - started))
        stages.append(outcome.reply["timings_ms"])
    stages, latencies = stages[5:], latencies[5:]
    overhead = [s["total"] - s["decode"] - s["model"] for s in stages]
    return {
        "latency_p50_ms": round(statistics.median(latencies), 3),
        "latency_p99_ms": round(float(np.percentile(latencies, 99)), 3),
        "decode_to_reply_p50_ms": round(statistics.median(s["total"] - s["read"] for s in stages), 3),
        "overhead_p50_ms": round(statistics.median(overhead), 3),
        "stage_p50_ms": {name: round(statistics.median(s[name] for s in stages), 3) for name in stages[0]},
    }


async def _frames(tcp: str, unix: str, seed: int) -> dict[str, Any]:
    """Bare pixels of 2448x2048, 5 MB, one at a time over TCP and over the UNIX socket in turns: p50 in ms."""
    frame = np.random.default_rng(seed).integers(0, 256, (2048, 2448), np.uint8)
    taken: dict[str, list[tuple[float, float]]] = {"tcp": [], "unix": []}
    async with AsyncClient(tcp, timeout_s=60) as remote, AsyncClient(unix, timeout_s=60) as local:
        for _ in range(_FRAMES + 1):
            for name, client in (("tcp", remote), ("unix", local)):
                started = time.perf_counter()
                outcome = await client.inspect(frame)
                elapsed = 1000 * (time.perf_counter() - started)
                taken[name].append((elapsed, outcome.reply["timings_ms"]["read"]))
    return {
        name: {"latency": round(statistics.median(t), 3), "read": round(statistics.median(r), 3)}
        for name, values in taken.items()
        for t, r in [zip(*values[1:], strict=True)]
    }


async def _saturated(
    client: BareClient, images: list[bytes], requests: int, service: subprocess.Popen[bytes], cores: int
) -> dict[str, Any]:
    """Closed loop, 8 images under way all the time.

    `per_s_without_client` is what were left of the cores' time if the client, which is this process, took none of it.
    """
    numbers = iter(range(2 * requests))
    statuses: set[int | None] = set()

    async def worker() -> None:
        for number in numbers:
            statuses.add((await client.inspect(images[number % len(images)], deadline_ms=60_000)).status)

    started, client_before, service_before = time.perf_counter(), time.process_time(), _cpu_s(service)
    await asyncio.gather(*(worker() for _ in range(8)))
    elapsed = time.perf_counter() - started
    client_s, service_s = time.process_time() - client_before, _cpu_s(service) - service_before
    if statuses != {200}:
        raise RuntimeError(f"the service refused images of the throughput test: {statuses}")
    pictures = 2 * requests
    return {
        "per_s": round(pictures / elapsed, 3),
        "per_s_without_client": round(pictures / (elapsed - client_s / cores), 3),
        "client_cpu_ms": round(1000 * client_s / pictures, 3),
        "service_cpu_ms": round(1000 * service_s / pictures, 3),
    }


async def _refusal_ms(url: str, sent: int) -> dict[str, float]:
    """How long refusals took, from the service's own count: it knows when a request began."""
    async with httpx2.AsyncClient(base_url=url) as http:
        text = (await http.get("/metrics")).text
    counts = re.findall(r'inspect_refusal_seconds_bucket\{le="([^"]+)"\} (\S+)', text)
    buckets = {float(edge): float(count) for edge, count in counts}
    refused = buckets.get(float("inf"), 0.0)
    p99 = next((edge for edge, count in sorted(buckets.items()) if count >= 0.99 * refused), 0.0)
    return {"refused": refused, "sent": sent, "p99_at_most_ms": 1000 * p99}


def _deadline_ms(capacity: float) -> float:
    """Room for a few batches of eight: tight enough that an unbounded queue would miss it."""
    return round(1000 * 24 / capacity, 1)


@asynccontextmanager
async def _service(models: Path, recipe: str, folder: Path) -> AsyncIterator[tuple[subprocess.Popen[bytes], str]]:
    """`python -m service` with its defaults and environment on a free port, ready; ended afterwards."""
    with (folder / "log").open("w+b") as log:
        flags = ["--port", "0", "--models-dir", str(models), "--default-recipe", recipe, "--drain-grace-s", "0"]
        flags += ["--records-dir", str(folder), "--cache-dir", str(folder), "--unix-socket", str(folder / _SOCKET)]
        process = subprocess.Popen([sys.executable, "-m", "service", *flags], stderr=log)  # noqa: S603
        try:
            while not (found := re.search(rb"running on (http://\S+)", Path(log.name).read_bytes())):
                if process.poll() is not None:
                    raise RuntimeError(Path(log.name).read_text())
                await asyncio.sleep(0.05)
            url = found[1].decode()
            async with httpx2.AsyncClient(base_url=url) as http:
                while (await http.get("/readyz")).status_code != httpx2.codes.OK:
                    await asyncio.sleep(0.05)
            yield process, url
        finally:
            process.terminate()
            process.wait()


def _cpu_s(process: subprocess.Popen[bytes]) -> float:
    """CPU time of all threads, in user and system mode."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _held(process: subprocess.Popen[bytes], every_s: float) -> dict[str, list[float]]:
    """What the service holds at the start of a soak and after each part of it: memory, threads, open descriptors."""
    held: dict[str, list[float]] = {"rss_mb": [], "threads": [], "descriptors": []}
    for moment in range(_HELD + 1):
        await asyncio.sleep(every_s if moment else 0)
        held["rss_mb"].append(_rss_mb(process))
        held["threads"].append(len(list(Path(f"/proc/{process.pid}/task").iterdir())))
        held["descriptors"].append(len(list(Path(f"/proc/{process.pid}/fd").iterdir())))
    return held


def _rss_mb(process: subprocess.Popen[bytes]) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    return round(int(found[1]) / 1024, 1) if found else 0.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks serving", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of recipes")
    parser.add_argument("--recipe", default="demo", help="name of the recipe")
    parser.add_argument("--requests", type=int, default=300, help="requests of each figure")
    parser.add_argument("--overload", type=float, default=30.0, help="seconds at twice the capacity; 0: none")
    parser.add_argument("--soak", type=float, default=0.0, help="seconds at 80 %% of the capacity; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="of the images and of their order")
    parser.add_argument("--record", type=Path, help="JSON file for the figures")
    parser.add_argument("--model-ms", type=float, help="in place of a recipe a stand-in that takes about so long")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if options.model_ms:
            options.models, options.recipe = Path(folder), RECIPE
            write_stand_in(options.models, options.model_ms, len(os.sched_getaffinity(0)))
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    figures = asyncio.run(
        benchmark(
            options.models,
            options.recipe,
            requests=options.requests,
            overload_s=options.overload,
            soak_s=options.soak,
            seed=options.seed,
        )
    )
    print(json.dumps(figures, indent=2))
    if options.record:
        options.record.write_text(json.dumps(figures, indent=2) + "\n")
    return 0
