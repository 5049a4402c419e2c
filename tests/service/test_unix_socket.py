"""A UNIX socket beside TCP, or in its place: the same answers behind the same doors."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from bundles import gray, make_bundle, png
from fakes import wait_for
from processes import running_service
from sockets import picture_request, read_reply, read_to_end

from service.client import Client
from service.client.address import split_address
from service.http.unix_socket import UnixSocket, UnixSocketError

GOOD = png(gray(51))


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], httpx2.Client, Path]]:
    folder = tmp_path_factory.mktemp("station")
    make_bundle(folder / "models")
    path = folder / "socket"
    with running_service(folder / "models", folder / "log", unix_socket=path) as (process, client):
        yield process, client, path


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(120)
    connection.connect(str(path))
    return connection


@pytest.mark.slow
def test_both_sockets_give_the_same_answer(station: tuple[subprocess.Popen[bytes], httpx2.Client, Path]) -> None:
    _, http, path = station
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with Client(f"http+unix://{path}") as local, Client(str(http.base_url)) as remote:
        answers = [one.inspect(GOOD, part_id="A 17") for one in (local, remote)]
    assert [answer.verdict for answer in answers] == ["OK", "OK"]
    assert answers[0].score == answers[1].score


@pytest.mark.slow
def test_curl_and_the_commands_take_it(
    station: tuple[subprocess.Popen[bytes], httpx2.Client, Path], tmp_path: Path
) -> None:
    _, _, path = station
    (picture := tmp_path / "part.png").write_bytes(GOOD)
    command = [sys.executable, "-m", "service", "inspect", str(picture), "--url", f"http+unix://{path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["verdict"]) == (0, "OK"), done.stderr
    if (curl := shutil.which("curl")) is None:
        pytest.skip("no curl on this machine")
    command = [curl, "-s", "--unix-socket", str(path), "-F", f"image=@{picture}", "http://localhost/inspect"]
    assert json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["verdict"] == "OK"


@pytest.mark.slow
def test_the_doors_are_the_same(station: tuple[subprocess.Popen[bytes], httpx2.Client, Path]) -> None:
    _, http, path = station
    with _connect(path) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 40_000 + b"\r\n\r\n")
        assert read_to_end(connection).startswith(b"HTTP/1.1 431 ")
    with _connect(path) as connection:
        head = picture_request(b"").replace(b"Content-Length: 0", b"Content-Length: 999999999")
        connection.sendall(head)
        assert read_reply(connection)[1]["code"] == "body_too_large"
    with _connect(path) as connection:
        connection.sendall(picture_request(GOOD, "X-Deadline-Ms: 1000")[:-10])
        # Its end never comes.
        assert read_reply(connection)[1]["code"] == "deadline_passed"
    # Who is gone before the answer leaves no image in the queue.
    with _connect(path) as connection:
        connection.sendall(picture_request(GOOD))
    wait_for(lambda: "inspect_in_flight 0.0" in http.get("/metrics").text)


@pytest.mark.slow
def test_nobody_on_it_administers_without_a_key(
    station: tuple[subprocess.Popen[bytes], httpx2.Client, Path],
) -> None:
    _, http, path = station
    request = b"POST /counters/reset HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    with _connect(path) as connection:
        connection.sendall(request)
        assert read_reply(connection)[0] == 403
    assert http.post("/counters/reset").status_code == 200


@pytest.mark.slow
def test_alone_it_serves_drains_and_takes_its_file_away(tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    path = tmp_path / "socket"
    environment = {**os.environ, "INSPECT_HOST": "none", "INSPECT_UNIX_SOCKET": str(path), "INSPECT_DRAIN_GRACE_S": "0"}
    environment |= {"INSPECT_MODELS_DIR": str(tmp_path / "models"), "INSPECT_RECORDS_DIR": "none"}
    health = [sys.executable, "-m", "service.healthcheck"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "service"], env=environment, stderr=log)
    try:
        wait_for(lambda: "running on http+unix://" in (tmp_path / "log").read_text())
        with Client(f"http+unix://{path}", timeout_s=120, retries=500) as client:
            assert client.inspect(GOOD).verdict == "OK"
        listening = Path("/proc/net/unix").read_text()
        assert str(path) in listening
        assert subprocess.run(health, env=environment, check=False, capture_output=True).returncode == 0
        process.terminate()
        assert process.wait() == -signal.SIGTERM
        assert not path.exists()
        assert subprocess.run(health, env=environment, check=False, capture_output=True).returncode == 1
    finally:
        process.kill()
        process.wait()


def test_what_a_killed_service_left_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    killed = UnixSocket(path)
    killed.listener.close()
    left = path.stat().st_ino
    second = UnixSocket(path)
    second.listener.listen()
    assert path.exists()
    with pytest.raises(UnixSocketError, match="another service listens here"):
        UnixSocket(path)
    # The file is the second's now: the first does not take it away.
    if path.stat().st_ino != left:
        killed.remove()
    assert path.exists()
    second.remove()
    second.listener.close()
    assert not path.exists()
    path.write_text("notes")
    with pytest.raises(UnixSocketError, match="is there and no socket"):
        UnixSocket(path)
    assert path.read_text() == "notes"
    for wrong in (tmp_path / "none" / "socket", tmp_path / ("x" * 200)):
        with pytest.raises(UnixSocketError, match="no UNIX socket can be made here"):
            UnixSocket(wrong)


def test_an_address_is_of_tcp_or_of_a_socket() -> None:
    assert split_address("https://station:8000/line") == ("https://station:8000/line", None)
    assert split_address("http+unix:///run/inspect.sock") == ("http://localhost", "/run/inspect.sock")
    with pytest.raises(ValueError, match="from the root"):
        split_address("http+unix://run/inspect.sock")
