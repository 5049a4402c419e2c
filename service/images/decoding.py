"""Encoded bytes to pixels and back: the one decoder that training, evaluation and service share.

Pixels are RGB uint8 `(H, W, 3)`. EXIF orientation is applied, grayscale becomes three equal channels, colour profiles
are ignored: the same for every caller. Of 16-bit samples the upper 8 bits are kept; where they hold next to nothing, as
of a 12-bit camera whose samples were not spread, the image is refused, for nobody would see a defect in them. So is one
with transparent parts: what lies under them is not what its maker saw. An alpha channel of one value is dropped.

A JPEG whose data libjpeg-turbo warns of is refused (simplejpeg; OpenCV would decode it and keep silent), and a TIFF
that libtiff cannot read to its end (Pillow; OpenCV likewise). Damage that leaves valid codes cannot be noticed: JPEG,
BMP, WebP and most TIFFs have no checksums, PNG has.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from service.images.baseline import find_baseline
from service.images.headers import FORMATS, ImageError, check_pixels, read_header, refuse_second

Pixels = NDArray[np.uint8]
# Gives an image, or raises ImageError.
Decoder = Callable[[], Pixels]

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

DEFAULT_MAX_PIXELS = 50_000_000
# What OpenCV decodes. The files of a training are the user's own.
_MAX_FILE_PIXELS = 2**30

_EXIF_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_EXTRA_SAMPLES = 338
_TIFF_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "I;16", "I;16B"}
# JPEG in a TIFF could be damaged without a word.
_TIFF_CODECS = {"raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "group3", "group4", "tiff_ccitt"}
# A 12-bit camera fills so many of the 256 levels.
_FEW_LEVELS = 16
# Dead and hot pixels.
_OUTLIERS = 0.001


def decode(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """Decode an image of one of FORMATS to RGB uint8 `(H, W, 3)`; raises ImageError, never returns half an image."""
    if (baseline := find_baseline(data)) is not None:
        refuse_second(data, baseline.end, "JPEG")
        check_pixels(baseline.size, max_pixels)
        return _decode_strictly(data, "RGB")
    header = read_header(data, max_pixels)
    if header.format in {"JPEG", "MPO"}:
        pixels = _decode_jpeg(data, header)
        return _decode_with_opencv(data) if pixels is None else pixels
    _refuse_transparency(data, header)
    if header.format == "TIFF":
        return _decode_tiff(data)
    pixels = _decode_with_opencv(data)
    # Its bit depth is the 25th byte of a PNG.
    if header.format == "PNG" and data[24] == 16:
        _require_levels(pixels)
    return pixels


def decode_raw(
    data: bytes, *, width: int, height: int, pixel_format: PixelFormat, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Pixels:
    """Bare pixels in a GenICam format, rows without padding, to RGB uint8 `(height, width, 3)`; raises ImageError."""
    check_pixels((width, height), max_pixels)
    bytes_per_pixel, conversion = _RAW[pixel_format]
    if len(data) != (expected := width * height * bytes_per_pixel):
        raise ImageError("corrupt_image", f"{width}x{height} {pixel_format} is {expected} bytes, not {len(data)}")
    samples = np.frombuffer(data, np.uint8)
    if pixel_format == "Mono16":
        # Little-endian; the upper byte, as for a 16-bit PNG.
        samples, bytes_per_pixel = samples[1::2], 1
    shaped = samples.reshape((height, width, 3) if bytes_per_pixel == 3 else (height, width))
    pixels = (shaped.copy() if conversion is None else cv2.cvtColor(shaped, conversion)).astype(np.uint8, copy=False)
    if pixel_format == "Mono16":
        _require_levels(pixels)
    return pixels


def _decode_with_opencv(data: bytes) -> Pixels:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise ImageError("corrupt_image", f"the image data is damaged: {error.err}") from error
    if pixels is None:
        raise ImageError("corrupt_image", "the image data is damaged or cut short: send the whole file")
    return pixels.astype(np.uint8, copy=False)


def _decode_jpeg(data: bytes, header: Image.Image) -> Pixels | None:
    """The pixels of a JPEG that libjpeg-turbo has no warning for, the same as OpenCV's; None where that must decode it.

    Turned images and CMYK are checked here and decoded again by OpenCV, for its rules.
    """
    pixels = _decode_strictly(data, "CMYK" if header.mode == "CMYK" else "RGB")
    try:
        upright = header.getexif().get(_EXIF_ORIENTATION, 1) == 1
    # Hostile headers raise many types.
    except Exception as error:
        raise _damaged_jpeg(error) from error
    return pixels if upright and header.mode in {"L", "RGB"} else None


def _decode_strictly(data: bytes, colours: Literal["RGB", "CMYK"]) -> Pixels:
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, colours, strict=True)
    # Hostile files raise many types.
    except Exception as error:
        raise _damaged_jpeg(error) from error
    return pixels


def _damaged_jpeg(error: Exception) -> ImageError:
    return ImageError("corrupt_image", f"the JPEG is damaged or cut short: {error}")


def _decode_tiff(data: bytes) -> Pixels:
    """Pillow's: OpenCV is silent where a strip cannot be read to its end, and mixes up 16-bit colours."""
    try:
        with Image.open(io.BytesIO(data), formats=["TIFF"]) as image:
            if (codec := image.info.get("compression")) not in _TIFF_CODECS:
                raise ImageError("unsupported_image", f"a TIFF compressed by {codec}: save it with LZW or Deflate")
            if image.mode not in _TIFF_MODES:
                raise ImageError("unsupported_image", f"a TIFF of {image.mode} samples: save it with 8 or 16 bits")
            if _EXTRA_SAMPLES in image.getexif() and not image.mode.endswith("A"):
                raise ImageError("unsupported_image", "a TIFF with channels beside its colours: save these alone")
            deep = np.max(image.getexif().get(_BITS_PER_SAMPLE, 8)) > 8
            if image.mode.startswith("I;16"):
                pixels = np.right_shift(np.asarray(image), 8).astype(np.uint8)
                # Pillow inverts samples of 8 bits alone.
                if image.getexif().get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
                    pixels = 255 - pixels
                pixels = np.repeat(pixels[..., None], 3, 2)
            else:
                pixels = np.array(image.convert("RGB"))
    except ImageError:
        raise
    # As in a header, many types.
    except Exception as error:
        raise ImageError("corrupt_image", f"the TIFF is damaged or cut short: {error}") from error
    if deep:
        _require_levels(pixels)
    return pixels


