"""Clients that take what they can get: a camera that sends beside them loses no image and waits for none of them."""

from __future__ import annotations

import json
import re
import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import numpy as np
import pytest
from attacks import GOOD, camera_beside
from bundles import make_bundle, png
from processes import running_service
from sockets import HOST, connect, picture_request, read_reply, send_all

pytestmark = [pytest.mark.slow, pytest.mark.attack]

NOISE = png(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
HALVES = (b"", b"POST /inspect HTTP/1.1\r\nHo", picture_request(GOOD)[:-10], b"\r\n")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx2.Client]]:
    make_bundle(tmp_path / "models")
    with running_service(tmp_path / "models", tmp_path / "log") as running:
        yield running
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.fixture
def _many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("_many_files")
def test_a_thousand_slow_connections(service: tuple[subprocess.Popen[bytes], httpx2.Client]) -> None:
    _, client = service
    slow: list[socket.socket] = []
    with ExitStack() as stack, camera_beside(client, 50) as camera:
        for number in range(1000):
            one = stack.enter_context(connect(client))
            slow.append(one)
            send_all(one, HALVES[number % len(HALVES)])
        for _ in range(3):
            for one in slow[1::4]:
                send_all(one, b"s")
    camera.require_all_in_time()


def test_slow_bodies_near_the_limit(tmp_path: Path) -> None:
    """They leave less room than an image takes."""
    make_bundle(tmp_path / "models")
    limit = 200_000
    slow = picture_request(bytes(limit), "X-Deadline-Ms: 60000")[:-100]
    with (
        running_service(tmp_path / "models", tmp_path / "log", max_upload_bytes=limit) as (_, client),
        ExitStack() as stack,
    ):
        for _ in range(8):
            send_all(stack.enter_context(connect(client)), slow)
        # From when on they are slow, and not just on their way.
        time.sleep(1.5)
        with camera_beside(client, 30, picture=NOISE) as camera:
            pass
    camera.require_all_in_time()


def test_brackets_from_strangers(service: tuple[subprocess.Popen[bytes], httpx2.Client]) -> None:
    """Changes that nobody may make and that are too large to be one, of 30 MB, one behind the other."""
    process, client = service
    head = (
        b"PATCH /recipes/part/limits HTTP/1.1\r\n"
        + HOST
        + b"%sContent-Type: application/json\r\nContent-Length: 30000000\r\n\r\n"
    )
    with camera_beside(client, 20) as camera:
        for number in range(10):
            with connect(client) as stranger:
                send_all(stranger, head % (b"Via: 1.1 a\r\n" if number % 2 else b"") + b"[" * 30_000_000)
    camera.require_all_in_time()
    assert _peak_mb(process) < 500


def test_tensors_of_a_million_numbers(service: tuple[subprocess.Popen[bytes], httpx2.Client]) -> None:
    process, client = service
    bodies = [
        b'{"inputs": [{"name": "image", "shape": [1, 64, 64, 3], "datatype": "UINT8", "data": [' + b"1," * 15_000_000,
        b'{"inputs": [' + b"0.5," * 7_000_000,
        b"[" * 30_000_000,
        json.dumps({"inputs": [{"name": "image", "data": [["1"] * 8] * 600_000}]}).encode(),
    ]
    with camera_beside(client, 20) as camera:
        for body in bodies:
            reply = client.post("/v2/models/part/infer", content=body, headers={"Content-Type": "application/json"})
            assert reply.status_code == 422
            assert reply.json()["verdict"] == "NOT_INSPECTED"
    camera.require_all_in_time()
    assert _peak_mb(process) < 500


def test_answers_that_nobody_reads(service: tuple[subprocess.Popen[bytes], httpx2.Client]) -> None:
    _, client = service
    with ExitStack() as stack, camera_beside(client, 20) as camera:
        for _ in range(20):
            one = stack.enter_context(connect(client))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            send_all(one, (b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n") * 20)
    camera.require_all_in_time()


def test_half_a_picture_is_none(service: tuple[subprocess.Popen[bytes], httpx2.Client]) -> None:
    """Closed for writing in the middle of an image: no verdict but NOT_INSPECTED, and nothing counted."""
    _, client = service
    with connect(client) as one:
        send_all(one, picture_request(GOOD)[:-10])
        one.shutdown(socket.SHUT_WR)
        answer = one.recv(65_536)
    assert b" 200 " not in answer
    with connect(client) as one:
        send_all(one, picture_request(GOOD))
        assert read_reply(one)[1]["verdict"] == "OK"
    assert client.get("/counters").json()["part"]["OK"] == 1


def _peak_mb(process: subprocess.Popen[bytes]) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert found
    return int(found[1]) / 1024
