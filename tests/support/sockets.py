"""Requests as bytes, for what no client library would send."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any

import httpx2

HOST = b"Host: localhost\r\n"


def connect(client: httpx2.Client) -> socket.socket:
    """A plain connection to the service of `client`; it waits for two minutes at most."""
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=120)


def picture_request(picture: bytes, *headers: str, path: str = "/inspect") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: image/png", f"Content-Length: {len(picture)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + picture


def read_to_end(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts: list[bytes] = []
    # Closed while this side still sends: what was answered before has arrived or is lost.
    with suppress(ConnectionError):
        while part := connection.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def read_reply(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and JSON of one reply of known length."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65_536)
        assert part, f"closed after {data!r}"
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    (length,) = (
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
    )
    while len(body) < length:
        part = connection.recv(65_536)
        assert part, f"closed after {data!r}"
        body += part
    return int(head.split()[1]), json.loads(body)


def send_all(connection: socket.socket, data: bytes) -> None:
    """Send what the other side takes: it may close in the middle."""
    with suppress(ConnectionError, TimeoutError):
        connection.sendall(data)
