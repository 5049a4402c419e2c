"""The numbers of a tensor in JSON, read without a Python object for each: an image of 256x256 has 196,608.

They are cut out of the text before it is parsed, and read in pieces, between which other threads get their turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from service.images.decoding import Pixels

# A key; inside of a string its quotes would be escaped.
_DATA = re.compile(rb'"data"\s*:\s*(?=\[)')
_ALLOWED = b"0123456789,[] \t\r\n"
_NO_NUMBER = b"0123456789 \t\r\n"
_TO_BLANKS = bytes.maketrans(b"[]", b"  ")
# No JSON, and octal to some.
_LEADING_ZERO = re.compile(rb"(?:^|,)0\d")
_PIECE = 131_072
# Values, names and brackets of what is left: a request has a few dozen, a base64 image is one.
_MOST_VALUES = 100_000


class Numbers:
    """The text of an array of whole numbers, flat or nested."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def pixels(self, shape: Sequence[int]) -> Pixels:
        """Raises ValueError where this is no array of `shape`, nested like it or flat, of numbers from 0 to 255."""
        skeleton = b"".join(piece.translate(None, _NO_NUMBER) for piece in self._pieces())
        depths = ([*shape[:depth], prod(shape[depth:])] for depth in range(len(shape)))
        if not any(skeleton == _skeleton(nested) for nested in depths):
            raise ValueError(f"data is not nested as shape {list(shape)}, or not as long")
        return np.concatenate([_read(piece) for piece in self._pieces()]).reshape(shape)

    def _pieces(self) -> Iterator[bytes]:
        start = 0
        while start < len(self._text):
            end = self._text.find(b",", start + _PIECE)
            end = len(self._text) if end < 0 else end + 1
            yield self._text[start:end]
            start = end


def take_numbers(text: bytes, most: int) -> tuple[bytes, Numbers | None]:
    """The JSON `text` with its first array `data` empty, if that is one of whole numbers, and those. Raises ValueError
    where there are more than `most`, or too many other values to be a request.
    """
    numbers = None
    if (found := _DATA.search(text)) is not None:
        start = found.end()
        ends = [end for mark in (b'"', b"}") if (end := text.find(mark, start)) >= 0]
        end = text.rfind(b"]", start, min(ends, default=len(text))) + 1
        inside = text[start:end]
        if inside.strip(b"[] \t\r\n") and not inside.translate(None, _ALLOWED):
            if inside.count(b",") >= most:
                raise ValueError(
                    f"data has more than {most} numbers, as many as the largest request: send fewer images"
                )
            numbers, text = Numbers(inside), text[:start] + b"[]" + text[end:]
    if sum(text.count(mark) for mark in (b",", b":", b"[", b"{")) > _MOST_VALUES:
        raise ValueError(
            "the JSON has too many values: data is of whole numbers or base64; larger ones go as binary data"
        )
    return text, numbers


def _skeleton(shape: Sequence[int]) -> bytes:
    *outer, last = shape
    text = b"[" + b"," * (last - 1) + b"]"
    for length in reversed(outer):
        text = b"[" + b",".join([text] * length) + b"]"
    return text


def _read(piece: bytes) -> Pixels:
    text = piece.translate(_TO_BLANKS).strip()
    expected = text.count(b",") + (not text.endswith(b","))
    compact = text.translate(None, b" \t\r\n")
    if compact.startswith(b",") or b",," in compact or _LEADING_ZERO.search(compact):
        raise ValueError("data is no array of whole numbers")
    try:
        found = np.fromstring(text.rstrip(b", \t\r\n"), np.int64, sep=",")
    # How older NumPy and newer say that they came upon something else.
    except (DeprecationWarning, ValueError):
        found = np.empty(0, np.int64)
    if len(found) != expected:
        raise ValueError("data is no array of whole numbers")
    if found.max() > np.iinfo(np.uint8).max:
        raise ValueError("data has numbers above 255")
    return found.astype(np.uint8)
