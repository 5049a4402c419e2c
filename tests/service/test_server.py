"""The service as a process of its own: start, serve, drain, die."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import httpx2
import numpy as np
import pytest
from bundles import gray, make_bundle, png
from certificates import write_certificate
from fakes import wait_for
from processes import running_service

from service.serving import prepare
from service.settings import Settings

pytestmark = pytest.mark.slow


def _rss_mb(process: subprocess.Popen[bytes]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


def test_idle_memory_and_none_gained_by_bad_requests(tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    with running_service(tmp_path / "models", tmp_path / "log") as (process, client):
        assert _rss_mb(process) < 300
        bad = [b"", b"text", png(gray(1))[:-40], bytes(50_000_000)]
        headers = {"Content-Type": "image/png"}

        def round_of_bad_requests() -> None:
            for data in bad:
                try:
                    assert client.post("/inspect", content=data, headers=headers).status_code in {400, 413}
                except httpx2.WriteError:
                    # The service may close the connection while 50 MB are still on their way.
                    assert len(data) > 32 * 1024 * 1024

        for _ in range(3):
            round_of_bad_requests()
        before = _rss_mb(process)
        for _ in range(25):
            round_of_bad_requests()
        assert _rss_mb(process) < before + 15
        assert client.post("/inspect", content=png(gray(51)), headers=headers).json()["verdict"] == "OK"
    assert "Traceback" not in (tmp_path / "log").read_text()


def _taken(metrics: str) -> float:
    """Inspections that the service has begun, finished or not."""
    return sum(float(value) for value in re.findall(r"^inspect_(?:in_flight|verdicts_total\S*) (\S+)$", metrics, re.M))


def test_sigterm_finishes_running_requests_and_leaves_no_child(tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    picture = png(np.random.default_rng(0).integers(0, 255, (1200, 1200, 3), np.uint8))
    replies: list[int] = []
    # The grace passes by itself, and running requests have the time of a machine that is busy.
    times = {"drain_grace_s": 0.2, "drain_timeout_s": 600, "deadline_ms": 600_000}
    with running_service(tmp_path / "models", tmp_path / "log", **times) as (process, client):

        def work() -> None:
            headers = {"Content-Type": "image/png"}
            replies.append(client.post("/inspect", content=picture, headers=headers).status_code)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_for(lambda: _taken(client.get("/metrics").text) >= len(threads))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(300)
        # uvicorn ends with the signal it was sent, once it is done.
        assert process.wait(300) == -signal.SIGTERM
    assert replies == [200] * 8
    assert children == ""


def test_a_load_balancer_loses_no_picture_when_the_service_ends(tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    picture, headers = png(gray(51)), {"Content-Type": "image/png"}
    with running_service(tmp_path / "models", tmp_path / "log", drain_grace_s=600) as (process, client):
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: client.get("/readyz").status_code == 503)
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "draining")
        # Images that were on their way are inspected, and their connection is not used again.
        with httpx2.Client(base_url=client.base_url, timeout=300) as late:
            reply = late.post("/inspect", content=picture, headers=headers)
        assert reply.json()["verdict"] == "OK"
        assert reply.headers["connection"] == "close"
        assert client.get("/livez").status_code == 200
        assert client.get("/v2/health/ready").status_code == client.get("/v2/models/part/ready").status_code == 503
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == -signal.SIGTERM


def test_a_second_signal_ends_the_grace(tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    with running_service(tmp_path / "models", tmp_path / "log", drain_grace_s=600) as (process, client):
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: client.get("/readyz").status_code != 200)
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == -signal.SIGTERM


def test_a_port_in_use_and_a_wrong_setting_end_at_once_with_a_message(tmp_path: Path) -> None:
    wrong = subprocess.run(
        [sys.executable, "-m", "service", "--max-batch", "0"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode != 0
    assert "max-batch" in wrong.stderr
    make_bundle(tmp_path / "models")
    with running_service(tmp_path / "models", tmp_path / "log") as (_, client):
        second = subprocess.run(
            [sys.executable, "-m", "service", "--port", str(client.base_url.port), "--records-dir", "none"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert second.returncode != 0
    assert "address already in use" in second.stderr
    assert "choose another --port" in second.stderr


def test_a_port_of_both_families_that_is_taken_is_named_with_the_remedy(tmp_path: Path) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port {port} of ::.*choose another --port"):
            prepare(Settings(models_dir=tmp_path, records_dir=None, host="::", port=port))


def test_https_lets_in_whom_the_authority_signed(models: Path, tmp_path: Path) -> None:
    authority = write_certificate(tmp_path, "authority", None)
    for name in ("service", "camera"):
        write_certificate(tmp_path, name, authority)
    stranger = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
    camera = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
    camera.load_cert_chain(tmp_path / "camera.pem", tmp_path / "camera.key")
    files = {"tls_cert": tmp_path / "service.pem", "tls_key": tmp_path / "service.key"}
    with running_service(models, tmp_path / "log", verify=stranger, **files) as (_, client):
        assert client.post("/inspect", files={"image": png(gray(51))}).json()["verdict"] == "OK"
    files["tls_client_ca"] = tmp_path / "authority.pem"
    with running_service(models, tmp_path / "log", verify=camera, **files) as (_, client):
        assert client.post("/inspect", files={"image": png(gray(51))}).json()["verdict"] == "OK"
        with httpx2.Client(base_url=client.base_url, verify=stranger) as other, pytest.raises(httpx2.TransportError):
            other.get("/livez")