def _refuse_transparency(data: bytes, header: Image.Image) -> None:
    if not (header.mode.endswith(("A", "a")) or "transparency" in header.info):
        return
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            lowest, highest = image.convert("RGBA").getchannel("A").getextrema()
    except Exception as error:
        raise ImageError("corrupt_image", f"the image is damaged or cut short: {error}") from error
    if lowest != highest:
        raise ImageError(
            "unsupported_image",
            "the image has transparent parts, and a defect in them cannot be judged: save it without an alpha channel",
        )


def _require_levels(pixels: Pixels) -> None:
    """Refuse the upper bytes of 16-bit samples that hold next to nothing of the image."""
    counts = sum(cv2.calcHist([pixels], [channel], None, [256], [0, 256]) for channel in range(3))
    shares = np.cumsum(counts) / np.sum(counts)
    low, high = np.searchsorted(shares, (_OUTLIERS, 1 - _OUTLIERS))
    if high - low < _FEW_LEVELS:
        raise ImageError(
            "unsupported_image",
            f"the 16-bit samples lie between {256 * low} and {256 * high + 255}: of their upper 8 bits, which are "
            "inspected, too little is used; spread them over 0 to 65535, every image and photo in the same way",
        )


def read(path: Path, *, max_pixels: int = _MAX_FILE_PIXELS) -> Pixels:
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
