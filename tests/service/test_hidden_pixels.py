"""Images that hold more than their 8-bit pixels show: refused with a remedy, never judged by what is left of them."""

import io
import re
import struct
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from bundles import gray
from fastapi.testclient import TestClient
from PIL import Image, TiffImagePlugin, TiffTags
from replies import assert_problem, post

from service.images.decoding import decode, decode_raw
from service.images.headers import ImageError

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)


def _saved(kind: str, pixels: np.ndarray | Image.Image, **options: object) -> bytes:
    if kind == "BMP":
        # Pillow's says nothing of alpha.
        return cv2.imencode(".bmp", cv2.cvtColor(np.asarray(pixels), cv2.COLOR_RGBA2BGRA))[1].tobytes()
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _with_alpha(alpha: np.ndarray | int) -> np.ndarray:
    return np.dstack([PICTURE, np.broadcast_to(np.asarray(alpha, np.uint8), PICTURE.shape[:2])])


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("BMP", {})])
def test_a_defect_in_the_alpha_channel_is_refused(kind: str, options: dict[str, object]) -> None:
    hole = np.full(PICTURE.shape[:2], 255)
    hole[5:9, 5:9] = 0
    with pytest.raises(ImageError, match=r"transparent parts, .* save it without an alpha channel") as refused:
        decode(_saved(kind, _with_alpha(hole), **options))
    assert refused.value.code == "unsupported_image"


