import io
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import gray, png
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.images.decoding import PixelFormat, decode, decode_raw, encode, read
from service.images.headers import ImageError

PICTURE = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)


def test_lossless_formats_give_identical_rgb_pixels() -> None:
    for extension in (".png", ".bmp", ".webp"):
        options = [cv2.IMWRITE_WEBP_QUALITY, 101] if extension == ".webp" else []
        data = cv2.imencode(extension, PICTURE[:, :, ::-1], options)[1].tobytes()
        np.testing.assert_array_equal(decode(data), PICTURE)


def test_grayscale_sixteen_bit_and_alpha_become_rgb_uint8() -> None:
    luma = PICTURE[:, :, 0]
    np.testing.assert_array_equal(decode(cv2.imencode(".png", luma)[1].tobytes()), np.dstack([luma] * 3))
    deep = (luma.astype(np.uint16) << 8) | 0x7F
    np.testing.assert_array_equal(decode(cv2.imencode(".png", deep)[1].tobytes()), np.dstack([luma] * 3))
    alpha = np.dstack([PICTURE[:, :, ::-1], np.full((20, 30), 9, np.uint8)])
    np.testing.assert_array_equal(decode(cv2.imencode(".png", alpha)[1].tobytes()), PICTURE)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated: turn 90 degrees clockwise to view
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "part.jpg", exif=exif, quality=95)
    turned = read(tmp_path / "part.jpg")
    assert turned.shape == (16, 32, 3)
    assert turned[:, :12].mean() > 250
    assert turned[:, 20:].mean() < 5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_opencv_does(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "JPEG", exif=exif, quality=95)
    np.testing.assert_array_equal(decode(buffer.getvalue()), _opencv(buffer.getvalue()))


def _opencv(data: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB))


@pytest.mark.parametrize(("mode", "subsampling"), [("RGB", 0), ("RGB", 1), ("RGB", 2), ("L", None), ("CMYK", 0)])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_pixels_are_those_of_opencv(mode: str, subsampling: int | None, progressive: bool) -> None:
    buffer = io.BytesIO()
    options = {} if subsampling is None else {"subsampling": subsampling}
    Image.fromarray(PICTURE).convert(mode).save(buffer, "JPEG", progressive=progressive, **options)
    np.testing.assert_array_equal(decode(buffer.getvalue()), _opencv(buffer.getvalue()))


@given(st.integers(0, 2**31), st.sampled_from([0, 0xAA]))
def test_a_jpeg_with_a_hole_in_its_data_is_refused(position: int, filling: int) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    data = bytearray(encode(noise, ".jpg"))
    begin = data.index(b"\xff\xda") + 14
    position = begin + position % (len(data) - begin - 202)
    data[position : position + 200] = bytes([filling]) * 200
    with pytest.raises(ImageError, match="the JPEG is damaged or cut short") as refused:
        decode(bytes(data))
    assert refused.value.code == "corrupt_image"


def _mpo(**options: object) -> bytes:
    """Two images in one file, as phones and stereo cameras write them; the second is black."""
    noise, buffer = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8), io.BytesIO()
    second = Image.fromarray(np.zeros_like(noise))
    Image.fromarray(noise).save(buffer, "MPO", save_all=True, append_images=[second], **options)
    data = buffer.getvalue()
    assert Image.open(io.BytesIO(data)).format == "MPO"
    return data


