"""The service beside others that serve the same ONNX file: JPEG in, score out, in one run on this machine.

`python -m training.benchmarks peers`. A plain FastAPI route runs in this environment; LitServe, BentoML and Triton (as
PyTriton brings it) in ones of their own below `--environments`, which `--install` makes. Each is asked at 50, 90 and
200 % of its own capacity, at fixed times whether or not earlier images were answered. Client and server share the
cores. OpenVINO Model Server comes as a container and is not in it.

What a peer leaves out it saves: none of them checks the image, the result or the deadline, or keeps a record.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from service.backends.cpu import describe_cpu
from service.bundle.folder import read_bundle
from service.client import Outcome
from service.client.load import Inspects, qualify
from service.images.decoding import encode, read
from service.station.verdicts import Verdict
from training.benchmarks.stand_in import RECIPE, write_stand_in

_SERVERS = Path(__file__).parent / "peer_servers"
# Script of each peer, and what it needs in an environment of its own; none: this one's.
_PEERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "fastapi": ("fastapi_route.py", ()),
    "litserve": ("litserve_api.py", ("litserve", "python-multipart")),
    "bentoml": ("bentoml_service.py", ("bentoml",)),
    "triton": ("triton_model.py", ("nvidia-pytriton",)),
}
_COMMON = ("numpy", "onnxruntime", "opencv-python-headless")
_SHARES = (0.5, 0.9, 2.0)
_STARTS_S = 120.0
_AT_ONCE = 8
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: (\d+)")
_OK = 200
_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Server:
    """A server that answers: its port, and the process that all of it runs below."""

    name: str
    port: int
    pid: int


class PeerClient:
    """Sends images over bare sockets; a library would cost as much as the servers do."""

    def __init__(self, name: str, port: int) -> None:
        self._asked = _as_tensor if name == "triton" else _as_form
        self._port = port
        self._free: list[_Connection] = []

    async def inspect(self, image: bytes, *, recipe: str | None = None, deadline_ms: float | None = None) -> Outcome:
        """An answer in time counts as inspected, whatever it says of the part: here nobody acts on it."""
        path, headers, body = self._asked(image)
        # The others pass it over.
        deadline = f"X-Deadline-Ms: {deadline_ms:.1f}\r\n" if deadline_ms else ""
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{deadline}{headers}Content-Length: {len(body)}\r\n\r\n"
        try:
            connection = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
            status, reply = await self._send(connection, head.encode() + body)
        except (OSError, EOFError) as error:
            return Outcome(Verdict.NOT_INSPECTED, None, {"code": type(error).__name__})
        if status == _OK and ("score" in reply or "outputs" in reply):
            return Outcome(Verdict.REVIEW, status, {})
        return Outcome(Verdict.NOT_INSPECTED, status, {"code": reply.get("code", f"status_{status}")})

    async def _send(self, connection: _Connection, request: bytes) -> tuple[int, Mapping[str, Any]]:
        reader, writer = connection
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        body = await reader.readexactly(int(length[1]) if length else 0)
        if b"connection: close" in head.lower():
            writer.close()
        else:
            self._free.append(connection)
        try:
            reply = json.loads(body)
        except ValueError:
            reply = {}
        return int(head.split(maxsplit=2)[1]), reply if isinstance(reply, dict) else {}

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()


def _as_form(image: bytes) -> tuple[str, str, bytes]:
    """Path, more headers and body: a form of one file, as all but Triton take it."""
    begin = b'--b\r\nContent-Disposition: form-data; name="image"; filename="part.jpg"\r\nContent-Type: image/jpeg'
    body = begin + b"\r\n\r\n" + image + b"\r\n--b--\r\n"
    return "/inspect", "Content-Type: multipart/form-data; boundary=b\r\n", body


def _as_tensor(image: bytes) -> tuple[str, str, bytes]:
    """The same for Triton: a tensor of one string behind its description (Open Inference Protocol, binary data)."""
    data = struct.pack("<I", len(image)) + image
    size = {"binary_data_size": len(data)}
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": size}
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "score", "parameters": {"binary_data": False}}]})
    headers = f"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: {len(head)}\r\n"
    return "/v2/models/inspect/infer", headers, head.encode() + data


async def benchmark(
    models: Path, recipe: str, names: Sequence[str], environments: Path, *, seconds: float, seed: int
) -> dict[str, Any]:
    """All figures of one run as JSON values; rates in images a second, latencies in ms from the due time."""
    version = max(one for one in (models / recipe).iterdir() if (one / "manifest.json").exists())
    bundle = read_bundle(version)
    rng = np.random.default_rng(seed)
    golden = [read(bundle.file(one.image)) for one in bundle.manifest.golden]
    noisy = [golden[i % len(golden)] + rng.normal(0, 3, golden[0].shape) for i in range(16)]
    images = [encode(np.clip(picture, 0, 255).astype(np.uint8), ".jpg") for picture in noisy]
    figures: dict[str, Any] = {}
    for name in names:
        python = _python(name, environments)
        if not python.exists():
            figures[name] = {"missing": f"{python} is not there: --install makes it"}
            continue
        with tempfile.TemporaryDirectory() as folder:
            command, more = _command(name, python, models, recipe, bundle.file(bundle.manifest.models["fp32"]), folder)
            async with _running(name, command, more, Path(folder), images[0]) as server:
                figures[name] = await _measure(server, images, seconds)
        print(f"{name}: {figures[name]}", file=sys.stderr)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {describe_cpu()}",
        "recipe": f"{recipe} {bundle.manifest.version}",
        "command": " ".join(["python -m training.benchmarks", *sys.argv[1:]]),
        "servers": figures,
    }


async def _measure(server: Server, images: list[bytes], seconds: float) -> dict[str, Any]:
    client = PeerClient(server.name, server.port)
    await _capacity(client, images, min(2.0, seconds))
    capacity = await _capacity(client, images, seconds)
    runs = {}
    for share in _SHARES:
        # Room for a few batches of eight.
        deadline_ms = round(1000 * 24 / capacity, 1)
        result = await qualify(client, images, rate_hz=share * capacity, deadline_ms=deadline_ms, seconds=seconds)
        answered = result.sent - sum(result.problems.values())
        runs[f"{share:.0%}"] = {
            "goodput_share": round(result.goodput_hz / capacity, 3),
            "late": answered - result.in_time,
            **{key: value for key, value in asdict(result).items() if key in ("sent", "in_time", "latency_ms")},
            "problems": result.problems,
        }
    client.close()
    return {"per_s": round(capacity, 2), "peak_rss_mb": _peak_rss_mb(server.pid), "open_loop": runs}


async def _capacity(client: Inspects, images: list[bytes], seconds: float) -> float:
    """Closed loop, several images under way all the time; raises RuntimeError where one is not answered."""
    until = time.perf_counter() + seconds
    count = 0

    async def worker() -> None:
        nonlocal count
        while time.perf_counter() < until:
            outcome = await client.inspect(images[count % len(images)], recipe=None, deadline_ms=60_000)
            if outcome.status != _OK:
                raise RuntimeError(f"the server does not answer: {outcome}")
            count += 1

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(_AT_ONCE)))
    return count / (time.perf_counter() - started)


def _python(name: str, environments: Path) -> Path:
    own = _PEERS[name][1] if name in _PEERS else ()
    return environments / name / "bin" / "python" if own else Path(sys.executable)


def _command(
    name: str, python: Path, models: Path, recipe: str, model: Path, folder: str
) -> tuple[list[str], dict[str, str]]:
    """What is run, and what it is told by its environment."""
    port = str(_free_port())
    if name in _PEERS:
        # Nobody measured tells others of it.
        quiet = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": folder}
        # Triton's own process of Python takes the library of this one: that of the system may be older.
        library = {"LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR"))} if name == "triton" else {}
        told = {"PEER_MODEL": str(model.absolute()), "PEER_PORT": port, **quiet, **library}
        return [str(python), str(_SERVERS / _PEERS[name][0])], told
    flags = ["--port", port, "--models-dir", str(models.absolute()), "--default-recipe", recipe, "--drain-grace-s", "0"]
    flags += ["--records-dir", f"{folder}/records", "--cache-dir", f"{folder}/cache"]
    # The same runtime and file as the others have.
    runtime = ["--backend", "ort-cpu", "--precision", "fp32"]
    return [str(python), "-m", "service", *flags, *runtime], {"PEER_PORT": port}


@asynccontextmanager
async def _running(
    name: str, command: list[str], more: Mapping[str, str], folder: Path, image: bytes
) -> AsyncIterator[Server]:
    """A server that has answered its first image; it and all below it end afterwards."""
    port = int(more["PEER_PORT"])
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603
            command, env={**os.environ, **more}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        client, until = PeerClient(name, port), time.monotonic() + _STARTS_S
        while (outcome := await client.inspect(image)).status != _OK:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{name} does not answer: {outcome}\n{(folder / 'log').read_text()[-4000:]}")
            await asyncio.sleep(0.2)
        client.close()
        yield Server(name, port, process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _peak_rss_mb(pid: int) -> float:
    """The sum of the peaks of a process and all below it."""
    total = 0.0
    for one in _family(pid):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{one}/status").read_text())
        total += int(found[1]) / 1024 if found else 0.0
    return round(total, 1)


def _family(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _family(int(child))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def install(names: Sequence[str], environments: Path) -> None:
    """Make the environments of the peers that need one, from the package registry that pip knows."""
    for name in names:
        needs = _PEERS[name][1] if name in _PEERS else ()
        if needs and not (environments / name).exists():
            venv.create(environments / name, with_pip=True)
            command = [str(_python(name, environments)), "-m", "pip", "install", "--quiet", *_COMMON, *needs]
            subprocess.run(command, check=True)  # noqa: S603


def tabulate(figures: Mapping[str, Any]) -> str:
    shares = [f"{share:.0%}" for share in _SHARES]
    head = ["server", "pictures/s", *(f"{share}: p50 / p99 / p99.9 ms, late, refused" for share in shares), "peak MB"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, one in figures.items():
        if "missing" in one:
            lines.append(f"| {name} | {one['missing']} |" + " |" * (len(head) - 2))
            continue
        cells = []
        for run in one["open_loop"].values():
            latency = run["latency_ms"]
            times = " / ".join(f"{latency.get(key, float('nan')):.0f}" for key in ("p50", "p99", "p99.9"))
            cells.append(f"{times}, {run['late']} of {run['sent']}, {sum(run['problems'].values())}")
        lines.append(f"| {name} | {one['per_s']} | {' | '.join(cells)} | {one['peak_rss_mb']} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    names = ["draem-inspect", *_PEERS]
    parser = argparse.ArgumentParser(prog="python -m training.benchmarks peers", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of recipes")
    parser.add_argument("--recipe", default="demo", help="name of the recipe")
    parser.add_argument("--servers", nargs="+", choices=names, default=names, help="without it all")
    parser.add_argument("--environments", type=Path, default=Path("runs/peers"), help="folder of the peers' packages")
    parser.add_argument("--install", action="store_true", help="install the peers there first")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each rate")
    parser.add_argument("--seed", type=int, default=0, help="of the images")
    parser.add_argument("--record", type=Path, help="JSON file for the figures")
    parser.add_argument("--model-ms", type=float, help="in place of a recipe a stand-in that takes about so long")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if options.model_ms:
            options.models, options.recipe = Path(folder), RECIPE
            write_stand_in(options.models, options.model_ms, len(os.sched_getaffinity(0)))
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    if options.install:
        install(options.servers, options.environments)
    cv2.setNumThreads(1)
    figures = asyncio.run(
        benchmark(
            options.models,
            options.recipe,
            options.servers,
            options.environments,
            seconds=options.seconds,
            seed=options.seed,
        )
    )
    print(f"{figures['machine']}, {figures['recipe']}\n\n{tabulate(figures['servers'])}")
    if options.record:
        options.record.write_text(json.dumps(figures, indent=2) + "\n")
    return 0
