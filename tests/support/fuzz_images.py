"""Fuzz target of the decoder and the bare pixel formats: any bytes give RGB pixels or an ImageError.

    python tests/support/fuzz_images.py -max_total_time=300

Flags are libFuzzer's. A crash leaves its input in the working directory; run the target with that file to see it again.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import get_args

import atheris

with atheris.instrument_imports():
    from service.images import decoding as images
    from service.images import headers, resizing

import numpy as np
from PIL import Image

MAX_PIXELS = 250_000
FORMATS = get_args(images.PixelFormat)


def check_one(data: bytes) -> None:
    """The first byte chooses: an encoded image, or bare pixels whose next bytes are format, width and height."""
    kind, rest = data[:1], data[1:]
    try:
        if kind != b"\x00":
            check(images.decode(rest, max_pixels=MAX_PIXELS))
        elif len(rest) > 5:
            width, height = int.from_bytes(rest[1:3], "little"), int.from_bytes(rest[3:5], "little")
            pixel_format = FORMATS[rest[0] % len(FORMATS)]
            size = {"width": width, "height": height}
            pixels = images.decode_raw(rest[5:], pixel_format=pixel_format, max_pixels=MAX_PIXELS, **size)
            check(pixels)
            assert pixels.shape[:2] == (height, width)
    except headers.ImageError:
        pass


def check(pixels: np.ndarray) -> None:
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert 0 < pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS
    # What every image goes through next.
    assert resizing.resize(pixels, 32, 32).shape == (32, 32, 3)


def write_seeds(folder: Path) -> None:
    """Small good inputs of every kind to start from."""
    picture = np.random.default_rng(0).integers(0, 255, (12, 9, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    encodings = [
        *(("PNG", mode, {}) for mode in ("RGB", "L", "RGBA", "P", "1", "I;16")),
        *(("JPEG", mode, {"progressive": p, "exif": exif}) for mode in ("RGB", "L", "CMYK") for p in (False, True)),
        *(("BMP", mode, {}) for mode in ("RGB", "L", "P", "1")),
        *(("WEBP", mode, {"lossless": lossless}) for mode in ("RGB", "RGBA") for lossless in (False, True)),
        *(("TIFF", mode, {"compression": "tiff_lzw"}) for mode in ("RGB", "L", "RGBA", "P", "I;16", "CMYK")),
        *(("TIFF", "RGB", {"compression": kind, "exif": exif}) for kind in (None, "tiff_adobe_deflate", "packbits")),
    ]
    for number, (kind, mode, options) in enumerate(encodings):
        buffer = io.BytesIO()
        image = Image.fromarray(picture)
        deep = Image.fromarray(picture[:, :, 0].astype(np.uint16) << 8)
        (deep if mode == "I;16" else image.convert(mode)).save(buffer, kind, **options)
        (folder / f"{number}-{kind}").write_bytes(b"\x01" + buffer.getvalue())
    for number in range(len(FORMATS)):
        pixels = picture.tobytes()[: 12 * 9 * {"Mono16": 2, "RGB8": 3, "BGR8": 3}.get(FORMATS[number], 1)]
        (folder / f"raw-{number}").write_bytes(bytes([0, number, 9, 0, 12, 0]) + pixels)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_seeds(Path(folder))
        atheris.Setup([*sys.argv, "-max_len=8192", "-rss_limit_mb=2048", folder], check_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
