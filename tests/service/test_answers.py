"""No late 200: the clock is looked at last, and what was not said is not on record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from bundles import gray, png
from fastapi.testclient import TestClient
from replies import assert_problem, post
from stations import after_inspection, built_in, station
from tensors import INFER, image_input

from service.assembly.parts import Parts
from service.http.protocol import OneWrite
from service.station.triggers import Asked, Triggers

GOOD = png(gray(51))
SOON = {"X-Deadline-Ms": "700"}
Ask = Callable[[TestClient, dict[str, str]], Any]

ASKS: dict[str, Ask] = {
    "JSON": lambda client, headers: post(client, GOOD, headers=headers),
    "overlay": lambda client, headers: post(client, GOOD, headers={"Accept": "image/png", **headers}),
    "batch": lambda client, headers: client.post("/inspect/batch", files={"image": GOOD}, headers=headers),
    "tensors": lambda client, headers: client.post(INFER, json=image_input(gray(51)[None]), headers=headers),
}


class _Late:
    """The memory of triggers, which takes its time."""

    def __init__(self, triggers: Triggers) -> None:
        self._triggers = triggers

    @asynccontextmanager
    async def ask(self, *given: Any, **options: Any) -> AsyncIterator[Asked]:
        async with self._triggers.ask(*given, **options) as asked:
            time.sleep(0.8)
            yield asked


@pytest.mark.parametrize("kind", ASKS)
def test_an_answer_that_is_ready_too_late_is_none(models: Path, tmp_path: Path, kind: str) -> None:
    with station(models, Parts(), records_dir=tmp_path / "records", backend="ort-cpu") as client:
        trigger = {} if kind == "batch" else {"X-Trigger-Id": "7"}
        with after_inspection(client, lambda: time.sleep(0.8)):
            assert_problem(ASKS[kind](client, SOON | trigger), 504, "deadline_passed")
        assert client.get("/counters").json().get("part", {}).get("OK", 0) == 0
        assert not [found for found in client.get("/inspections").json() if found["verdict"] == "OK"]
        assert 'inspect_verdicts_total{recipe="part",verdict="OK"} 0.0' in client.get("/metrics").text
        # Nor is it remembered for the trigger: it comes again, is inspected, and both answers agree.
        again = ASKS[kind](client, trigger)
        assert again.status_code == 200
        assert "x-replayed" not in again.headers
        assert client.get("/counters").json()["part"]["OK"] == 1


@pytest.mark.parametrize("kind", ["JSON", "tensors"])
def test_an_answer_that_is_given_again_is_in_time_too(client: TestClient, kind: str) -> None:
    if kind == "tensors":
        tensors = image_input(gray(51)[None]) | {"outputs": [{"name": "score"}]}
        ask: Ask = lambda client, headers: client.post(INFER, json=tensors, headers=headers)  # noqa: E731
    else:
        ask = ASKS[kind]
    trigger = {"X-Trigger-Id": "7"}
    assert ask(client, trigger).status_code == 200
    running = built_in(client)
    running.triggers = _Late(running.triggers)  # type: ignore[assignment]
    assert_problem(ask(client, SOON | trigger), 504, "deadline_passed")
    assert ask(client, trigger).headers["x-replayed"] == "true"


class _Written(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
WITH_LENGTH = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"
WITHOUT = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("parts", "writes"),
    [
        ([WITH_LENGTH, b"body"], [WITH_LENGTH + b"body"]),
        ([WITH_LENGTH, b"bo", b"dy"], [WITH_LENGTH + b"bo", b"dy"]),
        ([WITH_LENGTH, b""], [WITH_LENGTH]),
        ([WITHOUT, b"4\r\nbody\r\n"], [WITHOUT, b"4\r\nbody\r\n"]),
        (
            [CONTINUE, WITH_LENGTH, b"body"],
            [CONTINUE, WITH_LENGTH + b"body"],
        ),
    ],
)
def test_a_head_goes_out_with_its_body_and_alone_where_the_body_may_be_late(
    parts: list[bytes], writes: list[bytes]
) -> None:
    transport = _Written()
    once = OneWrite(transport)
    for part in parts:
        once.write(part)
    assert transport.writes == writes
