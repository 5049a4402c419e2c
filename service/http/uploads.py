"""The image in a request: raw body or multipart form, read under a byte limit, in memory only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Self, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from service.http.bodies import read_json
from service.http.digests import OF_DIGESTS, require_digests
from service.http.forms import Part, parse_form
from service.station.problem import ProblemError

T = TypeVar("T", bound=BaseModel)

RAW_TYPES = ("image/jpeg", "image/png", "image/bmp", "image/webp", "image/tiff", "application/octet-stream")
FIELD = "image"

# Names that old browsers, cameras and libraries have for the same; what an image is, its own bytes say.
_OTHER_NAMES = {
    *("image/jpg", "image/jpe", "image/jfif", "image/pjpeg", "image/x-jpeg", "image/x-citrix-jpeg"),
    *("image/x-png", "image/apng", "image/vnd.mozilla.apng", "image/x-webp", "binary/octet-stream"),
    *("image/x-bmp", "image/x-ms-bmp", "image/ms-bmp", "image/x-windows-bmp", "image/x-bitmap", "application/bmp"),
    *("image/tif", "image/x-tif", "image/x-tiff"),
}
_JSON_HINT = (
    "; send the bytes of the file itself (`curl --data-binary @part.jpg -H 'Content-Type: image/jpeg'`), not as text; "
    "JSON with base64 is read by /v2/models/{recipe}/infer alone, as image_bytes"
)
# base64 of the first bytes of JPEG, PNG, BMP, RIFF (WebP) and TIFF.
_BASE64_STARTS = (b"/9j/", b"iVBOR", b"Qk", b"UklGR", b"SUkqA", b"TU0AK")

# The bodies of all requests under way may be as large together as this many of the largest.
LARGEST_TOGETHER = 8
_RETRY_AFTER_S = 1.0
# Seconds for a body, however late its answer may be, and after which one that still arrives may have to make room.
_ARRIVAL_S = 30.0
_SLOW_S = 1.0
# Bytes of a body that is no image: a few limits.
SMALL_BODY = 65_536


class Bodies:
    """Bytes that the bodies of all requests under way take in memory, at most `most`; used from one event loop."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = 0
        self.arriving: set[Body] = set()

    def make_room(self, more: int) -> None:
        """Ends the slowest of the bodies that have been arriving for a while: what is sent slowly, by mistake or on
        purpose, must not keep out images that arrive at once. Raises ProblemError where that makes no room.
        """
        now = time.monotonic()
        slow = sorted((b for b in self.arriving if now - b.since >= _SLOW_S), key=lambda b: b.size / (now - b.since))
        for body in slow:
            if self.size + more <= self.most:
                return
            body.give_way()
        if self.size + more > self.most:
            raise ProblemError(
                "overloaded",
                f"{self.size} bytes of images are under way, no room for {more} more: send it again later",
                retry_after_s=_RETRY_AFTER_S,
            )


class Body:
    """Bytes that have arrived of a request's body, among `others`; counted as long as the block lasts that it opens."""

    def __init__(self, others: Bodies) -> None:
        self._others = others
        self._limit: asyncio.Timeout | None = None
        self.size = 0
        self.since = time.monotonic()
        self.gave_way = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def grow(self, more: int, limit: int) -> None:
        """Count `more` bytes; raises ProblemError where that is more than `limit`, or all bodies are too large."""
        if self.size + more > limit:
            raise ProblemError("body_too_large", f"the body is larger than {limit} bytes")
        if self._others.size + more > self._others.most:
            self._others.make_room(more)
        self.size += more
        self._others.size += more

    @contextmanager
    def arriving_until(self, limit: asyncio.Timeout) -> Iterator[None]:
        """While the block lasts `limit` may be brought forward, so that others find room."""
        self._limit, self.since = limit, time.monotonic()
        self._others.arriving.add(self)
        try:
            yield
        finally:
            self._others.arriving.discard(self)

    def give_way(self) -> None:
        if self._limit is not None:
            self._limit.reschedule(0)
        self.gave_way = True
        self._others.arriving.discard(self)
        self.release()

    def release(self) -> None:
        self._others.size -= self.size
        self.size = 0


