"""Encoded bytes to pixels and back: the one decoder that training, evaluation and service share.

Pixels are RGB uint8 `(H, W, 3)`. The header is read first (Pillow), so an image is refused for its size before any
memory is spent on it; OpenCV then decodes. EXIF orientation is applied, an alpha channel is dropped, grayscale becomes
three equal channels and 16-bit samples keep their upper 8 bits: OpenCV's own rules, the same for every caller.

A JPEG whose data libjpeg-turbo warns of is refused (simplejpeg; OpenCV would decode it and keep silent). Damage that
leaves valid Huffman codes cannot be noticed: JPEG, BMP and WebP have no checksums, PNG has. Of an MPO, several JPEGs in
one file, the first is the picture.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
ImageProblem = Literal["empty_image", "unsupported_image", "corrupt_image", "image_too_large"]

PixelFormat = Literal["Mono8", "Mono16", "RGB8", "BGR8", "BayerRG8", "BayerGR8", "BayerGB8", "BayerBG8"]

# bytes per pixel, OpenCV conversion
_RAW: dict[PixelFormat, tuple[int, int | None]] = {
    "Mono8": (1, cv2.COLOR_GRAY2RGB),
    "Mono16": (2, cv2.COLOR_GRAY2RGB),
    "RGB8": (3, None),
    "BGR8": (3, cv2.COLOR_BGR2RGB),
    # COLOR_BayerRGGB2RGB and its kin are the aliases that follow GenICam.
    "BayerRG8": (1, cv2.COLOR_BayerRGGB2RGB),
    "BayerGR8": (1, cv2.COLOR_BayerGRBG2RGB),
    "BayerGB8": (1, cv2.COLOR_BayerGBRG2RGB),
    "BayerBG8": (1, cv2.COLOR_BayerBGGR2RGB),
}

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
DEFAULT_MAX_PIXELS = 50_000_000

_EXIF_ORIENTATION = 0x0112
# Encoders make about ten.
_MAX_SCANS = 100
# Segments, bytes between them, or chunks: Pillow walks and keeps each. A profile of 32 MiB has 512 segments, a PNG of
# 32 MiB from libpng 4096 chunks.
_MAX_PARTS = 20_000
# The markers that have a segment, and the end; in the data of a scan FF is followed by 00 or by RST0 to RST7.
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xc7\xc9-\xcf\xd9-\xdd\xe0-\xef\xfe]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9

# Our own limit is checked right after the header; Pillow's global one would only add a second, different error.
Image.MAX_IMAGE_PIXELS = None


class ImageError(ValueError):
    """The bytes are not an image that can be inspected; `code` names the problem for machines."""

    def __init__(self, code: ImageProblem, message: str) -> None:
        super().__init__(message)
        self.code: ImageProblem = code


def decode(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """Decode JPEG, PNG, BMP or WebP bytes to RGB uint8 `(H, W, 3)`; raises ImageError, never returns half an image."""
    if not data:
        raise ImageError("empty_image", "the image is empty (0 bytes): send the encoded picture as the request body")
    if data[:4] == b"RIFF":
        _check_pixels(_webp_canvas(data), max_pixels)
    # Before Pillow reads it: what is small may take it long.
    if data[:2] == b"\xff\xd8":
        _check_jpeg_parts(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        _check_png_chunks(data)
    header = _read_header(data)
    _check_pixels(header.size, max_pixels)
    pixels: NDArray[Any] | None = _decode_jpeg(data, header) if header.format in {"JPEG", "MPO"} else None
    if pixels is not None:
        return pixels.astype(np.uint8, copy=False)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise ImageError("corrupt_image", f"the image data is damaged: {error.err}") from error
    if pixels is None:
        raise ImageError("corrupt_image", "the image data is damaged or cut short: send the whole file")
    return pixels.astype(np.uint8, copy=False)


def decode_raw(
    data: bytes, *, width: int, height: int, pixel_format: PixelFormat, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Pixels:
    """Bare pixels in a GenICam format, rows without padding, to RGB uint8 `(height, width, 3)`; raises ImageError."""
    if width * height > max_pixels:
        raise ImageError("image_too_large", f"{width}x{height} pixels are more than the limit of {max_pixels}")
    bytes_per_pixel, conversion = _RAW[pixel_format]
    if len(data) != (expected := width * height * bytes_per_pixel):
        raise ImageError("corrupt_image", f"{width}x{height} {pixel_format} is {expected} bytes, not {len(data)}")
    samples = np.frombuffer(data, np.uint8)
    if pixel_format == "Mono16":
        # Little-endian; the upper byte, as for a 16-bit PNG.
        samples, bytes_per_pixel = samples[1::2], 1
    shaped = samples.reshape((height, width, 3) if bytes_per_pixel == 3 else (height, width))
    pixels = shaped.copy() if conversion is None else cv2.cvtColor(shaped, conversion)
    return pixels.astype(np.uint8, copy=False)


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            "image_too_large",
            f"the image header says {width}x{height} = {width * height} pixels, more than the limit of {max_pixels}",
        )


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
    """Refuse more chunks than a picture needs, and one that says it is longer than the file: OpenCV takes the memory
    before it looks for the bytes.
    """
    at, chunks = 8, 0
    while at < len(data):
        chunks += 1
        if chunks > _MAX_PARTS:
            raise ImageError("unsupported_image", f"the PNG has more than {_MAX_PARTS} chunks: save it again")
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            raise ImageError("corrupt_image", f"the PNG is damaged or cut short: no room for a chunk of {length} bytes")
        if data[at + 4 : at + 8] == b"IEND":
            return
        at += 12 + length


def _check_jpeg_parts(data: bytes) -> None:
    """Refuse more scans than a picture needs, each costs a pass over all pixels, however few bytes it has; and more
    segments, or bytes that belong to none.
    """
    scans, parts, at = 0, 0, 2
    while (found := _JPEG_MARKER.search(data, at)) and (marker := data[found.end() - 1]) != _END_OF_IMAGE:
        # Behind the start of a scan comes its data.
        parts += 1 if scans else 1 + found.start() - at
        if parts > _MAX_PARTS:
            raise ImageError("unsupported_image", f"the JPEG has more than {_MAX_PARTS} segments: save it again")
        scans += marker == _START_OF_SCAN
        if scans > _MAX_SCANS:
            raise ImageError("unsupported_image", f"the JPEG has more than {_MAX_SCANS} scans: save it as baseline")
        # Over the segment: thumbnails and profiles in it have markers of their own.
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    if not scans:
        raise ImageError("corrupt_image", "the JPEG is damaged or cut short: it has no picture")


def _decode_jpeg(data: bytes, header: Image.Image) -> Pixels | None:
    """The pixels of a JPEG that libjpeg-turbo has no warning for, the same as OpenCV's; None where that must decode it.

    Turned pictures and CMYK are checked here and decoded again by OpenCV, for its rules.
    """
    try:
        pixels = simplejpeg.decode_jpeg(data, "CMYK" if header.mode == "CMYK" else "RGB", strict=True)
        upright = header.getexif().get(_EXIF_ORIENTATION, 1) == 1
    # Hostile headers raise many types, here and in Pillow's reading of EXIF.
    except Exception as error:
        raise ImageError("corrupt_image", f"the JPEG is damaged or cut short: {error}") from error
    return pixels if upright and header.mode in {"L", "RGB"} else None


def _read_header(data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as header:
            return header
    # Pillow's parsers raise many types on hostile headers (SyntaxError, struct.error, OverflowError, ...).
    except Exception as error:
        raise ImageError(
            "unsupported_image", f"not a readable {', '.join(FORMATS)} image: the file header is missing or damaged"
        ) from error


def read(path: Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """`decode` for a file; the ImageError names the file."""
    try:
        return decode(path.read_bytes(), max_pixels=max_pixels)
    except ImageError as error:
        raise ImageError(error.code, f"{path}: {error}") from error


def encode(pixels: NDArray[np.uint8], extension: Literal[".png", ".jpg"]) -> bytes:
    """RGB `(H, W, 3)` or gray `(H, W)` uint8 to PNG or JPEG (quality 92) bytes."""
    bgr = pixels[:, :, ::-1] if pixels.ndim == 3 else pixels
    options = [cv2.IMWRITE_JPEG_QUALITY, 92] if extension == ".jpg" else []
    done, data = cv2.imencode(extension, np.ascontiguousarray(bgr), options)
    if not done:
        raise ValueError(f"OpenCV could not encode an array of shape {pixels.shape} as {extension}")
    return data.tobytes()
