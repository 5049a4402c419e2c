"""The integrator's job through the client alone: triggers, the line's names, arrays, pictures, failing answers."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import gray, png
from processes import running_service

from service.client import AsyncClient, Client, Outcome

GOOD, BAD = gray(51), gray(204)


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

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heads
        thread.join(60)


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


@pytest.mark.parametrize("array", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.float32), np.zeros(4, np.uint8)])
def test_an_array_that_is_no_image_is_named(array: np.ndarray) -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(ValueError, match="is no image"):
        client.inspect(array)


@pytest.mark.slow
def test_a_line_is_integrated_through_the_client_alone(models: Path, tmp_path: Path) -> None:
    with running_service(models, tmp_path / "log") as (_, http), Client(str(http.base_url), retries=2) as client:
        assert client.inspect(png(GOOD), recipe="part").verdict == "OK"
        assert client.inspect(GOOD).verdict == "OK"
        assert client.inspect(GOOD[:, :, 0]).verdict == "OK"
        ramp = np.linspace(40_000, 60_000, 64 * 64).reshape(64, 64).astype(np.uint16)
        assert client.inspect(ramp).verdict == "NG"
        (tmp_path / "part.png").write_bytes(png(BAD))
        names = {"part_id": "Gehäuse 17", "camera_id": "left", "lot_id": "L 1", "metadata": {"order": "4711"}}
        bad = client.inspect(tmp_path / "part.png", trigger_id="T 1", heatmap="overlay", **names)  # type: ignore[arg-type]
        assert (bad.verdict, bad.replayed) == ("NG", False)
        assert bad.heatmap is not None
        assert cv2.imdecode(np.frombuffer(bad.heatmap, np.uint8), cv2.IMREAD_COLOR).shape == (64, 64, 3)
        again = client.inspect(tmp_path / "part.png", trigger_id="T 1", **names)  # type: ignore[arg-type]
        assert (again.verdict, again.replayed, again.inspection_id) == ("NG", True, bad.inspection_id)
        other = client.inspect(GOOD, trigger_id="T 1")
        assert (other.verdict, other.reply["code"]) == ("NOT_INSPECTED", "trigger_reused")
        unfit = client.inspect(gray(0))
        assert unfit.verdict == "NOT_INSPECTED"
        assert "too dark" in unfit.detail
        (found,) = http.get("/inspections?lot=L 1&meta=order=4711").json()
        assert (found["inspection_id"], found["part_id"]) == (bad.inspection_id, "Gehäuse 17")
