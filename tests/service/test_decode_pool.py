import asyncio
import gc
import math
import threading
import weakref
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

import pytest
from fakes import FakeClock

from service.station.batching import OverloadedError
from service.station.decode_pool import Codec
from service.station.verdicts import DeadlinePassedError

T = TypeVar("T")


def done(value: object) -> Future[object]:
    promise: Future[object] = Future()
    promise.set_result(value)
    return promise


def as_it_is(decoded: T) -> T:
    return decoded


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
        await codec.decode(math.inf, first, done, as_it_is)
        running = asyncio.ensure_future(codec.decode(math.inf, slow, done, as_it_is))
        waiting = asyncio.ensure_future(codec.decode(clock.now + 1, lambda: decoded.append(1), done, as_it_is))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="2 images") as refused:
            await codec.decode(clock.now + 0.25, lambda: decoded.append(2), done, as_it_is)
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
        await codec.decode(math.inf, stalled, done, as_it_is)
        return await codec.decode(clock.now + 0.1, lambda: "decoded", done, as_it_is)

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
        running = asyncio.ensure_future(codec.decode(math.inf, slow, done, as_it_is))
        waiting = asyncio.ensure_future(codec.decode(math.inf, partial(id, body), done, as_it_is))
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
        await codec.decode(math.inf, lambda: None, done, as_it_is)
        # The time it took is known all the same.
        held.clear()
        began.clear()
        running = asyncio.ensure_future(codec.decode(math.inf, slow, done, as_it_is))
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
        running = asyncio.ensure_future(codec.decode(math.inf, lambda: held.wait(30), done, as_it_is))
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
        running = asyncio.ensure_future(codec.decode(math.inf, lambda: None, to_the_device, as_it_is))
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
            asyncio.run(codec.decode(math.inf, lambda: None, to_the_device, as_it_is))
    finally:
        codec.close()


def test_an_image_is_on_its_way_before_it_is_looked_at() -> None:
    codec, handed = Codec(1), list[str]()

    def to_the_device(decoded: str) -> Future[object]:
        handed.append(decoded)
        return done("result")

    def look(decoded: str) -> str:
        return f"{decoded}, handed over: {handed}"

    try:
        found = asyncio.run(codec.decode(math.inf, lambda: "image", to_the_device, look))
    finally:
        codec.close()
    assert found == ("image, handed over: ['image']", "result")


def test_an_image_that_nobody_waits_for_while_it_is_looked_at_is_taken_back_from_the_device() -> None:
    codec, promise = Codec(1), Future[None]()
    handing, looking, seen = threading.Event(), threading.Event(), threading.Event()

    def to_the_device(_: None) -> Future[None]:
        handing.set()
        # The caller gives up before the promise is known.
        assert looking.wait(300)
        return promise

    async def give_up() -> None:
        task = asyncio.create_task(codec.decode(math.inf, lambda: None, to_the_device, lambda _: seen.set()))
        assert await asyncio.to_thread(handing.wait, 300)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        looking.set()

    try:
        asyncio.run(give_up())
    finally:
        codec.close()
    assert seen.is_set()
    assert promise.cancelled()


def test_an_image_that_cannot_be_looked_at_is_taken_back_from_the_device() -> None:
    codec, promise = Codec(1), Future[None]()

    def look(_: None) -> None:
        raise ValueError("no pixels")

    try:
        with pytest.raises(ValueError, match="no pixels"):
            asyncio.run(codec.decode(math.inf, lambda: None, lambda _: promise, look))
    finally:
        codec.close()
    assert promise.cancelled()
