"""Time that passes where the service does not see it: no answer with a verdict of the image after its deadline."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest
from attacks import GOOD, camera_beside
from bundles import make_bundle
from processes import running_service
from sockets import HOST, connect, picture_request, read_reply, read_to_end, send_all

pytestmark = [pytest.mark.slow, pytest.mark.attack]


@pytest.mark.parametrize("kept", [False, True])
def test_a_service_that_was_stopped_gives_no_late_verdict(tmp_path: Path, kept: bool) -> None:
    """On a connection that is new, where the kernel alone knew of it, and on one that was open before."""
    make_bundle(tmp_path / "models")
    late = picture_request(GOOD, "X-Deadline-Ms: 1000")
    with running_service(tmp_path / "models", tmp_path / "log") as (process, client):
        with connect(client) as before:
            before.sendall(picture_request(GOOD))
            assert read_reply(before)[1]["verdict"] == "OK"
            process.send_signal(signal.SIGSTOP)
            try:
                with before if kept else connect(client) as one:
                    one.sendall(late)
                    # What the deadline is about: time, and not what the service makes of it.
                    time.sleep(1.2)
                    process.send_signal(signal.SIGCONT)
                    status, reply = read_reply(one)
            finally:
                process.send_signal(signal.SIGCONT)
        assert reply["verdict"] == "NOT_INSPECTED"
        assert status in {429, 504}
        assert client.get("/counters").json()["part"]["OK"] == 1


def test_no_verdict_is_late_beside_changes_that_nobody_may_make(tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    body = b"[" * 1_572_864
    head = b"PATCH /recipes/part/limits HTTP/1.1\r\n" + HOST + b"Via: 1.1 a\r\nContent-Type: application/json\r\n"
    request = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    over = threading.Event()
    with running_service(tmp_path / "models", tmp_path / "log") as (_, client):

        def attack() -> None:
            while not over.is_set():
                with connect(client) as stranger:
                    send_all(stranger, request)
                    assert b" 403 " in read_to_end(stranger)[:20]

        strangers = [threading.Thread(target=attack) for _ in range(4)]
        with camera_beside(client, 67, deadline_s=0.3) as camera:
            for stranger in strangers:
                stranger.start()
            while len(camera.statuses) < 67 and camera.error is None:
                time.sleep(0.1)
            over.set()
            for stranger in strangers:
                stranger.join()
    assert camera.error is None, repr(camera.error)
    assert set(camera.statuses) <= {200, 429, 504}
    sys.stdout.write(f"{camera.statuses.count(200)} of {len(camera.statuses)} with a verdict, late: {camera.late()}\n")
    assert camera.late() == []


def test_nobody_who_reads_the_log_keeps_nobody_waiting(tmp_path: Path) -> None:
    """A pipe of 64 KiB is full after a few hundred parts."""
    make_bundle(tmp_path / "models")
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "service", "--port", "0", "--models-dir", str(tmp_path / "models")]
    process = subprocess.Popen([*command, "--records-dir", "none", "--log-format", "json"], stderr=writing)
    os.close(writing)
    text = b""
    try:
        while b"running on" not in text:
            text += os.read(reading, 4096)
        port = int(text.split(b"127.0.0.1:")[1].split()[0].rstrip(b'",'))
        # From here on nobody reads.
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as client:
            while client.get("/readyz").status_code != 200:
                time.sleep(0.02)
            with connect(client) as camera:
                for _ in range(600):
                    camera.sendall(picture_request(GOOD, "X-Part-Id: " + "a" * 100))
                    assert read_reply(camera)[1]["verdict"] == "OK"
            assert client.get("/livez").status_code == 200
        # The end does not wait for a reader either.
        process.send_signal(signal.SIGINT)
        process.wait(300)
    finally:
        process.kill()
        process.wait()
        os.close(reading)
