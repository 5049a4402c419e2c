"""What comes through the sockets of a running service, from clients that mean harm or know no better."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from bundles import gray, make_bundle, png
from certificates import write_certificate
from fakes import wait_for
from processes import running_service
from sockets import HOST, connect, picture_request, read_reply, read_to_end, send_all

pytestmark = pytest.mark.slow

GOOD = png(gray(51))
PICTURE = picture_request(GOOD)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    folder = tmp_path_factory.mktemp("service")
    make_bundle(folder / "models")
    with running_service(folder / "models", folder / "log") as (_, client):
        yield client
        assert "Traceback" not in (folder / "log").read_text()


REFUSED = {
    "no HTTP": (b"\x16\x03\x01\x02\x00 hello\r\n\r\n", 400),
    "no Host": (b"GET /livez HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET /livez HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    "length and chunks": (
        b"POST /inspect HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "chunks and length": (
        b"POST /inspect HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        400,
    ),
    "two lengths": (
        b"POST /inspect HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
        400,
    ),
    "unlike lengths": (
        b"POST /inspect HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
        400,
    ),
    "length with a sign": (b"POST /inspect HTTP/1.1\r\n" + HOST + b"Content-Length: +4\r\n\r\nabcd", 400),
    "chunked twice": (
        b"POST /inspect HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "another coding": (
        b"POST /inspect HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "digest behind the body": (
        b"POST /inspect HTTP/1.1\r\n"
        + HOST
        + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nContent-MD5: AAAA\r\n\r\n",
        422,
    ),
    "coding of HTTP/1.0": (b"POST /inspect HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "blank before the colon": (b"GET /livez HTTP/1.1\r\n" + HOST + b"X-A : 1\r\n\r\n", 400),
    "folded line": (b"GET /livez HTTP/1.1\r\n" + HOST + b"X-A: 1\r\n 2\r\n\r\n", 400),
    "NUL in a field": (b"GET /livez HTTP/1.1\r\n" + HOST + b"X-A: a\0b\r\n\r\n", 400),
    "long URL": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "URL without an end": (b"GET /" + b"a" * 1_000_000, 414),
    "large field": (b"GET /livez HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * 40_000 + b"\r\n\r\n", 431),
    "field without an end": (b"GET /livez HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * 1_000_000, 431),
    "name without an end": (b"GET /livez HTTP/1.1\r\n" + HOST + b"a" * 1_000_000, 431),
    "many fields": (b"GET /livez HTTP/1.1\r\n" + HOST + b"X-A: 1\r\n" * 200 + b"\r\n", 431),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_clear_meaning_is_refused_with_a_verdict(service: httpx2.Client, name: str) -> None:
    data, status = REFUSED[name]
    with connect(service) as connection:
        send_all(connection, data)
        answer = read_to_end(connection)
    # One that is cut off while it sends may have lost the answer; it got no other.
    if answer or len(data) < 500_000:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), answer
        assert b"x-verdict: NOT_INSPECTED" in head
        assert b'"verdict":"NOT_INSPECTED"' in body
        assert answer.count(b"HTTP/1.1 ") == 1
    assert service.get("/livez").status_code == 200


def test_a_field_behind_the_body_is_no_field_of_the_head(service: httpx2.Client) -> None:
    chunks = b"%x\r\n%s\r\n0\r\nX-Part-Id: A 17\r\n\r\n" % (len(GOOD), GOOD)
    with connect(service) as connection:
        connection.sendall(
            b"POST /inspect HTTP/1.1\r\n"
            + HOST
            + b"Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
            + chunks
        )
        status, reply = read_reply(connection)
    assert (status, reply["verdict"], reply["part_id"]) == (200, "OK", None)


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c", b"TLS/1.0"])
def test_an_upgrade_is_answered_in_http_and_ends_the_connection(service: httpx2.Client, protocol: bytes) -> None:
    with connect(service) as connection:
        connection.sendall(
            b"GET /livez HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\nGET /metrics"
        )
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer.lower()
    assert answer.count(b"HTTP/1.1") == 1


def test_requests_in_a_pipeline_are_answered_in_order(service: httpx2.Client) -> None:
    numbered = [picture_request(GOOD, f"X-Part-Id: {number}") for number in range(20)]
    with connect(service) as connection:
        connection.sendall(b"".join(numbered) + b"GET /livez HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        answer = read_to_end(connection)
    assert answer.count(b"HTTP/1.1 200") == 21
    found = [int(part.split(b"\r\n")[0]) for part in answer.lower().split(b"x-part-id: ")[1:]]
    assert found == list(range(20))


def test_head_is_answered_without_a_body_and_the_connection_goes_on(service: httpx2.Client) -> None:
    with connect(service) as connection:
        for path in (b"/livez", b"/web/station.css", b"/", b"/nothing"):
            connection.sendall(b"HEAD %s HTTP/1.1\r\n" % path + HOST + b"\r\n")
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                part = connection.recv(65_536)
                assert part, f"closed after {head!r}"
                head += part
            assert head.startswith(b"HTTP/1.1 404" if path == b"/nothing" else b"HTTP/1.1 200")
            assert head.endswith(b"\r\n\r\n")
            assert b"content-length: " in head
        connection.sendall(picture_request(GOOD))
        assert read_reply(connection)[1]["verdict"] == "OK"


def test_a_body_that_nobody_asked_for_is_not_read_to_its_end(service: httpx2.Client) -> None:
    """Of a page without a body, of an address that is not there, of a change that the client may not make."""
    for line in (b"GET /livez", b"POST /nothing", b"HEAD /livez", b"PATCH /recipes/part/limits"):
        with connect(service) as connection:
            head = line + b" HTTP/1.1\r\n" + HOST + b"X-Forwarded-For: 192.0.2.7\r\nContent-Length: 1000000000\r\n\r\n"
            sent = 0
            try:
                connection.sendall(head)
                for _ in range(200):
                    connection.sendall(bytes(1_000_000))
                    sent += 1
            except ConnectionError:
                pass
            assert sent < 50, line


def test_a_small_body_is_enough_for_a_change(service: httpx2.Client) -> None:
    with connect(service) as connection:
        body = b"[" * 70_000
        connection.sendall(
            b"PATCH /recipes/part/limits HTTP/1.1\r\nContent-Type: application/json\r\n"
            + HOST
            + (b"Content-Length: %d\r\n\r\n" % len(body) + body)
        )
        status, reply = read_reply(connection)
    assert (status, reply["code"]) == (413, "body_too_large")


def test_connections_that_bring_nothing_give_way_and_a_camera_stays(tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    with running_service(tmp_path / "models", tmp_path / "log", files=200) as (_, client), connect(client) as camera:
        camera.sendall(PICTURE)
        assert read_reply(camera)[1]["verdict"] == "OK"
        idle: list[socket.socket] = []
        try:
            for number in range(400):
                one = connect(client)
                idle.append(one)
                # Half a head, half a body, nothing.
                send_all(one, (b"POST /inspect HTTP/1.1\r\nHost:", PICTURE[:-10], b"")[number % 3])
            # One that is there, one that comes, and records still find a file.
            for _ in range(3):
                camera.sendall(PICTURE)
                assert read_reply(camera)[1]["verdict"] == "OK"
                with connect(client) as fresh:
                    fresh.sendall(PICTURE)
                    assert read_reply(fresh)[1]["verdict"] == "OK"
            metrics = client.get("/metrics").text
        finally:
            for one in idle:
                one.close()
        assert "inspect_records_lost_total 0.0" in metrics
        assert "inspect_connections_evicted_total 0.0" not in metrics
        # Beside them are those that were cut off: parts that nobody judged.
        wait_for(lambda: len(client.get("/inspections", params={"verdict": "OK"}).json()) == 7)
    assert "Too many open files" not in (tmp_path / "log").read_text()


def test_handshakes_that_stall_give_way_too(tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    authority = write_certificate(tmp_path, "authority", None)
    write_certificate(tmp_path, "service", authority)
    trusted = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
    files = {"tls_cert": tmp_path / "service.pem", "tls_key": tmp_path / "service.key"}
    settings: dict[str, object] = {"files": 200, **files}
    with running_service(tmp_path / "models", tmp_path / "log", verify=trusted, **settings) as (_, client):
        stalled = [connect(client) for _ in range(300)]
        try:
            for one in stalled[::2]:
                send_all(one, b"\x16\x03\x01\x02\x00\x01")
            for _ in range(3):
                with httpx2.Client(base_url=client.base_url, verify=trusted, timeout=300) as fresh:
                    reply = fresh.post("/inspect", content=GOOD, headers={"Content-Type": "image/png"})
                assert reply.json()["verdict"] == "OK"
            assert client.get("/livez").status_code == 200
            # Bounds of bytes hold in what is encrypted as well.
            with trusted.wrap_socket(connect(client), server_hostname="localhost") as secret:
                secret.sendall(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n")
                assert read_to_end(secret).startswith(b"HTTP/1.1 414")
        finally:
            for one in stalled:
                one.close()
    assert "Traceback" not in (tmp_path / "log").read_text()
