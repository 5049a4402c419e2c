"""What the clients make of answers that fail, and what they send again."""

import asyncio
import inspect
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from service.client import AsyncClient, Client, Outcome
from service.client.conversation import Order, Send, conversation


@contextmanager
def _station(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives these answers in turn, each on a connection of its own; an empty one closes it. Then it
    closes what else comes.
    """
    heads: list[bytes] = []

    def serve() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65_536)
                heads.append(data)
                connection.sendall(answer)
                # A body that nobody had read would take the answer back.
                connection.shutdown(socket.SHUT_WR)
                with suppress(ConnectionError):
                    while connection.recv(65_536):
                        pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heads
        thread.join(300)


def _answer(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status.encode(), len(body), body)


OK = _answer("200 OK", b'{"verdict": "OK", "score": 0.1, "inspection_id": "a"}')
BUSY = _answer("429 Too Many", b'{"verdict": "NOT_INSPECTED", "code": "overloaded", "retry_after_ms": 1}')
REFUSED = _answer("400 Bad", b'{"verdict": "NOT_INSPECTED", "code": "corrupt_image", "detail": "damaged"}')


def _trigger(head: bytes) -> bytes:
    (line,) = [line for line in head.split(b"\r\n") if line.lower().startswith(b"x-trigger-id")]
    return line


def test_what_got_no_answer_is_sent_again_under_one_trigger() -> None:
    with _station(b"", BUSY, OK) as (url, heads), Client(url, retries=2) as client:
        outcome = client.inspect(b"x")
    assert (outcome.verdict, outcome.inspection_id, len(heads)) == ("OK", "a", 3)
    assert len({_trigger(head) for head in heads}) == 1


def test_the_same_for_asyncio() -> None:
    async def inspect(url: str) -> Outcome:
        async with AsyncClient(url, retries=1) as client:
            return await client.inspect(b"x", trigger_id="T 17")

    with _station(b"", OK) as (url, heads):
        outcome = asyncio.run(inspect(url))
    assert outcome.verdict == "OK"
    assert [_trigger(head).split(b": ")[1] for head in heads] == [b"T 17"] * 2


@pytest.mark.parametrize(("answers", "retries", "sent"), [((REFUSED,), 3, 1), ((b"",), 0, 1), ((BUSY, BUSY), 1, 2)])
def test_what_cannot_help_is_not_sent_again_and_nothing_is_raised(
    answers: tuple[bytes, ...], retries: int, sent: int
) -> None:
    with _station(*answers) as (url, heads), Client(url, retries=retries) as client:
        outcome = client.inspect(b"x")
    assert (outcome.verdict, len(heads)) == ("NOT_INSPECTED", sent)
    assert outcome.detail or outcome.reply["code"] == "overloaded"


def test_nothing_is_sent_again_once_its_deadline_has_passed() -> None:
    slow = _answer("429 Too Many", b'{"verdict": "NOT_INSPECTED", "code": "overloaded", "retry_after_ms": 60000}')
    with _station(slow) as (url, heads), Client(url, retries=5) as client:
        assert client.inspect(b"x", deadline_ms=1000).verdict == "NOT_INSPECTED"
    assert len(heads) == 1


@pytest.mark.parametrize(("deadline_ms", "waits_s"), [(500.0, 1.5), (None, 60.0), (600_000.0, 60.0)])
def test_an_answer_that_can_only_be_too_late_is_not_waited_for(deadline_ms: float | None, waits_s: float) -> None:
    order = Order(b"x", None, deadline_ms, None, None, None, None, None, "none")
    first = next(conversation(order, retries=3, timeout_s=60.0))
    assert isinstance(first, Send)
    assert first.timeout_s == waits_s


@pytest.mark.parametrize("array", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.float32), np.zeros(4, np.uint8)])
def test_an_array_that_is_no_image_is_named(array: np.ndarray) -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(ValueError, match="is no image"):
        client.inspect(array)


@pytest.mark.parametrize(
    "body",
    [
        b'{"verdict": "NOT_INSPECTED", "code": ["overloaded"]}',
        b'{"verdict": "NOT_INSPECTED", "code": "overloaded", "retry_after_ms": "soon"}',
        b'{"verdict": "NOT_INSPECTED", "code": "overloaded", "retry_after_ms": -5}',
    ],
)
def test_a_problem_of_another_shape_raises_nothing(body: bytes) -> None:
    with _station(_answer("429 Too Many", body), OK) as (url, heads), Client(url, retries=1) as client:
        outcome = client.inspect(b"x")
        # The server waits for both.
        if len(heads) == 1:
            client.inspect(b"x")
    assert outcome.verdict == ("NOT_INSPECTED" if b"[" in body else "OK")


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (_answer("200 OK", b"<html>"), "not one of this service"),
        (_answer("502 Bad", b"<html>"), "HTTP 502 without a reason"),
        (_answer("404 No", b'{"detail": "no such part", "code": "not_found"}'), "no such part"),
        (b"", "no answer"),
    ],
)
def test_a_question_without_an_answer_says_why(answer: bytes, detail: str) -> None:
    with _station(answer) as (url, _), Client(url) as client:
        found = client.record("a")
    assert not found.ok
    assert detail in found.detail


def test_a_question_is_asked_again_and_a_review_is_not() -> None:
    busy = _answer("503 Busy", b'{"detail": "later", "code": "records_unavailable"}')
    with _station(busy, _answer("200 OK", b'{"part": {"NG": 1}}')) as (url, heads), Client(url, retries=2) as client:
        assert client.counters().value == {"part": {"NG": 1}}
    assert len(heads) == 2
    with _station(busy) as (url, heads), Client(url, retries=2) as client:
        assert client.review("a", "good").code == "records_unavailable"
    assert len(heads) == 1


def test_both_clients_have_the_same_calls_with_the_same_parameters() -> None:
    def calls(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(call).parameters)
            for name, call in vars(kind).items()
            if not name.startswith("_") and callable(call)
        }

    assert calls(Client) == calls(AsyncClient)
    assert {"inspect", "search", "record", "image", "anomaly_map", "overlay", "review", "counters"} <= set(
        calls(Client)
    )
