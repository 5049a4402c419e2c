"""The image in a request: raw body or multipart form, read under a byte limit, in memory only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from service.problems import ProblemError

RAW_TYPES = ("image/jpeg", "image/png", "image/bmp", "image/webp", "application/octet-stream")
FIELD = "image"


@asynccontextmanager
async def arrival(deadline: float) -> AsyncIterator[None]:
    """Bounds the reading of a body by the deadline: a sender that trickles must not hold the request for ever."""
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            yield
    except TimeoutError:
        raise ProblemError("deadline_passed", "the deadline passed while the picture was arriving") from None


async def read_image(request: Request, limit: int) -> bytes:
    """The encoded image of the request, at most `limit` bytes; raises ProblemError."""
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return (await _read_form(request, limit, max_files=1))[0]
    if media_type not in RAW_TYPES:
        raise ProblemError(
            "unsupported_media_type",
            f"Content-Type {media_type or 'is missing'}: send {', '.join(RAW_TYPES)}, or multipart/form-data with the "
            f"field {FIELD!r}",
        )
    return await read_body(request, limit)


async def read_body(request: Request, limit: int) -> bytes:
    """The bare body of the request, at most `limit` bytes; raises ProblemError."""
    too_large = ProblemError("body_too_large", f"the body is larger than {limit} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise too_large
            chunks.append(chunk)
    except ClientDisconnect as error:
        raise ProblemError("client_disconnected", "the client went away while it was sending") from error
    return b"".join(chunks)


async def read_images(request: Request, limit: int, *, max_files: int) -> list[bytes]:
    """The encoded images of a multipart form, together at most `limit` bytes; raises ProblemError."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ProblemError("unsupported_media_type", f"send multipart/form-data with one or more fields {FIELD!r}")
    return await _read_form(request, limit, max_files=max_files)


async def _read_form(request: Request, limit: int, *, max_files: int) -> list[bytes]:
    body = await read_body(request, limit)
    boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary", b"")
    if not boundary or b"--" + boundary + b"--" not in body:
        raise ProblemError("invalid_request", "the multipart form is cut short or names no boundary")

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, stream(), max_files=max_files, max_fields=8)
    # The whole body is in memory and bounded already: no temporary file on disk.
    parser.spool_max_size = limit
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise ProblemError("invalid_request", f"the multipart form cannot be read: {error.message}") from error
    try:
        files = [field for field in form.getlist(FIELD) if isinstance(field, UploadFile)]
        if not files:
            raise ProblemError("empty_image", f"the form has no file in the field {FIELD!r}")
        return [await file.read() for file in files]
    finally:
        await form.close()
