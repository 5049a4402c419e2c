"""What stands between the sockets and the app: uvicorn's protocol, with the bounds that it has none for.

uvicorn takes a head of any size, waits for the rest of a request for any time, and reads to the end what nobody wants.
Here each has its bytes and its seconds, requests that two readers may read in two ways are refused, and every refusal
is a problem with a verdict, as any other. `arrived` in a request's state is when its first bytes came.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NoReturn

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from service.http.digests import OF_DIGESTS
from service.http.doors import Doors, Guest
from service.http.problems import MEDIA_TYPE, problem_body
from service.station.problem import ProblemError

# A head: its bytes, those of its URL, its fields, and seconds from its first byte to its last.
HEAD_BYTES = 32_768
URL_BYTES = 8_192
_FIELDS = 100
_HEAD_S = 10.0
# Seconds that a connection may be silent, above what proxies and pauses between parts take: who closes first must not
# be the service, or an image meets a connection that closes under it.
SILENT_S = 75
# Of a body that nobody reads any more: bytes and seconds that are swallowed so that the answer gets there.
_SWALLOWED_BYTES = 1_048_576
_SWALLOWED_S = 5.0
# Seconds in which a client takes nothing of its answer.
_UNREAD_S = 30.0
# As uvicorn writes them.
_CONTINUE = b"HTTP/1.1 100"
_HAS_LENGTH = b"\r\ncontent-length: "


class OneWrite:
    """The transport as one request sees it: the head of an answer goes out with the first of its body.

    Of two writes the first one wakes a client that can do nothing yet, at the cost of a core that others wait for.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._begun = False
        self._head = b""

    def write(self, data: bytes) -> None:
        if not self._begun and not data.startswith(_CONTINUE):
            self._begun = True
            # A body of no known length may begin at any time.
            if _HAS_LENGTH in data:
                self._head = data
                return
        head, self._head = self._head, b""
        self._transport.write(head + data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._transport.close()


class Connection(HttpToolsProtocol):
    """One connection, and the request on it."""

    def __init__(
        self,
        doors: Doors,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        handshake: Guest | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._doors = doors
        self._handshake = handshake
        self.address = ""
        self.since = time.monotonic()
        self._head_since: float | None = None
        self._head_bytes = 0
        self._unparsed = 0
        self._swallowed = 0
        self._brought_a_request = False
        self._unread_since: float | None = None
        self._closing_since: float | None = None
        self._problem: ProblemError | None = None
        self._lost = False
        self._on_lost: Callable[[], object] | None = None

    # As a guest of the doors.

    @property
    def state(self) -> Literal["new", "receiving", "working", "idle"]:
        if not self._brought_a_request:
            return "new"
        if self._nobody_works:
            return "idle"
        return "receiving" if self.cycle.more_body else "working"

    @property
    def _nobody_works(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def look(self, now: float) -> None:
        if self.transport.is_closing():
            self._closing_since = self._closing_since or now
            if now - self._closing_since > _SWALLOWED_S:
                self.transport.abort()
        elif self._unread_since is not None and now - self._unread_since > _UNREAD_S:
            self.transport.abort()
        elif self._head_since is not None and now - self._head_since > _HEAD_S:
            if self._nobody_works:
                self._problem = ProblemError("head_too_slow", f"the head of the request took longer than {_HEAD_S:g} s")
                self.send_400_response("")
        elif self._nobody_works:
            swallowing = self.cycle is not None and self.cycle.more_body
            if now - self.since > (_SWALLOWED_S if swallowing else SILENT_S):
                self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    # As uvicorn's protocol.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self._doors.enter(self, instead_of=self._handshake)

    def connection_lost(self, exc: Exception | None) -> None:
        self._doors.leave(self)
        super().connection_lost(exc)
        self._lost = True
        if self._on_lost is not None:
            self._on_lost()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        before = self._head_since
        super().data_received(data)
        # A field that has not ended yet is in the parser alone.
        if self._head_since is not None and (self._head_since == before or self._nobody_works):
            self._unparsed += len(data)
            if self._unparsed > HEAD_BYTES and not self.transport.is_closing():
                self._problem = _head_too_large()
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_since = self.since = time.monotonic()
        self._head_bytes = self._unparsed = self._swallowed = 0
        self.scope["state"]["arrived"] = self._doors.arrival(self.transport)
        self.scope["state"]["connection"] = self

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > URL_BYTES:
            self._refuse(ProblemError("url_too_long", f"the URL is longer than {URL_BYTES} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        # Fields behind a chunked body: the app would see them as the head's, and asks for none but what it cannot heed.
        if self._head_since is None:
            if name.lower() in OF_DIGESTS:
                self._refuse(ProblemError("invalid_request", "send the digest of a body before the body, as a header"))
            return
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > HEAD_BYTES or len(self.headers) > _FIELDS:
            self._refuse(_head_too_large())

    def on_headers_complete(self) -> None:
        if why := _why_ambiguous(self.headers, self.parser.get_http_version()):
            self._refuse(ProblemError("malformed_request", why))
        self._head_since = None
        self.since = time.monotonic()
        super().on_headers_complete()
        # Behind the head of an answer to HEAD comes nothing that it could go out with.
        if self.scope["method"] != "HEAD":
            self.cycle.transport = OneWrite(self.transport)  # type: ignore[assignment]
        # uvicorn would go on as if nothing had been asked; what follows may not be HTTP any more.
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            self._swallowed += len(body)
            if self._swallowed > _SWALLOWED_BYTES:
                self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._brought_a_request:
            self._brought_a_request = True
            self._doors.brought_a_request(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.since = time.monotonic()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._unread_since = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = None
        super().resume_writing()

    @contextmanager
    def watched(self, on_lost: Callable[[], object]) -> Iterator[None]:
        """While the block lasts the client's going away is noticed, and `on_lost` is told of it."""
        if self._lost:
            on_lost()
        # A large body leaves reading paused, and who does not read notices nothing.
        self.flow.resume_reading()
        self._on_lost = on_lost
        try:
            yield
        finally:
            self._on_lost = None

    async def writable(self) -> None:
        """Until what is written goes out at once: a client that does not read its answers makes the next one late."""
        if self.flow.write_paused:
            await self.flow.drain()

    def send_400_response(self, msg: str) -> None:
        """Refuse what never became a request: uvicorn would answer text, without a verdict."""
        problem = self._problem or ProblemError("malformed_request", "this is not a request of HTTP/1.1")
        self._doors.on_refused(problem.code)
        body = problem_body(problem, None)
        content = body.model_dump_json(exclude_none=True).encode()
        head = [
            STATUS_LINE[body.status],
            *(name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers),
            b"content-type: %s\r\nx-verdict: %s\r\n" % (MEDIA_TYPE.encode(), str(body.verdict).encode()),
            b"cache-control: no-store\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(content),
        ]
        self.transport.write(b"".join([*head, content]))
        self.transport.close()

    def _refuse(self, problem: ProblemError) -> NoReturn:
        # The parser turns this into its own error, upon which uvicorn calls send_400_response.
        self._problem = problem
        raise problem


def _head_too_large() -> ProblemError:
    return ProblemError(
        "head_too_large", f"the head is larger than {HEAD_BYTES} bytes or has more than {_FIELDS} fields"
    )


def _why_ambiguous(headers: list[tuple[bytes, bytes]], http_version: str) -> str | None:
    """What a proxy and this service may understand differently: where a request ends, and for whom it is."""
    by_name: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        by_name.setdefault(name, []).append(value)
    if len(by_name.get(b"host", [])) != 1 and (http_version == "1.1" or b"host" in by_name):
        return "send exactly one Host"
    coding = by_name.get(b"transfer-encoding", [])
    if coding and (b"content-length" in by_name or http_version == "1.0"):
        return "send either Content-Length or, in HTTP/1.1, Transfer-Encoding"
    if coding and [value.strip().lower() for value in coding] != [b"chunked"]:
        return "the only Transfer-Encoding here is chunked"
    if len(by_name.get(b"content-length", [])) > 1:
        return "send one Content-Length"
    return None
