import io

import numpy as np
import pytest
from PIL import Image

from service.images.baseline import find_baseline
from service.images.decoding import decode, encode
from service.images.headers import ImageError, read_header

PICTURE = np.random.default_rng(0).integers(0, 255, (24, 40, 3), np.uint8)


def _saved(mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


USUAL = [
    encode(PICTURE, ".jpg"),
    encode(PICTURE[..., 0], ".jpg"),
    _saved(),
    _saved("L"),
    _saved(optimize=True, dpi=(72, 72)),
]


@pytest.mark.parametrize("data", USUAL)
def test_what_encoders_usually_write_is_known(data: bytes) -> None:
    found = find_baseline(data)
    assert found is not None
    assert (found.size, found.end) == ((40, 24), len(data))


def test_any_other_jpeg_is_left_to_the_long_way() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for data in (
        _saved(progressive=True),
        _saved("CMYK"),
        _saved(exif=exif),
        _saved(icc_profile=b"profile"),
        _saved(comment="a comment"),
        _saved(restart_marker_blocks=1),
        USUAL[0][:-2],
        USUAL[0][:200],
        USUAL[0][:2] + b"\0" + USUAL[0][2:],
        USUAL[0].replace(b"\xff\xda", b"\xff\xff\xda"),
        b"",
        b"\xff\xd8",
    ):
        assert find_baseline(data) is None


def test_behind_a_known_jpeg_nothing_is_hidden() -> None:
    with pytest.raises(ImageError, match="behind the JPEG follows another one"):
        decode(USUAL[0] + USUAL[2])
    with pytest.raises(ImageError, match="more than the limit of 900"):
        decode(USUAL[0], max_pixels=900)


def test_whatever_the_bytes_are_the_short_way_lets_nothing_in_that_the_long_one_refuses() -> None:
    rng, known = np.random.default_rng(0), 0
    for number in range(1500):
        data = bytearray(USUAL[number % len(USUAL)])
        begin = data.index(b"\xff\xda")
        for _ in range(rng.integers(1, 4)):
            place = rng.integers(2, begin + 14 if number % 3 else len(data))
            match rng.integers(3):
                case 0:
                    data[place] = rng.choice([0, 1, 3, 4, 8, 63, 0xC0, 0xC2, 0xC4, 0xD9, 0xDA, 0xDD, 0xE1, 0xFE, 0xFF])
                case 1:
                    del data[place]
                case 2:
                    data[place:place] = bytes(rng.integers(0, 256, 2, np.uint8))
        found = find_baseline(bytes(data))
        if found is not None:
            known += 1
            header = read_header(bytes(data), 10**10)
            assert (header.format, header.size, header.mode in {"L", "RGB"}) == ("JPEG", found.size, True)
            assert not header.getexif()
    assert known > 300