def test_of_several_jpegs_in_a_file_the_first_is_held_to_the_rules_of_one() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for data in (_mpo(), _mpo(exif=exif)):
        np.testing.assert_array_equal(decode(data), _opencv(data))
        begin = data.index(b"\xff\xda") + 14
        for filling in (0, 0xAA):
            with pytest.raises(ImageError, match="the JPEG is damaged or cut short"):
                decode(data[:begin] + bytes([filling]) * 200 + data[begin + 200 :])


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def _progressive(scans: int) -> bytes:
    """A gray JPEG of 64x64 pixels in so many scans: bands of coefficients, each in up to 14 of them."""
    header = [
        _segment(0xDB, bytes([0, *[1] * 64])),
        _segment(0xC2, bytes([8, 0, 64, 0, 64, 1, 1, 0x11, 0])),
        # One code of one bit each: a difference of 0, and a run of 64 blocks without another coefficient.
        _segment(0xC4, bytes([0x00, 1, *[0] * 15, 0x00])),
        _segment(0xC4, bytes([0x10, 1, *[0] * 15, 0x60])),
    ]
    whole, rest = divmod(scans - 1, 14)
    bands = np.array_split(np.arange(1, 64), whole + (rest > 0))
    passes = [
        (band[0], band[-1], 0 if low == bits - 1 else low + 1, low)
        for band, bits in zip(bands, [14] * whole + [rest] * (rest > 0), strict=True)
        for low in range(bits - 1, -1, -1)
    ]
    details = [_segment(0xDA, bytes([1, 1, 0, k, end, high << 4 | low])) + b"\x01" for k, end, high, low in passes]
    first = _segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(8)
    return b"".join([b"\xff\xd8", *header, first, *details, b"\xff\xd9"])


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs a pass over all pixels: a few 100 kB of them take a thread for a minute."""
    assert (decode(_progressive(100)) == 128).all()
    monkeypatch.setattr("simplejpeg.decode_jpeg", lambda *_, **__: pytest.fail("decoded"))
    many = _progressive(101)
    last = many.rindex(b"\xff\xda")
    # TEM has no segment: what follows it is no length to skip.
    for data in (many, _progressive(800), many[:last] + b"\xff\x01" + many[last:]):
        with pytest.raises(ImageError, match="more than 100 scans: save it as baseline") as refused:
            decode(data)
        assert refused.value.code == "unsupported_image"


def test_what_looks_like_scans_in_other_places_of_a_jpeg_counts_for_nothing() -> None:
    looks = b"\0\0" + b"\xff\xda\0\2" * 300
    for data in (encode(PICTURE, ".jpg"), _progressive(10)):
        thumbnail = data[:2] + _segment(0xE1, b"Exif\0\0" + looks) + _segment(0xFE, looks) + data[2:]
        for same in (thumbnail, data + looks, data.replace(b"\xff\xda", b"\xff\xff\xff\xda")):
            np.testing.assert_array_equal(decode(same), decode(data))


@pytest.mark.parametrize("many", ["segments", "filling", "markers without a segment", "chunks"])
def test_many_small_parts_before_a_picture_are_refused_before_pillow_reads_them(
    many: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow walks and keeps each: 32 MiB of segments took a thread for 22 s and 1.2 GB."""
    data, head = (png(PICTURE), 33) if many == "chunks" else (encode(PICTURE, ".jpg"), 2)
    unit = {
        "segments": b"\xff\xe5\0\2",
        "filling": b"\xff",
        "markers without a segment": b"\xff\xf0",
        "chunks": bytes(4) + b"prVt" + zlib.crc32(b"prVt").to_bytes(4, "big"),
    }[many]
    if many != "markers without a segment":  # libjpeg knows none
        np.testing.assert_array_equal(decode(data[:head] + unit * 19_900 + data[head:]), decode(data))
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("Pillow read it"))
    with pytest.raises(ImageError, match="has more than 20000") as refused:
        decode(data[:head] + unit * 20_001 + data[head:])
    assert refused.value.code == "unsupported_image"


def test_a_jpeg_that_is_all_filling_is_refused_before_pillow_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("Pillow read it"))
    with pytest.raises(ImageError, match="it has no image"):
        decode(b"\xff\xd8" + b"\xff" * 1_000_000)


def test_the_pixel_limit_counts_before_decoding() -> None:
    assert decode(png(gray(0, 40)), max_pixels=1600).shape == (40, 40, 3)
    with pytest.raises(ImageError, match="40x40 = 1600 pixels, more than the limit of 1599") as refused:
        decode(png(gray(0, 40)), max_pixels=1599)
    assert refused.value.code == "image_too_large"


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"BM", b"RIFF"]))
def test_no_bytes_do_anything_but_decode_or_raise_image_error(data: bytes, start: bytes) -> None:
    try:
        pixels = decode(start + data, max_pixels=100_000)
    except ImageError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3


@given(st.integers(0, 3000), st.integers(0, 255))
def test_a_damaged_png_is_refused_or_unchanged(position: int, value: int) -> None:
    data = bytearray(png(PICTURE))
    position %= len(data)
    data[position] = value
    try:
        pixels = decode(bytes(data), max_pixels=100_000)
    except ImageError:
        return
    np.testing.assert_array_equal(pixels, PICTURE)


