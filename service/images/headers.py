"""What the bytes of an image say of it before they are decoded: format, size, pages, and whether they may be read.

An image is refused here for its size, its pages or the number of its parts before memory or time is spent on it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Literal

from PIL import Image

ImageProblem = Literal["empty_image", "unsupported_image", "corrupt_image", "image_too_large"]

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")

# Encoders make about ten.
_MAX_SCANS = 100
# Segments, bytes between them, or chunks: Pillow walks and keeps each. A profile of 32 MiB has 512 segments.
_MAX_PARTS = 20_000
# libpng cuts its data into chunks of 8 KiB.
_PNG_CHUNK = 4096
# The markers that have a segment, and the end; in the data of a scan FF is followed by 00 or by RST0 to RST7.
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xc7\xc9-\xcf\xd9-\xdd\xe0-\xef\xfe]")
# Of any kind; or of a stream of them, each with a head in front.
_SECOND = re.compile(
    rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|II\*\0|MM\0\*|BM....\0\0\0\0|--[^\r\n]+\r\n[^\0]+?\r\n\r\n\xff\xd8\xff",
    re.DOTALL,
)
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_COEFFICIENTS = 64
# Not sent at all: more low bits than any scan leaves out.
_UNSENT = 16
_ANIMATED_WEBP = 0x02
_BMP_RLE = {1, 2}
_TIFF_STARTS = {b"II*\0": "little", b"MM\0*": "big", b"II+\0": "little", b"MM\0+": "big"}
# Tags of a page; cameras write about fifty.
_MAX_TAGS = 4096
# Numbers of one tag, above all the places of the strips: as many as rows.
_MAX_STRIPS = 2**17
# Bytes of a value by its type; of bytes and text there may be many.
_TIFF_BYTES = {1: 1, 2: 1, 6: 1, 7: 1}
_SUBFILE_TYPE, _SUB_PAGES = 254, 330
_TIFF_NUMBERS = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

# Our own limit is checked right after the header; Pillow's global one would only add a second, different error.
Image.MAX_IMAGE_PIXELS = None


class ImageError(ValueError):
    """The bytes are not an image that can be inspected; `code` names the problem for machines."""

    def __init__(self, code: ImageProblem, message: str) -> None:
        super().__init__(message)
        self.code: ImageProblem = code


def read_header(data: bytes, max_pixels: int) -> Image.Image:
    """Format, mode and size of an image that may be decoded, its pixels unread; raises ImageError for any other."""
    if not data:
        raise ImageError("empty_image", "the image is empty (0 bytes): send the encoded image as the request body")
    if data[:4] == b"RIFF":
        check_pixels(_webp_canvas(data), max_pixels)
        # One frame too may cover a part of the canvas.
        if data[12:16] == b"VP8X" and data[20] & _ANIMATED_WEBP:
            raise ImageError("unsupported_image", "the WebP is an animation: send each image on its own")
    # Before Pillow reads it: what is small may take it long.
    if data[:2] == b"\xff\xd8":
        _check_jpeg_parts(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        _check_png_chunks(data)
    elif data[:2] in (b"II", b"MM"):
        _check_tiff_page(data)
    elif data[:2] == b"BM" and int.from_bytes(data[30:34], "little") in _BMP_RLE:
        raise ImageError("unsupported_image", "a BMP with run lengths may leave pixels out: save it uncompressed")
    header = _open(data)
    if header.format == "JPEG":
        refuse_second(data, _end_of_jpeg(data), "JPEG")
    elif header.format in ("BMP", "WEBP"):
        # The length that a WebP names is of what follows it.
        start, more = (2, 0) if header.format == "BMP" else (4, 8)
        refuse_second(data, int.from_bytes(data[start : start + 4], "little") + more, header.format)
    check_pixels(header.size, max_pixels)
    # Of an MPO, several JPEGs in one file, the first is the image; of a TIFF the pages are counted already.
    if header.format == "PNG" and (frames := getattr(header, "n_frames", 1)) > 1:
        raise ImageError("unsupported_image", f"the PNG has {frames} images: send each on its own")
    return header


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            "image_too_large",
            f"the image header says {width}x{height} = {width * height} pixels, more than the limit of {max_pixels}: "
            "shrink it, or raise INSPECT_MAX_PIXELS where the service runs",
        )


def _open(data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as header:
            return header
    # Pillow's parsers raise many types on hostile headers (SyntaxError, struct.error, OverflowError, ...).
    except Exception as error:
        raise ImageError(
            "unsupported_image", f"not a readable {', '.join(FORMATS)} image: the file header is missing or damaged"
        ) from error


def _webp_canvas(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP (RFC 9649), read here because Pillow takes memory for two canvases to tell it."""
    start = data[:30].ljust(30, b"\0")
    kind = start[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(start[24:27], "little"), 1 + int.from_bytes(start[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    # Lossy; any other chunk is no WebP, which Pillow says.
    return int.from_bytes(start[26:28], "little") & 0x3FFF, int.from_bytes(start[28:30], "little") & 0x3FFF


def _check_png_chunks(data: bytes) -> None:
    """Refuse more chunks than an image needs, and one that says it is longer than the file: OpenCV takes the memory
    before it looks for the bytes.
    """
    at, chunks, most = 8, 0, max(_MAX_PARTS, len(data) // _PNG_CHUNK)
    while at < len(data):
        chunks += 1
        if chunks > most:
            raise ImageError("unsupported_image", f"the PNG has more than {most} chunks: save it again")
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            raise ImageError("corrupt_image", f"the PNG is damaged or cut short: no room for a chunk of {length} bytes")
        if data[at + 4 : at + 8] == b"IEND":
            refuse_second(data, at + 12, "PNG")
            return
        at += 12 + length


def refuse_second(data: bytes, end: int, kind: str) -> None:
    """Refuse a file behind whose image, which stops at `end`, another one follows: nobody would look at it."""
    if _SECOND.match(data[end : end + 4096].lstrip(b"\0 \t\r\n")):
        raise ImageError("unsupported_image", f"behind the {kind} follows another one: send each on its own")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Of each marker of a JPEG that has a segment, and of its end: where it stands, itself, where its segment begins.

    Over the segments: thumbnails and profiles in them have markers of their own.
    """
    at = 2
    while found := _JPEG_MARKER.search(data, at):
        marker, body = data[found.end() - 1], found.end()
        yield found.start(), marker, body
        if marker == _END_OF_IMAGE:
            return
        at = body + int.from_bytes(data[body : body + 2], "big")


def _end_of_jpeg(data: bytes) -> int:
    return next((body for _, marker, body in _segments(data) if marker == _END_OF_IMAGE), len(data))


def _check_jpeg_parts(data: bytes) -> None:
    """Refuse more scans than an image needs, each costs a pass over all pixels, however few bytes it has; more
    segments, or bytes that belong to none; and scans that leave something of the image out.
    """
    scans, parts, before = 0, 0, 2
    # By component and coefficient: the low bits that have not been sent yet.
    missing: dict[int, list[int]] = {}
    progressive = False
    for at, marker, body in _segments(data):
        if marker == _END_OF_IMAGE:
            break
        # Behind the start of a scan comes its data.
        parts += 1 if scans else 1 + at - before
        if parts > _MAX_PARTS:
            raise ImageError("unsupported_image", f"the JPEG has more than {_MAX_PARTS} segments: save it again")
        scans += marker == _START_OF_SCAN
        if scans > _MAX_SCANS:
            raise ImageError("unsupported_image", f"the JPEG has more than {_MAX_SCANS} scans: save it as baseline")
        length = int.from_bytes(data[body : body + 2], "big")
        segment, before = data[body + 2 : body + length], body + length
        if marker in _FRAMES:
            progressive = marker in _PROGRESSIVE
            missing = {component: [_UNSENT] * _COEFFICIENTS for component in segment[6::3]}
        elif marker == _START_OF_SCAN:
            _take_scan(segment, missing, progressive)
    if not scans:
        raise ImageError("corrupt_image", "the JPEG is damaged or cut short: it has no image")
    if any(map(any, missing.values())):
        raise ImageError("corrupt_image", "the JPEG is cut short: its last scans are missing; save it as baseline")


def _take_scan(segment: bytes, missing: dict[int, list[int]], progressive: bool) -> None:
    """Note what a scan brings; one that is malformed, which the decoder says, brings nothing."""
    count = segment[0] if segment else 0
    if len(segment) < 4 + 2 * count:
        return
    first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
    for component in segment[1 : 1 + 2 * count : 2]:
        if component in missing:
            sent = slice(first, last + 1) if progressive else slice(None)
            missing[component][sent] = [bits & 0x0F if progressive else 0] * len(missing[component][sent])


def _check_tiff_page(data: bytes) -> None:
    """Refuse more pages than one, and tags that are longer than the file: Pillow reads and keeps each."""
    if (order := _TIFF_STARTS.get(data[:4])) is None:
        return  # no TIFF, which Pillow says

    def number(at: int, size: int) -> int:
        if at + size > len(data):
            raise ImageError("corrupt_image", "the TIFF is damaged or cut short: its directory lies behind its end")
        return int.from_bytes(data[at : at + size], "little" if order == "little" else "big")

    big = b"+" in data[:4]
    # Bytes of an offset and of the number of tags; BigTIFF has another two numbers before the first offset.
    long, short = (8, 8) if big else (4, 2)
    at = number(8 if big else 4, long)
    tags, at = number(at, short), at + short
    if tags > _MAX_TAGS:
        raise ImageError("unsupported_image", f"the TIFF has {tags} tags, more than {_MAX_TAGS}: save it again")
    total = 0
    for _ in range(tags):
        tag, kind, count = number(at, 2), number(at + 2, 2), number(at + 4, long)
        # Bit 0: a smaller copy; the image itself is then below, as in raw files of cameras.
        if tag == _SUB_PAGES or (tag == _SUBFILE_TYPE and number(at + 4 + long, 4) & 1):
            raise ImageError("unsupported_image", "the TIFF has images below its page: save the image alone")
        if kind in _TIFF_NUMBERS and count > _MAX_STRIPS:
            raise ImageError("unsupported_image", f"the TIFF has more than {_MAX_STRIPS} strips: save it again")
        total += count * (_TIFF_NUMBERS | _TIFF_BYTES).get(kind, 0)
        at += 4 + 2 * long
    if total > len(data):
        raise ImageError("corrupt_image", "the TIFF is damaged or cut short: its tags are longer than the file")
    if number(at, long):
        raise ImageError("unsupported_image", "the TIFF has several pages: send each as a file of its own")