@pytest.mark.parametrize(("kind", "alpha"), [("PNG", 0), ("PNG", 9), ("PNG", 255), ("BMP", 0), ("TIFF", 255)])
def test_an_alpha_channel_of_one_value_says_nothing_and_is_dropped(kind: str, alpha: int) -> None:
    """Cameras that fill BGRA buffers leave it at 0 or 255."""
    np.testing.assert_array_equal(decode(_saved(kind, _with_alpha(alpha))), PICTURE)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_counts_where_a_pixel_has_it(mode: str) -> None:
    picture = Image.fromarray(PICTURE // 2)
    image = picture.quantize(16) if mode == "P" else picture.convert(mode)
    used = image.getpixel((3, 3))
    unused = (200, 200, 200) if mode == "RGB" else 200
    with pytest.raises(ImageError, match="transparent parts"):
        decode(_saved("PNG", image, transparency=used))
    np.testing.assert_array_equal(decode(_saved("PNG", image, transparency=unused)), np.asarray(image.convert("RGB")))


_DEEP: dict[str, Callable[[np.ndarray], bytes]] = {
    "png": lambda samples: cv2.imencode(".png", samples)[1].tobytes(),
    "colour png": lambda samples: cv2.imencode(".png", np.dstack([samples] * 3))[1].tobytes(),
    "tiff": lambda samples: _saved("TIFF", samples),
    "big-endian tiff": lambda samples: _saved("TIFF", Image.fromarray(samples.astype(">u2"))),
    "colour tiff": lambda samples: cv2.imencode(".tiff", np.dstack([samples] * 3))[1].tobytes(),
}


def _deep(kind: str, samples: np.ndarray) -> np.ndarray:
    if kind == "Mono16":
        height, width = samples.shape
        return decode_raw(samples.astype("<u2").tobytes(), width=width, height=height, pixel_format="Mono16")
    return decode(_DEEP[kind](samples))


@pytest.mark.parametrize("kind", [*_DEEP, "Mono16"])
def test_sixteen_bits_of_a_camera_of_ten_or_twelve_are_refused(kind: str) -> None:
    """All but their upper byte is lost, and with it every defect; a dead or a hot pixel does not hide that."""
    samples = np.random.default_rng(0).integers(0, 2**16, (60, 80), np.uint16)
    expected = np.dstack([samples >> 8] * 3)
    np.testing.assert_array_equal(_deep(kind, samples), expected)
    narrow = 29_000 + samples // 64
    hot = (samples >> 4).copy()
    hot[7, 7] = 65_535
    for lost in (samples >> 6, samples >> 4, narrow, hot):
        with pytest.raises(ImageError, match=r"the 16-bit samples lie between \d+ and \d+: .* spread them") as refused:
            _deep(kind, lost.astype(np.uint16))
        assert refused.value.code == "unsupported_image"
    # 14 bits leave 64 levels.
    assert _deep(kind, (samples >> 2).astype(np.uint16)).max() == 63


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_of_several_pictures_in_a_file_none_is_chosen(kind: str, options: dict[str, object]) -> None:
    more = [Image.fromarray(255 - PICTURE), Image.fromarray(PICTURE // 2)]
    with pytest.raises(ImageError, match=r"(has (3 images|several pages)|is an animation): send each") as refused:
        decode(_saved(kind, PICTURE, save_all=True, append_images=more, **options))
    assert refused.value.code == "unsupported_image"


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK"])
@pytest.mark.parametrize("big_tiff", [False, True])
def test_tiffs_give_the_pixels_that_were_saved(compression: str | None, mode: str, big_tiff: bool) -> None:
    image = Image.fromarray(PICTURE).convert(mode)
    data = _saved("TIFF", image, compression=compression, big_tiff=big_tiff)
    np.testing.assert_array_equal(decode(data), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_as_a_jpeg_is(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = cv2.GaussianBlur(PICTURE, (0, 0), 5)
    jpeg = decode(_saved("JPEG", smooth, exif=exif, quality=100, subsampling=0)).astype(int)
    found = decode(_saved("TIFF", smooth, exif=exif))
    assert found.shape == jpeg.shape
    assert np.abs(found - jpeg).max() < 8


def test_a_tiff_where_white_is_0_is_not_inverted() -> None:
    luma = PICTURE[:, :, 0]
    data = _saved("TIFF", luma, tiffinfo={262: 0})
    np.testing.assert_array_equal(decode(data), np.dstack([luma] * 3))


@pytest.mark.parametrize(
    ("pixels", "options", "told"),
    [
        (PICTURE, {"compression": "jpeg"}, "compressed by jpeg: save it with LZW or Deflate"),
        (PICTURE[:, :, 0].astype(np.float32), {}, "of F samples: save it with 8 or 16 bits"),
        (PICTURE[:, :, 0].astype(np.int32), {}, "of I samples: save it with 8 or 16 bits"),
        (Image.fromarray(PICTURE).convert("LAB"), {}, "of LAB samples"),
    ],
)
def test_other_tiffs_are_refused_by_name(pixels: np.ndarray, options: dict[str, object], told: str) -> None:
    with pytest.raises(ImageError, match=told) as refused:
        decode(_saved("TIFF", pixels, **options))
    assert refused.value.code == "unsupported_image"


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_a_tiff_cut_short_is_refused(compression: str | None) -> None:
    data = _saved("TIFF", PICTURE, compression=compression)
    for length in range(8, len(data), 97):
        with pytest.raises(ImageError):
            decode(data[:length])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_hole_in_the_data_of_a_tiff_is_noticed() -> None:
    data = bytearray(_saved("TIFF", PICTURE, compression="tiff_adobe_deflate"))
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    with pytest.raises(ImageError, match="damaged or cut short"):
        decode(bytes(data))


def _with_tag(tiff: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF of Pillow with another value of a SHORT that it has."""
    at = tiff.find(struct.pack("<HHI", tag, 3, 1)) + 8
    assert at >= 8
    return tiff[:at] + struct.pack("<H", value) + tiff[at + 2 :]


def test_a_channel_beside_the_colours_is_not_dropped() -> None:
    """Whatever it is of, transparency or infrared: 0 is unspecified."""
    data = _with_tag(_saved("TIFF", _with_alpha(PICTURE[:, :, 0])), 338, 0)
    with pytest.raises(ImageError, match="channels beside its colours: save these alone"):
        decode(data)


@pytest.mark.parametrize("tag", [{254: 1}, {330: 8}])
def test_a_smaller_copy_with_the_picture_below_it_is_refused(tag: dict[int, int]) -> None:
    """As raw files of cameras are: what opens first is a thumbnail."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for number, value in tag.items():
        info[number] = value
        info.tagtype[number] = TiffTags.LONG
    with pytest.raises(ImageError, match="images below its page: save the image alone"):
        decode(_saved("TIFF", PICTURE, tiffinfo=info))


def test_sixteen_bits_where_white_is_0_are_turned_as_eight_are() -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    data = _saved("TIFF", ramp)
    np.testing.assert_array_equal(decode(_with_tag(data, 262, 0)), 255 - decode(data))


def _cut_behind_scan(jpeg: bytes, scans: int) -> bytes:
    """Whole scans, and the end that a gateway or a camera writes under every image."""
    starts = [found.start() for found in re.finditer(rb"\xff\xda", jpeg)]
    table = jpeg.find(b"\xff\xc4", starts[scans - 1])
    return jpeg[: table if 0 < table < starts[scans] else starts[scans]] + b"\xff\xd9"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_progressive_jpeg_without_its_last_scans_is_refused(mode: str) -> None:
    """It opens without a warning: blurred, and a scratch is gone."""
    jpeg = _saved("JPEG", Image.fromarray(PICTURE).convert(mode), progressive=True)
    assert decode(jpeg).shape == PICTURE.shape
    for scans in range(1, jpeg.count(b"\xff\xda")):
        with pytest.raises(ImageError, match="its last scans are missing") as refused:
            decode(_cut_behind_scan(jpeg, scans))
        assert refused.value.code == "corrupt_image"


@pytest.mark.parametrize("between", [b"", bytes(100), b"\r\n"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
def test_of_two_pictures_one_behind_the_other_none_is_chosen(kind: str, between: bytes) -> None:
    data = cv2.imencode(".bmp", PICTURE)[1].tobytes() if kind == "BMP" else _saved(kind, PICTURE)
    for second in ("JPEG", "PNG", "WEBP", "TIFF"):
        with pytest.raises(ImageError, match=f"behind the {kind} follows another one: send each on its own"):
            decode(data + between + _saved(second, 255 - PICTURE))
    stream = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n"
    with pytest.raises(ImageError, match="follows another one"):
        decode(data + between + stream + _saved("JPEG", 255 - PICTURE))
    # What phones and recorders append is no image.
    np.testing.assert_array_equal(decode(data + between + b"trailer"), decode(data))


def test_an_animation_of_one_frame_is_refused() -> None:
    """The frame may be smaller than the canvas."""
    frame = _saved("WEBP", PICTURE, lossless=True)[12:]
    size = [number.to_bytes(3, "little") for number in (2 * PICTURE.shape[1] - 1, 2 * PICTURE.shape[0] - 1)]
    inner = [number.to_bytes(3, "little") for number in (PICTURE.shape[1] - 1, PICTURE.shape[0] - 1)]
    chunks = [
        (b"VP8X", b"\2\0\0\0" + b"".join(size)),
        (b"ANIM", bytes(6)),
        (b"ANMF", bytes(6) + b"".join(inner) + bytes(4) + frame),
    ]
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks
    )
    with pytest.raises(ImageError, match="an animation: send each image on its own"):
        decode(b"RIFF" + struct.pack("<I", len(body)) + body)


def test_a_bmp_that_may_leave_pixels_out_is_refused() -> None:
    """Run lengths can jump over pixels and end early, without damage."""
    head = struct.pack("<IiiHHIIiiII", 40, 64, 64, 1, 8, 1, 4, 0, 0, 256, 0)
    palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
    data = b"BM" + struct.pack("<IHHI", 1082, 0, 0, 1078) + head + palette + b"\2\7\0\1"
    with pytest.raises(ImageError, match="may leave pixels out: save it uncompressed"):
        decode(data)


def test_tags_longer_than_the_file_are_refused_before_pillow_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may name the whole file: Pillow would keep thousands of copies."""
    data = _saved("TIFF", PICTURE)
    at = int.from_bytes(data[4:8], "little")

    def with_tags(count: int, kind: int, values: int) -> bytes:
        entry = b"".join(
            (60_000 + i).to_bytes(2, "little") + kind.to_bytes(2, "little") + values.to_bytes(4, "little") + bytes(4)
            for i in range(count)
        )
        return b"II*\0" + len(data).to_bytes(4, "little") + data[8:] + count.to_bytes(2, "little") + entry + bytes(4)

    assert at == 8
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("Pillow read it"))
    for tiff, told in (
        (with_tags(4000, 7, 1000), "its tags are longer than the file"),
        (with_tags(5000, 7, 1), "has 5000 tags"),
        (with_tags(1, 4, 2**20), "more than 131072 strips"),
        (data[:4] + (len(data) - 1).to_bytes(4, "little") + data[8:], "its directory lies behind its end"),
    ):
        with pytest.raises(ImageError, match=told):
            decode(tiff)


def test_a_tiff_is_inspected_and_a_frame_of_twelve_bits_is_not(client: TestClient) -> None:
    assert post(client, _saved("TIFF", gray(51)), "image/tiff").json()["verdict"] == "OK"
    dim = np.random.default_rng(0).integers(0, 2**12, (64, 64), np.uint16)
    for data, media_type in ((_DEEP["png"](dim), "image/png"), (_DEEP["tiff"](dim), "image/tiff")):
        assert_problem(post(client, data, media_type), 400, "unsupported_image")
    layout = {"width": 64, "height": 64, "pixel_format": "Mono16"}
    raw = post(client, dim.tobytes(), "application/octet-stream", params=layout)
    assert_problem(raw, 400, "unsupported_image")
