"""The JPEG that most encoders write, told from all others by a glance at its segments.

Pillow's look at a header, and the search for markers in the data of a scan, take a third of the time of decoding a
small image. A file of one frame and one scan that has all of it, with nothing between its segments, nothing that turns
the image and no marker within its data, passes every check of service.images.headers, and is spared them.
"""

from __future__ import annotations

from typing import NamedTuple

# What says nothing of the image beside how it is encoded: JFIF's own segment, Huffman tables, restart intervals.
_APP0, _DHT, _DRI = 0xE0, 0xC4, 0xDD
_DQT, _FRAMES, _START_OF_SCAN = 0xDB, (0xC0, 0xC1), 0xDA
_JFIF_BYTES = 16
# A quantisation table of 8 bits, with the byte that names it.
_TABLE_BYTES = 65
# Segments; encoders write about eight.
_MOST = 24


class Baseline(NamedTuple):
    """Width and height, and where the file ends."""

    size: tuple[int, int]
    end: int


def find_baseline(data: bytes) -> Baseline | None:
    """What the segments say; None for any other file, whatever is in it."""
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    frame = b""
    for _ in range(_MOST):
        marker, segment = data[at + 1 : at + 2], data[at + 4 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
        if data[at : at + 1] != b"\xff" or not marker or not segment:
            return None
        kind = marker[0]
        at += 4 + len(segment)
        if kind == _START_OF_SCAN:
            return _of_scan(data, frame, segment, at)
        if kind in _FRAMES and not frame and _is_whole(segment):
            frame = segment
        elif not (
            kind in (_DHT, _DRI)
            or (kind == _DQT and len(segment) % _TABLE_BYTES == 0 and max(segment[::_TABLE_BYTES]) < 16)
            or (kind == _APP0 and len(segment) + 2 >= _JFIF_BYTES)
        ):
            return None
    return None


def _is_whole(frame: bytes) -> bool:
    """Whether a frame is of one or three components of 8 bits, and of some pixels."""
    return (
        len(frame) in (9, 15)
        and len(frame) == 6 + 3 * frame[5]
        and frame[0] == 8
        and 0 not in (_wide(frame), _high(frame))
    )


def _wide(frame: bytes) -> int:
    return int.from_bytes(frame[3:5], "big")


def _high(frame: bytes) -> int:
    return int.from_bytes(frame[1:3], "big")


def _of_scan(data: bytes, frame: bytes, scan: bytes, start: int) -> Baseline | None:
    components = frame[6::3]
    if not frame or len(scan) != 4 + 2 * len(components) or scan[0] != len(components) or scan[1:-3:2] != components:
        return None
    end = data.find(b"\xff\xd9", start)
    # Within the data an FF is followed by 00; where one is not there is a marker.
    if end < 0 or data.count(b"\xff", start, end) != data.count(b"\xff\0", start, end):
        return None
    return Baseline((_wide(frame), _high(frame)), end + 2)
