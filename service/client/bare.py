"""A client over bare sockets for load tests on the service's own cores, where a client library costs as much as it."""

from __future__ import annotations

import asyncio
import re

import httpx2

from service.client.address import split_address
from service.client.conversation import Outcome, read_outcome

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: (\d+)")
_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class BareClient:
    """Opens a connection whenever none is free, and keeps it. Raises OSError or EOFError where the service is gone."""

    def __init__(self, url: str) -> None:
        base, self._unix = split_address(url)
        self._address = httpx2.URL(base)
        self._free: list[_Connection] = []

    async def inspect(self, image: bytes, *, recipe: str | None = None, deadline_ms: float | None = None) -> Outcome:
        """Inspect an encoded image."""
        query = f"?recipe={recipe}" if recipe else ""
        deadline = f"X-Deadline-Ms: {deadline_ms}\r\n" if deadline_ms else ""
        head = f"POST /inspect{query} HTTP/1.1\r\nHost: x\r\n{deadline}Content-Length: {len(image)}\r\n"
        request = head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + image
        while self._free:
            # The service closes what was idle for long, and what it refused before the body came.
            try:
                return await self._send(self._free.pop(), request)
            except (OSError, EOFError):
                continue
        return await self._send(await self._connect(), request)

    async def _connect(self) -> _Connection:
        if self._unix is not None:
            return await asyncio.open_unix_connection(self._unix)
        return await asyncio.open_connection(self._address.host, self._address.port)

    async def _send(self, connection: _Connection, request: bytes) -> Outcome:
        reader, writer = connection
        writer.write(request)
        header = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(header)
        body = await reader.readexactly(int(length[1]) if length else 0)
        self._free.append(connection)
        status = int(header.split(maxsplit=2)[1])
        return read_outcome(status, body)

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()
