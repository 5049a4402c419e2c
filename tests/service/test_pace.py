"""The pace of the station: what is let in is what leaves in time, whichever stage holds the others up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path

import pytest
from bundles import gray
from fakes import FakeBackend, FakeClock
from stations import built_in, opens, station

from service.images.headers import ImageError
from service.station.batching import OverloadedError
from service.station.decode_pool import Codec
from service.station.inspector import Inspector
from service.station.pace import Pace
from service.station.problem import ProblemError


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def pace(clock: FakeClock) -> Pace:
    return Pace(clock)


def _enter(pace: Pace, count: int) -> Iterator[AbstractContextManager[None]]:
    for _ in range(count):
        block = pace.inside(1)
        block.__enter__()
        yield block


def _leave(blocks: list[AbstractContextManager[None]], clock: FakeClock, seconds: float) -> None:
    """All of them, one every so many seconds."""
    for block in blocks:
        clock.now += seconds
        block.__exit__(None, None, None)


def _learn(pace: Pace, clock: FakeClock, seconds: float) -> None:
    """Images leave, one every so many seconds, until that is what the station knows."""
    for _ in range(30):
        _leave(list(_enter(pace, 4)), clock, seconds)


def test_an_image_that_comes_while_others_are_inside_has_to_wait_for_them(pace: Pace, clock: FakeClock) -> None:
    _learn(pace, clock, 0.010)
    inside = list(_enter(pace, 4))
    with pytest.raises(OverloadedError, match="4 images are being inspected"):
        pace.admit(clock.now + 0.045)
    pace.admit(clock.now + 0.075)
    _leave(inside, clock, 0.010)


def test_an_image_that_is_alone_is_tried_whatever_the_pace_was(pace: Pace, clock: FakeClock) -> None:
    _learn(pace, clock, 5.0)
    pace.admit(clock.now + 0.001)


def test_one_image_after_the_other_says_nothing_of_the_pace(pace: Pace, clock: FakeClock) -> None:
    for _ in range(10):
        _leave(list(_enter(pace, 1)), clock, 0.500)
    inside = list(_enter(pace, 1))
    pace.admit(clock.now + 0.100)
    _leave(inside, clock, 0.010)


def test_images_that_come_alone_correct_a_pace_that_lets_nobody_in_beside_them(pace: Pace, clock: FakeClock) -> None:
    _learn(pace, clock, 1.0)
    inside = list(_enter(pace, 1))
    with pytest.raises(OverloadedError):
        pace.admit(clock.now + 0.060)
    _leave(inside, clock, 0.010)
    for _ in range(60):
        _leave(list(_enter(pace, 1)), clock, 0.010)
    inside = list(_enter(pace, 1))
    pace.admit(clock.now + 0.060)
    _leave(inside, clock, 0.010)


def test_where_all_are_late_fewer_are_let_in(pace: Pace, clock: FakeClock) -> None:
    """Nothing ever leaves with a verdict, and the station learns that it takes too much all the same."""
    for _ in range(40):
        late = list(_enter(pace, 10))
        clock.now += 1.0
        for block in late:
            error = asyncio.CancelledError()
            with suppress(asyncio.CancelledError):
                block.__exit__(type(error), error, None)
    inside = list(_enter(pace, 9))
    with pytest.raises(OverloadedError):
        pace.admit(clock.now + 0.9)
    _leave(inside, clock, 0.010)


def test_one_stall_is_no_pace(pace: Pace, clock: FakeClock) -> None:
    _learn(pace, clock, 0.010)
    _leave(list(_enter(pace, 2)), clock, 30.0)
    inside = list(_enter(pace, 4))
    pace.admit(clock.now + 0.150)
    _leave(inside, clock, 0.010)


def test_what_is_no_image_leaves_at_once_and_says_nothing(pace: Pace, clock: FakeClock) -> None:
    _learn(pace, clock, 0.010)
    for _ in range(100):
        with suppress(ImageError), pace.inside(1):
            raise ImageError("corrupt_image", "no image")
    inside = list(_enter(pace, 4))
    with pytest.raises(OverloadedError):
        pace.admit(clock.now + 0.045)
    _leave(inside, clock, 0.010)


def test_images_of_one_request_share_its_time(pace: Pace, clock: FakeClock) -> None:
    for _ in range(30):
        blocks = [pace.inside(8) for _ in range(2)]
        for block in blocks:
            block.__enter__()
        _leave(blocks, clock, 0.080)
    inside = list(_enter(pace, 4))
    pace.admit(clock.now + 0.075)
    _leave(inside, clock, 0.010)


def test_an_inspector_asks_the_pace_before_the_body_is_read_and_before_it_is_decoded(
    models: Path, clock: FakeClock
) -> None:
    clock.now = time.monotonic()
    with station(models, opens(FakeBackend())) as client, closing(Codec(1, clock)) as codec:
        running = built_in(client)
        recipe = running.recipes.ready["part"]
        inspector = Inspector(running.batcher, codec, running.metrics, {})
        deadline = clock.now + 1000.0
        inspector.admit(recipe, deadline)
        _learn(codec.pace, clock, 200.0)
        inside = list(_enter(codec.pace, 1))
        deadline = clock.now + 300.0
        work = inspector.inspect_all(
            [lambda: gray(51)], recipe, "none", camera=None, started=clock.now, deadline=deadline
        )
        for ask in (lambda: inspector.admit(recipe, deadline), lambda: asyncio.run(work)):
            with pytest.raises(ProblemError, match="1 images are being inspected") as refused:
                ask()
            assert refused.value.code == "overloaded"
        _leave(inside, clock, 1.0)
