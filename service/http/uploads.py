"""The image in a request: raw body or multipart form, read under a byte limit, in memory only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from service.station.problem import ProblemError

RAW_TYPES = ("image/jpeg", "image/png", "image/bmp", "image/webp", "application/octet-stream")
FIELD = "image"

# The bodies of all requests under way may be as large together as this many of the largest.
_LARGEST_TOGETHER = 8
_RETRY_AFTER_S = 1.0
# Seconds for a body, however late its answer may be.
_ARRIVAL_S = 30.0


@dataclass
class Bodies:
    """Bytes that the bodies of all requests under way take in memory; used from one event loop."""

    size: int = 0

    @contextmanager
    def one_more(self) -> Iterator[Body]:
        """The body of a request, counted as long as the block lasts."""
        body = Body(self)
        try:
            yield body
        finally:
            self.size -= body.size


@dataclass
class Body:
    """Bytes that have arrived of a request's body, among `others`."""

    others: Bodies
    size: int = 0

    def require_room(self, more: int, limit: int) -> None:
        """Raises ProblemError where `more` bytes make it larger than `limit`, or all bodies too large together."""
        if self.size + more > limit:
            raise ProblemError("body_too_large", f"the body is larger than {limit} bytes")
        if self.others.size + more > _LARGEST_TOGETHER * limit:
            raise ProblemError(
                "overloaded",
                f"{self.others.size} bytes of pictures are under way, no room for {more} more: send it again later",
                retry_after_s=_RETRY_AFTER_S,
            )

    def grow(self, more: int, limit: int) -> None:
        """Count `more` bytes; raises as `require_room`."""
        self.require_room(more, limit)
        self.size += more
        self.others.size += more


@asynccontextmanager
async def arrival(deadline: float) -> AsyncIterator[None]:
    """Bounds the reading of a body by the deadline, and by _ARRIVAL_S: a sender that trickles must not hold the room
    of all bodies for as long as it says.
    """
    left = deadline - time.monotonic()
    try:
        async with asyncio.timeout(min(left, _ARRIVAL_S)):
            yield
    except TimeoutError:
        what = "the deadline" if left <= _ARRIVAL_S else f"{_ARRIVAL_S:g} s"
        raise ProblemError("deadline_passed", f"{what} passed while the picture was arriving") from None


async def read_image(request: Request, limit: int) -> bytes:
    """The encoded image of the request, at most `limit` bytes; raises ProblemError."""
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return _files(await _read_form(request, limit, max_files=1))[0]
    if media_type not in RAW_TYPES:
        raise ProblemError(
            "unsupported_media_type",
            f"Content-Type {media_type or 'is missing'}: send {', '.join(RAW_TYPES)}, or multipart/form-data with the "
            f"field {FIELD!r}",
        )
    return await read_body(request, limit)


async def read_body(request: Request, limit: int) -> bytes:
    """The bare body of the request, at most `limit` bytes; raises ProblemError."""
    body: Body = request.state.body
    declared = request.headers.get("content-length", "")
    if declared.isdigit():
        body.require_room(int(declared), limit)
    chunks: list[bytes] = []
    try:
        async for chunk in request.stream():
            body.grow(len(chunk), limit)
            chunks.append(chunk)
    except ClientDisconnect as error:
        raise ProblemError("client_disconnected", "the client went away while it was sending") from error
    return b"".join(chunks)


async def read_images(request: Request, limit: int, *, max_files: int) -> list[bytes]:
    """The encoded images of a multipart form of nothing else, together at most `limit` bytes; raises ProblemError."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ProblemError("unsupported_media_type", f"send multipart/form-data with one or more fields {FIELD!r}")
    parts = await _read_form(request, limit, max_files=max_files)
    # One left out would shift the results of those behind it.
    for number, (name, data) in enumerate(parts, 1):
        if name != FIELD or data is None:
            raise ProblemError(
                "invalid_request",
                f"part {number} of the form, {name[:64]!r}, is not a file in the field {FIELD!r}: send every picture "
                "as one, with a filename, and nothing else",
            )
    return _files(parts)


def _files(parts: list[tuple[str, bytes | None]]) -> list[bytes]:
    files = [data for name, data in parts if name == FIELD and data is not None]
    if not files:
        raise ProblemError("empty_image", f"the form has no file in the field {FIELD!r}")
    return files


async def _read_form(request: Request, limit: int, *, max_files: int) -> list[tuple[str, bytes | None]]:
    """Name and content of each part, in order; None for a part that is no file."""
    body = await read_body(request, limit)
    boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary", b"")
    if not boundary or b"--" + boundary + b"--" not in body:
        raise ProblemError("invalid_request", "the multipart form is cut short or names no boundary")

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, stream(), max_files=max_files)
    # The whole body is in memory and bounded already: no temporary file on disk, no smaller limit for a part.
    parser.spool_max_size = parser.max_part_size = limit
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise ProblemError("invalid_request", f"the multipart form cannot be read: {error.message}") from error
    try:
        return [
            (name, await part.read() if isinstance(part, UploadFile) else None) for name, part in form.multi_items()
        ]
    finally:
        await form.close()