@asynccontextmanager
async def arrival(deadline: float, body: Body | None = None, *, most_s: float = _ARRIVAL_S) -> AsyncIterator[None]:
    """Bounds the reading of a body by the deadline, and by `most_s`: a sender that trickles must not hold the room
    of all bodies for as long as it says.
    """
    left = deadline - time.monotonic()
    try:
        async with asyncio.timeout(min(left, most_s)) as limit:
            with nullcontext() if body is None else body.arriving_until(limit):
                yield
    except TimeoutError:
        if body is not None and body.gave_way:
            raise ProblemError(
                "overloaded",
                "the image arrived slowly and had to make room for others: send it again later",
                retry_after_s=_RETRY_AFTER_S,
            ) from None
        what = "the deadline" if left <= most_s else f"{most_s:g} s"
        raise ProblemError("deadline_passed", f"{what} passed while the image was arriving") from None


def require_type(request: Request, known: Sequence[str], hint: str = "", *, may_be_missing: bool = False) -> None:
    """Raises ProblemError for a Content-Type that is none of `known`: a page that is open in a browser here can send
    others without being asked for its origin, and what they hold is not what is read.
    """
    sent = request.headers.getlist("content-type")
    media_type = _media_type(sent[0]) if sent else ""
    if len(sent) > 1 or (media_type not in known and not (may_be_missing and not sent)):
        raise ProblemError(
            "unsupported_media_type", f"Content-Type {media_type or 'is missing'}: send {' or '.join(known)}{hint}"
        )


async def read_model(request: Request, model: type[T], *, most: int = SMALL_BODY) -> T:
    """The JSON of a small body; raises ProblemError. To be called once it is known that the client may ask."""
    require_type(request, ["application/json"])
    async with arrival(time.monotonic() + _ARRIVAL_S, request.state.body):
        data = await read_body(request, most)
    try:
        return model.model_validate(read_json(data))
    except ValidationError as error:
        raise ProblemError("invalid_request", invalid_fields(error)) from error


def invalid_fields(error: ValidationError) -> str:
    """What is wrong where, without what was sent."""
    found = error.errors(include_url=False, include_context=False, include_input=False)[:5]
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg'].removeprefix('Value error, ')}" for e in found
    )


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
    # Said before it is sent, a body that is too large is refused before it is read; room is for what has arrived.
    if declared.isdigit() and int(declared) > limit:
        raise ProblemError("body_too_large", f"the body is larger than {limit} bytes")
    chunks: list[bytes] = []
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ProblemError("client_disconnected", "the client went away while it was sending")
        chunk, more = message.get("body", b""), message.get("more_body", False)
        body.grow(len(chunk), limit)
        chunks.append(chunk)
    data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    if not OF_DIGESTS.isdisjoint(name for name, _ in request.headers.raw):
        await require_digests(request.headers.items(), data)
    return data


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
                f"part {number} of the form, {part.name[:64]!r}, is not known: a form has images in the field "
                f"{FIELD!r} and nothing else; recipe and heatmap belong into the query",
            )
        if part.headers.get("content-transfer-encoding", "binary").strip().lower() not in {"binary", "8bit", "7bit"}:
            raise ProblemError(
                "unsupported_media_type",
                f"part {number} of the form has a Content-Transfer-Encoding: send the bytes as they are",
            )
        if part.headers.get("content-encoding", "identity").strip().lower() not in {"identity", ""}:
            raise ProblemError(
                "unsupported_media_type",
                f"part {number} of the form has a Content-Encoding: send the bytes as they are",
            )
        await require_digests(part.headers.items(), bytes(part.data), f"part {number} of the form")
    if len(parts) > max_files:
        more = "send one, or all of them to /inspect/batch" if max_files == 1 else f"send at most {max_files}"
        raise ProblemError("invalid_request", f"the form has {len(parts)} images: {more}")
    return [bytes(part.data) for part in parts]


def refuse_text(data: bytes) -> None:
    """Raises ProblemError for an image that was packed into text, and says how to send it."""
    start = data[:64].lstrip().removeprefix(b'"')
    if start.startswith((b"data:", b"{", b"[")) or start.startswith(_BASE64_STARTS):
        raise ProblemError("unsupported_media_type", f"the image is text (base64, JSON or a data URL){_JSON_HINT}")


def _media_type(content_type: str) -> str:
    return content_type.split(";")[0].strip().lower()


def _named(parts: list[Part]) -> str:
    return f"it has {', '.join(repr(part.name[:64]) for part in parts[:8])}" if parts else "it is empty"
