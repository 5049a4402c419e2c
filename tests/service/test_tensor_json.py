from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.tensor_json import take_numbers

SHAPE = [2, 3, 4, 3]
IMAGES = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)


def _text(data: str) -> bytes:
    return ('{"inputs": [{"name": "image", "data": ' + data + ', "shape": [2, 3, 4, 3]}]}').encode()


@pytest.mark.parametrize("depth", range(4))
@pytest.mark.parametrize("indent", [None, 1])
def test_numbers_are_read_flat_and_nested(depth: int, indent: int | None) -> None:
    nested = IMAGES.reshape(*SHAPE[:depth], -1).tolist()
    text, numbers = take_numbers(_text(json.dumps(nested, indent=indent)), IMAGES.size)
    assert numbers is not None
    assert np.array_equal(numbers.pixels(SHAPE), IMAGES)
    assert json.loads(text)["inputs"] == [{"name": "image", "data": [], "shape": SHAPE}]


def test_a_large_tensor_is_read_in_pieces() -> None:
    large = np.random.default_rng(1).integers(0, 256, (1, 300, 300, 3)).astype(np.uint8)
    _, numbers = take_numbers(_text(json.dumps(large.tolist())), large.size)
    assert numbers is not None
    assert np.array_equal(numbers.pixels(large.shape), large)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("[1, 2, 3]", "not nested"),
        (str([1] * 73), "more than 72"),
        (str([1] * 71), "not nested"),
        (str([256] * 72), "above 255"),
        (str([10**30] * 72), "above 255"),
        (str([[1] * 72]), "not nested"),
        (str([1] * 72)[:-1] + ",]", "more than 72"),
        ("[1 1" + ", 1" * 71 + "]", "no array of whole numbers"),
        ("[" + "1, " * 70 + ", 1]", "no array of whole numbers"),
        ("[0051" + ", 1" * 71 + "]", "no array of whole numbers"),
        ("[" + ", " * 71 + "1]", "no array of whole numbers"),
        (json.dumps(IMAGES.tolist()).replace("]]", "][]]", 1), "not nested"),
        (json.dumps(IMAGES.tolist())[:-1], "not nested"),
    ],
)
def test_what_is_no_array_of_that_shape_is_refused(data: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _read(data)


def _read(data: str) -> None:
    _, numbers = take_numbers(_text(data), IMAGES.size)
    assert numbers is not None
    numbers.pixels(SHAPE)


@pytest.mark.parametrize("data", ["[1.5]", "[-1]", "[true]", '["a"]', "[]", "[[]]", "[NaN]", "{}", "null"])
def test_what_is_no_array_of_whole_numbers_is_left_to_the_parser(data: str) -> None:
    assert take_numbers(_text(data), 100) == (_text(data), None)


def test_a_string_that_looks_like_data_is_none() -> None:
    text = json.dumps({"id": '"data": [1, 2]', "inputs": []}).encode()
    assert take_numbers(text, 100) == (text, None)


@pytest.mark.parametrize(
    "text", [b"[" * 200_000, b"[" + b"0.5," * 200_000, b'{"a": ' * 200_000, _text(str([-1] * 200_000))]
)
def test_more_values_than_a_request_has_are_refused_before_they_are_parsed(text: bytes) -> None:
    with pytest.raises(ValueError, match="too many values"):
        take_numbers(text, 100)


@given(st.binary(max_size=200))
def test_any_bytes_are_answered(text: bytes) -> None:
    try:
        _, numbers = take_numbers(b'{"data": [' + text, 1000)
        if numbers is not None:
            numbers.pixels([1, 2])
    except ValueError:
        pass