def test_a_png_chunk_longer_than_the_file_takes_no_memory() -> None:
    """Found by the fuzz target: OpenCV took 4 GB for these hundred bytes."""
    data = bytearray(png(PICTURE[:4, :4]))
    at = data.index(b"IDAT") - 4
    data[at : at + 2] = b"\xff\xff"
    with pytest.raises(ImageError, match="no room for a chunk of 42949"):
        decode(bytes(data))


@pytest.mark.parametrize("kind", ["VP8 ", "VP8L", "VP8X"])
def test_a_webp_is_refused_for_its_size_before_pillow_opens_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow asks for two canvases, 2 GB at the largest size, before it tells the size."""
    image, buffer = Image.fromarray(PICTURE), io.BytesIO()
    options = {"save_all": True, "append_images": [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]}
    image.save(buffer, "WEBP", lossless=kind == "VP8L", **(options if kind == "VP8X" else {}))
    data = buffer.getvalue()
    assert data[12:16] == kind.encode()
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(ImageError, match="says 30x20") as refused:
        decode(data, max_pixels=599)
    assert refused.value.code == "image_too_large"


def test_read_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "part.png").write_text("text")
    with pytest.raises(ImageError, match=r"part\.png: not a readable"):
        read(tmp_path / "part.png")


def test_encode_round_trip_keeps_colors() -> None:
    np.testing.assert_array_equal(decode(encode(PICTURE, ".png")), PICTURE)
    assert abs(decode(encode(gray(90), ".jpg")).astype(int) - 90).max() <= 2


def test_every_lossless_route_gives_the_same_pixels() -> None:
    height, width = PICTURE.shape[:2]
    raw = {"height": height, "width": width}
    np.testing.assert_array_equal(decode_raw(PICTURE.tobytes(), pixel_format="RGB8", **raw), PICTURE)
    np.testing.assert_array_equal(decode_raw(PICTURE[:, :, ::-1].tobytes(), pixel_format="BGR8", **raw), PICTURE)
    luma = PICTURE[:, :, 0]
    gray_png = decode(cv2.imencode(".png", luma)[1].tobytes())
    np.testing.assert_array_equal(decode_raw(luma.tobytes(), pixel_format="Mono8", **raw), gray_png)
    deep = ((luma.astype("<u2") << 8) | 3).tobytes()
    np.testing.assert_array_equal(decode_raw(deep, pixel_format="Mono16", **raw), gray_png)


@pytest.mark.parametrize(
    ("pixel_format", "red_at", "blue_at"),
    [
        ("BayerRG8", (0, 0), (1, 1)),
        ("BayerGR8", (0, 1), (1, 0)),
        ("BayerGB8", (1, 0), (0, 1)),
        ("BayerBG8", (1, 1), (0, 0)),
    ],
)
def test_bayer_patterns_are_named_by_their_first_pixels(
    pixel_format: PixelFormat, red_at: tuple[int, int], blue_at: tuple[int, int]
) -> None:
    mosaic = np.full((16, 16), 60, np.uint8)
    mosaic[red_at[0] :: 2, red_at[1] :: 2] = 200
    mosaic[blue_at[0] :: 2, blue_at[1] :: 2] = 20
    pixels = decode_raw(mosaic.tobytes(), width=16, height=16, pixel_format=pixel_format)
    np.testing.assert_array_equal(pixels[4:12, 4:12].reshape(-1, 3), np.tile([200, 60, 20], (64, 1)))


def test_bare_pixels_of_another_size_are_refused() -> None:
    with pytest.raises(ImageError, match="4x4 RGB8 is 48 bytes, not 47"):
        decode_raw(bytes(47), width=4, height=4, pixel_format="RGB8")
    with pytest.raises(ImageError, match="more than the limit"):
        decode_raw(b"", width=60000, height=60000, pixel_format="Mono8", max_pixels=100)


def test_a_file_of_the_users_own_may_be_a_line_scan(tmp_path: Path) -> None:
    """The service has a setting for it; the photos of a training are no attack."""
    scan = np.zeros((28_000, 2000), np.uint8)
    scan[17_000:17_010, 900:910] = 255
    file = tmp_path / "scan.png"
    cv2.imwrite(str(file), scan)
    assert read(file)[17_005, 905].tolist() == [255] * 3
    with pytest.raises(ImageError, match=r"2000x28000 .* raise INSPECT_MAX_PIXELS"):
        decode(file.read_bytes())
    assert decode(file.read_bytes(), max_pixels=scan.size).shape == (28_000, 2000, 3)
