"""The image in a request: raw body or multipart form, read under a byte limit, in memory only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from service.http.forms import Part, parse_form
from service.station.problem import ProblemError

RAW_TYPES = ("image/jpeg", "image/png", "image/bmp", "image/webp", "application/octet-stream")
FIELD = "image"

# Names that old browsers, cameras and libraries have for the same; what a picture is, its own bytes say.
_OTHER_NAMES = {
    *("image/jpg", "image/jpe", "image/jfif", "image/pjpeg", "image/x-jpeg", "image/x-citrix-jpeg"),
    *("image/x-png", "image/apng", "image/vnd.mozilla.apng", "image/x-webp", "binary/octet-stream"),
    *("image/x-bmp", "image/x-ms-bmp", "image/ms-bmp", "image/x-windows-bmp", "image/x-bitmap", "application/bmp"),
}
_JSON_HINT = (
    "; send the bytes of the file itself (`curl --data-binary @part.jpg -H 'Content-Type: image/jpeg'`), not as text; "
    "JSON with base64 is read by /v2/models/{recipe}/infer alone, as image_bytes"
)
# base64 of the first bytes of JPEG, PNG, BMP, RIFF (WebP) and TIFF.
_BASE64_STARTS = (b"/9j/", b"iVBOR", b"Qk", b"UklGR", b"SUkqA", b"TU0AK")

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
    media_type = _media_type(request.headers.get("content-type", ""))
    if media_type == "multipart/form-data":
        return (await read_images(request, limit, max_files=1))[0]
    if media_type not in RAW_TYPES and media_type not in _OTHER_NAMES:
        hint = _JSON_HINT if media_type.endswith("json") else ""
        raise ProblemError(
            "unsupported_media_type",
            f"Content-Type {media_type or 'is missing'}: send {', '.join(RAW_TYPES)}, or multipart/form-data with the "
            f"field {FIELD!r}{hint}",
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
    content_type = request.headers.get("content-type", "")
    if _media_type(content_type) != "multipart/form-data":
        raise ProblemError("unsupported_media_type", f"send multipart/form-data with one or more fields {FIELD!r}")
    body = await read_body(request, limit)
    # Room for what is too much, so that it is named.
    parts = parse_form(content_type, body, max_parts=max_files + 8)
    if not any(part.name == FIELD for part in parts):
        raise ProblemError("empty_image", f"the form has no field {FIELD!r}: {_named(parts)}")
    # One left out would shift the results of those behind it, and what is not read could have mattered.
    for number, part in enumerate(parts, 1):
        if part.name != FIELD:
            raise ProblemError(
                "invalid_request",
                f"part {number} of the form, {part.name[:64]!r}, is not known: a form has pictures in the field "
                f"{FIELD!r} and nothing else; recipe and heatmap belong into the query",
            )
        if part.headers.get("content-transfer-encoding", "binary").strip().lower() not in {"binary", "8bit", "7bit"}:
            raise ProblemError(
                "unsupported_media_type",
                f"part {number} of the form has a Content-Transfer-Encoding: send the bytes as they are",
            )
    if len(parts) > max_files:
        more = "send one, or all of them to /inspect/batch" if max_files == 1 else f"send at most {max_files}"
        raise ProblemError("invalid_request", f"the form has {len(parts)} pictures: {more}")
    return [bytes(part.data) for part in parts]


def refuse_text(data: bytes) -> None:
    """Raises ProblemError for a picture that was packed into text, and says how to send it."""
    start = data[:64].lstrip().removeprefix(b'"')
    if start.startswith((b"data:", b"{", b"[")) or start.startswith(_BASE64_STARTS):
        raise ProblemError("unsupported_media_type", f"the picture is text (base64, JSON or a data URL){_JSON_HINT}")


def _media_type(content_type: str) -> str:
    return content_type.split(";")[0].strip().lower()


def _named(parts: list[Part]) -> str:
    return f"it has {', '.join(repr(part.name[:64]) for part in parts[:8])}" if parts else "it is empty"
