import asyncio
import gc
import math
import threading
import weakref
from concurrent.futures import Future
from functools import partial

import pytest
from fakes import FakeClock

from service.station.batching import OverloadedError
from service.station.decode_pool import Codec
from service.station.verdicts import DeadlinePassedError


def done(value: object) -> Future[object]:
    promise: Future[object] = Future()
    promise.set_result(value)
    return promise


def test_a_backlog_refuses_at_once_and_expired_pictures_are_not_decoded() -> None:
    clock, held, decoded = FakeClock(), threading.Event(), []
    codec = Codec(1, clock)

    def first() -> str:
        clock.now += 0.1
        return "first"

    def slow() -> str:
        assert held.wait(30)
        return "slow"

    async def scenario() -> None:
        await codec.decode(math.inf, first, done)
        running = asyncio.ensure_future(codec.decode(math.inf, slow, done))
        waiting = asyncio.ensure_future(codec.decode(clock.now + 1, lambda: decoded.append(1), done))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="2 images") as refused:
            await codec.decode(clock.now + 0.25, lambda: decoded.append(2), done)
        assert refused.value.retry_after_s == pytest.approx(0.05)
        clock.now += 2
        held.set()
        assert await running == ("slow", "slow")
        with pytest.raises(DeadlinePassedError):
            await waiting

    try:
        asyncio.run(scenario())
    finally:
        held.set()
        codec.close()
    assert decoded == []


def test_a_free_thread_is_tried_whatever_the_estimate_says() -> None:
    clock = FakeClock()
    codec = Codec(1, clock)

    def stalled() -> None:
        clock.now += 60

    async def scenario() -> tuple[str, object]:
        await codec.decode(math.inf, stalled, done)
        return await codec.decode(clock.now + 0.1, lambda: "decoded", done)

    try:
        assert asyncio.run(scenario()) == ("decoded", "decoded")
    finally:
        codec.close()


class Body:
    """Of an image; may be referred to weakly, which bytes may not."""


def test_a_decode_that_nobody_waits_for_is_pending_until_its_thread_is_free() -> None:
    clock, began, held = FakeClock(), threading.Event(), threading.Event()
    codec = Codec(1, clock)

    def slow() -> None:
        began.set()
        assert held.wait(30)
        clock.now += 0.1

    async def scenario() -> None:
        body = Body()
        kept = weakref.ref(body)
        running = asyncio.ensure_future(codec.decode(math.inf, slow, done))
        waiting = asyncio.ensure_future(codec.decode(math.inf, partial(id, body), done))
        del body
        await asyncio.to_thread(began.wait, 30)
        running.cancel()
        waiting.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
        await asyncio.sleep(0)
        del running, waiting
        gc.collect()
        # What had not begun is gone, its image too; what had is not.
        assert kept() is None
        with pytest.raises(OverloadedError, match="1 images"):
            codec.admit(clock.now - 0.05)
        held.set()
        await codec.decode(math.inf, lambda: None, done)
        # The time it took is known all the same.
        held.clear()
        began.clear()
        running = asyncio.ensure_future(codec.decode(math.inf, slow, done))
        await asyncio.to_thread(began.wait, 30)
        with pytest.raises(OverloadedError):
            codec.admit(clock.now + 0.05)
        held.set()
        await running
        codec.admit(clock.now - 1)

    try:
        asyncio.run(scenario())
    finally:
        held.set()
        codec.close()


def test_a_finished_result_is_drawn_while_every_decoder_is_busy() -> None:
    codec, held = Codec(1), threading.Event()

    async def scenario() -> str:
        running = asyncio.ensure_future(codec.decode(math.inf, lambda: held.wait(30), done))
        await asyncio.sleep(0)
        drawn = await asyncio.wait_for(codec.draw(lambda: "drawn"), 10)
        held.set()
        await running
        return drawn

    try:
        assert asyncio.run(scenario()) == "drawn"
    finally:
        held.set()
        codec.close()


def test_a_cancelled_picture_is_taken_back_from_where_it_was_handed_to() -> None:
    codec, handed, promise = Codec(1), threading.Event(), Future[None]()

    def to_the_device(_: None) -> Future[None]:
        handed.set()
        return promise

    async def scenario() -> None:
        running = asyncio.ensure_future(codec.decode(math.inf, lambda: None, to_the_device))
        await asyncio.to_thread(handed.wait, 30)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    try:
        asyncio.run(scenario())
    finally:
        codec.close()
    assert promise.cancelled()


@pytest.mark.parametrize("fails", ["at once", "later"])
def test_an_error_of_the_device_reaches_who_waits(fails: str) -> None:
    codec = Codec(1)

    def to_the_device(_: None) -> Future[None]:
        if fails == "at once":
            raise OverloadedError("full", 1.0)
        promise: Future[None] = Future()
        promise.set_exception(OverloadedError("full", 1.0))
        return promise

    try:
        with pytest.raises(OverloadedError, match="full"):
            asyncio.run(codec.decode(math.inf, lambda: None, to_the_device))
    finally:
        codec.close()
