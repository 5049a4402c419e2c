"""HEAD, slashes, prefixes, both kinds of IP address, and the check that asks whether the service is alive."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bundles import gray, png, wait_until_loaded
from certificates import write_certificate
from fakes import wait_for
from fastapi.testclient import TestClient
from pydantic import ValidationError
from replies import assert_problem, post
from starlette.datastructures import Headers

from service.app import create_app
from service.http.accept import wanted_picture
from service.settings import Settings

GOOD = png(gray(51))
PAGES = ["/", "/livez", "/readyz", "/state", "/counters", "/metrics", "/recipes", "/docs", "/openapi.json", "/v2"]


@pytest.mark.parametrize("path", [*PAGES, "/web/app.js", "/v2/models/part", "/recipes/part/golden/0.png", "/nothing"])
def test_head_says_what_get_says_without_the_body(client: TestClient, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    said = {"content-type", "content-length", "x-content-type-options"} - ({"content-length"} & {path[1:]})
    for name in said - ({"content-length"} if path in {"/metrics", "/state", "/nothing"} else set()):
        assert head.headers[name] == got.headers[name]
    assert client.head("/inspect").status_code == 405


@pytest.mark.parametrize("path", [page for page in PAGES if page != "/"])
def test_a_slash_at_the_end_is_the_same_address(client: TestClient, path: str) -> None:
    assert client.get(f"{path}/", follow_redirects=False).status_code == 200
    with_slash = client.post("/inspect/", content=GOOD, headers={"Content-Type": "image/png"}, follow_redirects=False)
    assert with_slash.json()["verdict"] == "OK"


def test_the_screen_has_parameters_that_its_script_reads(client: TestClient) -> None:
    assert client.get("/?kiosk&line=Line%203").status_code == 200
    assert_problem(client.get("/?kisok"), 422, "invalid_request")


@pytest.mark.parametrize("prefix", ["/station", "/line/3", "/inspect"])
def test_a_prefix_works_whether_the_proxy_takes_it_off_or_not(models: Path, prefix: str) -> None:
    settings = Settings(records_dir=None, models_dir=models, root_path=prefix)
    with TestClient(create_app(settings)) as client:
        wait_until_loaded(client)
        for before in ("", prefix):
            for path in PAGES:
                assert client.get(before + path).status_code == 200, before + path
            verdict = client.post(f"{before}/inspect", content=GOOD, headers={"Content-Type": "image/png"}).json()
            assert verdict["verdict"] == "OK"
            many = client.post(f"{before}/inspect/batch", files=[("image", GOOD)])
            assert many.json()[0]["verdict"] == "OK"
            assert_problem(client.get(f"{before}/v2/models/none"), 404, "unknown_recipe")
        page = client.get(prefix)
        assert f'<base href="{prefix}/">' in page.text
        assert "base-uri 'self'" in page.headers["content-security-policy"]
        assert not re.search(r'(?:src|href)="/(?!' + prefix[1:] + ")", page.text)
        for file in re.findall(r'(?:src|href)="(?!data:)([^"/][^"]*)"', page.text):
            assert client.get(f"{prefix}/{file}").status_code == 200
        docs = client.get(f"{prefix}/docs").text
        files = re.findall(r'(?:src|href)="(/[^"]+)"', docs)
        assert files
        for file in files:
            assert file.startswith(f"{prefix}/")
            assert client.get(file).status_code == 200
        assert f"'{prefix}/openapi.json'" in docs
        assert client.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": prefix}]
        assert client.get(f"{prefix}station").status_code == 404


def test_a_prefix_is_read_with_and_without_slashes_and_never_mistaken_for_a_page() -> None:
    assert {Settings(root_path=text).root_path for text in ("station", "/station", "/station/")} == {"/station"}
    assert Settings(root_path="/").root_path == ""
    with pytest.raises(ValidationError, match="root_path"):
        Settings(root_path='/a"b')
    for taken in ("/recipes", "/docs/here", "/metrics"):
        with pytest.raises(ValueError, match="INSPECT_ROOT_PATH"):
            create_app(Settings(records_dir=None, root_path=taken))


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", None),
        ("*/*", None),
        ("application/json", None),
        ("image/png", "png"),
        ("IMAGE/PNG", "png"),
        ("image/jpg", "jpeg"),
        ("image/*", "png"),
        ("image/*, image/png;q=0", "jpeg"),
        ("image/png, */*", "png"),
        ("application/json;q=0.5, image/jpeg", "jpeg"),
        ("image/png;q=0.5, application/json", None),
        ("image/png; q=0.4, image/jpeg; q=0.9", "jpeg"),
        ("image/png;q=0", None),
        ("application/json, image/png", None),
        ("image/png;v=1", "png"),
        ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", "png"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", None),
        ("image/webp", None),
        ("image/png;q=much", "png"),
    ],
)
def test_accept_is_read_as_it_is_defined(accept: str, wanted: str | None) -> None:
    assert wanted_picture([accept]) == wanted


def test_accept_in_several_headers_is_one(client: TestClient) -> None:
    assert (
        wanted_picture(Headers(raw=[(b"accept", b"text/html"), (b"accept", b"image/png")]).getlist("accept")) == "png"
    )
    assert post(client, GOOD, headers={"Accept": "application/json;q=0.1, image/*"}).content.startswith(b"\x89PNG")


def test_what_kubernetes_sets_for_a_service_called_inspect_is_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    for link in ("tcp://10.0.0.1:8000", "udp://10.0.0.1:53"):
        monkeypatch.setenv("INSPECT_PORT", link)
        assert Settings().port == 8000
    monkeypatch.setenv("INSPECT_PORT", "http://10.0.0.1:8000")
    with pytest.raises(ValidationError, match="port"):
        Settings()


@contextmanager
def _listening(models: Path, log: Path, *flags: str, **variables: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    environment = {**os.environ, **variables}
    command = [sys.executable, "-m", "service", "--port", "0", "--models-dir", str(models), "--records-dir", "none"]
    with log.open("wb") as stream:
        process = subprocess.Popen([*command, *flags], env=environment, stderr=stream)
    try:
        wait_for(lambda: process.poll() is not None or re.search(r"running on \S+:\d+", log.read_text()))
        found = re.search(r"running on \S+:(\d+)", log.read_text())
        assert found, log.read_text()
        yield process, int(found[1])
    finally:
        process.kill()
        process.wait()


def _answer(address: tuple[str, int], request: bytes) -> bytes:
    with socket.create_connection(address, timeout=300) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def _alive(**variables: str) -> tuple[int, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("INSPECT_")}
    proxies = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://x:9"}
    done = subprocess.run(
        [sys.executable, "-m", "service.healthcheck"],
        env=kept | proxies | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.slow
def test_two_colons_are_ipv6_and_ipv4_and_the_check_follows_port_and_host(models: Path, tmp_path: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    ask = b"GET /livez HTTP/1.1\r\nHost: station\r\nConnection: close\r\n\r\n"
    with _listening(models, tmp_path / "log", "--host", "::") as (_, port):
        for host in ("127.0.0.1", "::1"):
            assert _answer((host, port), ask).startswith(b"HTTP/1.1 200")
        for host in ("::", "::1", "127.0.0.1", ""):
            assert _alive(INSPECT_PORT=str(port), INSPECT_HOST=host) == (0, "HTTP 200\n")
    assert _alive(INSPECT_PORT=str(port))[0] == 1
    assert "port 8000" in _alive(INSPECT_PORT="tcp://10.0.0.1:9", INSPECT_HOST="127.0.0.2")[1]


@pytest.mark.slow
def test_the_check_follows_https_with_and_without_certificates_of_clients(models: Path, tmp_path: Path) -> None:
    authority = write_certificate(tmp_path, "authority", None)
    write_certificate(tmp_path, "service", authority)
    files = {
        "INSPECT_TLS_CERT": str(tmp_path / "service.pem"),
        "INSPECT_TLS_KEY": str(tmp_path / "service.key"),
    }
    for more in ({}, {"INSPECT_TLS_CLIENT_CA": str(tmp_path / "authority.pem")}):
        with _listening(models, tmp_path / "log", **files, **more) as (_, port):
            code, said = _alive(INSPECT_PORT=str(port), **files, **more)
            assert code == 0, said
            assert _alive(INSPECT_PORT=str(port))[0] == 1


@pytest.mark.slow
def test_continue_is_said_before_a_body_and_a_refusal_instead_of_it(models: Path, tmp_path: Path) -> None:
    head = b"Host: station\r\nExpect: 100-continue\r\nContent-Type: image/png\r\nConnection: close\r\n"
    with _listening(models, tmp_path / "log") as (_, port):
        ready = b"GET /readyz HTTP/1.1\r\nHost: station\r\nConnection: close\r\n\r\n"
        wait_for(lambda: b" 200 " in _answer(("127.0.0.1", port), ready)[:16])
        with socket.create_connection(("127.0.0.1", port), timeout=300) as connection:
            length = f"Content-Length: {len(GOOD)}\r\n\r\n".encode()
            connection.sendall(b"POST /inspect HTTP/1.1\r\n" + head + length)
            assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
            connection.sendall(GOOD)
            assert b'"verdict":"OK"' in b"".join(iter(lambda: connection.recv(65536), b""))
        refused = _answer(
            ("127.0.0.1", port), b"POST /inspect?recipy=x HTTP/1.1\r\n" + head + b"Content-Length: 999\r\n\r\n"
        )
        assert refused.startswith(b"HTTP/1.1 422")
        chunks = b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in (GOOD[:50], GOOD[50:]))
        plain = b"Host: station\r\nContent-Type: image/png\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        sent = _answer(("127.0.0.1", port), b"POST /inspect HTTP/1.1\r\n" + plain + chunks + b"0\r\n\r\n")
        assert b'"verdict":"OK"' in sent
