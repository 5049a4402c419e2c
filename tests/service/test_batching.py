import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import numpy as np
import pytest
from fakes import FakeBackend, FakeClock, brightness, wait_for

from service.backends.base import BackendError
from service.station.batching import Batcher, ClosedError, OverloadedError
from service.station.runs import Model, Result
from service.station.verdicts import DeadlinePassedError

FAR = math.inf


@pytest.fixture
def make_batcher() -> Iterator[Callable[..., Batcher]]:
    made: list[Batcher] = []

    def make(**options: object) -> Batcher:
        batcher = Batcher(**{"max_batch": 8, "queue_size": 100, **options})  # type: ignore[arg-type]
        made.append(batcher)
        return batcher

    yield make
    for batcher in made:
        batcher.close()


def image(value: int = 0) -> np.ndarray:
    return np.full((4, 4, 3), value, np.uint8)


def occupy(batcher: Batcher, model: Model) -> Future[Result]:
    """Submit one image and wait until the backend works on it."""
    assert isinstance(model.backend, FakeBackend)
    future = batcher.submit(model, image(), FAR)
    assert model.backend.started.acquire(timeout=300)
    return future


def test_an_idle_batcher_runs_one_image_at_once_and_load_makes_batches(make_batcher: Callable[..., Batcher]) -> None:
    backend = FakeBackend(blocking=True)
    model, batcher = Model(backend), make_batcher()
    first = occupy(batcher, model)
    rest = [batcher.submit(model, image(51 * i), FAR) for i in range(5)]
    backend.release.release(10)
    assert first.result(300).scored.score == 0.0
    assert [future.result(300).scored.score for future in rest] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    assert backend.batches == [1, 5]


def test_batches_never_exceed_the_smaller_limit(make_batcher: Callable[..., Batcher]) -> None:
    backend = FakeBackend(blocking=True, max_batch_size=3)
    model, batcher = Model(backend), make_batcher(max_batch=4)
    occupy(batcher, model)
    futures = [batcher.submit(model, image(), FAR) for _ in range(7)]
    backend.release.release(10)
    for future in futures:
        future.result(300)
    assert backend.batches == [1, 3, 3, 1]


def test_models_are_not_mixed_and_keep_their_order(make_batcher: Callable[..., Batcher]) -> None:
    first, second = FakeBackend(blocking=True), FakeBackend()
    a, b, batcher = Model(first), Model(second), make_batcher()
    occupy(batcher, a)
    futures = [batcher.submit(model, image(), FAR) for model in (a, b, a, b, b)]
    first.release.release(10)
    for future in futures:
        future.result(300)
    assert (first.batches, second.batches) == ([1, 2], [3])


def test_cancelled_and_expired_images_never_reach_the_model(make_batcher: Callable[..., Batcher]) -> None:
    clock, backend = FakeClock(), FakeBackend(blocking=True)
    model, batcher = Model(backend), make_batcher(clock=clock)
    occupy(batcher, model)
    cancelled = batcher.submit(model, image(), FAR)
    expired = batcher.submit(model, image(), clock.now + 1)
    kept = batcher.submit(model, image(), FAR)
    assert cancelled.cancel()
    clock.now += 2
    backend.release.release(10)
    kept.result(300)
    with pytest.raises(DeadlinePassedError):
        expired.result(300)
    with pytest.raises(CancelledError):
        cancelled.result(300)
    assert backend.batches == [1, 1]


def test_a_deadline_that_cannot_be_met_is_refused_at_once(make_batcher: Callable[..., Batcher]) -> None:
    clock, backend = FakeClock(), FakeBackend(blocking=True)
    model, batcher = Model(backend, seconds_per_image=0.1), make_batcher(clock=clock)
    occupy(batcher, model)
    batcher.submit(model, image(), FAR)
    with pytest.raises(OverloadedError, match="the result would take 360 ms") as refused:
        batcher.submit(model, image(), clock.now + 0.25)
    assert refused.value.retry_after_s == pytest.approx(0.11)
    with pytest.raises(OverloadedError, match="the deadline passed 500 ms ago"):
        batcher.submit(model, image(), clock.now - 0.5)
    assert batcher.depth == 1
    batcher.submit(model, image(), clock.now + 0.4)
    backend.release.release(10)


def test_a_full_queue_refuses(make_batcher: Callable[..., Batcher]) -> None:
    backend = FakeBackend(blocking=True)
    model, batcher = Model(backend), make_batcher(queue_size=2)
    occupy(batcher, model)
    later = time.monotonic() + 1000
    kept = [batcher.submit(model, image(), later) for _ in range(2)]
    with pytest.raises(OverloadedError, match="2 images are waiting"):
        batcher.submit(model, image(), later)
    # The golden gate has no deadline and must not fail because the line is busy.
    kept.append(batcher.submit(model, image(), FAR))
    backend.release.release(10)
    for future in kept:
        future.result(300)


def test_a_failing_backend_fails_its_batch_and_recovers(make_batcher: Callable[..., Batcher]) -> None:
    broken = threading.Event()
    broken.set()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if broken.is_set():
            raise RuntimeError("device lost")
        return brightness(images)

    model, batcher = Model(FakeBackend(run)), make_batcher()
    with pytest.raises(BackendError, match="fake: device lost"):
        batcher.submit(model, image(), FAR).result(300)
    assert model.failures == 1
    broken.clear()
    assert batcher.submit(model, image(255), FAR).result(300).scored.score == 1.0
    assert model.failures == 0


def test_a_backend_that_loses_images_is_not_believed(make_batcher: Callable[..., Batcher]) -> None:
    model = Model(FakeBackend(lambda images: brightness(images[1:])))
    with pytest.raises(BackendError, match="0 maps"):
        make_batcher().submit(model, image(), FAR).result(300)


def test_the_estimate_follows_what_was_measured(make_batcher: Callable[..., Batcher]) -> None:
    clock = FakeClock()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        clock.now += 0.5 * len(images)
        return brightness(images)

    model, batcher = Model(FakeBackend(run)), make_batcher(clock=clock)
    batcher.submit(model, image(), FAR).result(300)
    assert model.seconds_per_image == pytest.approx(0.5)


def test_one_stall_does_not_refuse_every_image_after_it(make_batcher: Callable[..., Batcher]) -> None:
    clock, stall = FakeClock(), [0.01]

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        clock.now += stall[0] * len(images)
        return brightness(images)

    model, batcher = Model(FakeBackend(run)), make_batcher(clock=clock)
    for seconds in (0.01, 1.0):
        stall[0] = seconds
        batcher.submit(model, image(), FAR).result(300)
    assert model.seconds_per_image > 0.08
    stall[0] = 0.01
    for _ in range(20):
        batcher.submit(model, image(), clock.now + 0.08).result(300)
    assert model.seconds_per_image < 0.02


def test_later_images_do_not_make_an_admitted_one_late(make_batcher: Callable[..., Batcher]) -> None:
    clock = FakeClock()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        clock.now += 0.1 * len(images)
        return brightness(images)

    backend = FakeBackend(run, blocking=True)
    model, batcher = Model(backend, seconds_per_image=0.1), make_batcher(clock=clock)
    occupy(batcher, model)
    finished: list[float] = []
    tight = batcher.submit(model, image(), clock.now + 0.25)
    tight.add_done_callback(lambda future: finished.append(clock.now))
    rest = [batcher.submit(model, image(), FAR) for _ in range(7)]
    backend.release.release(20)
    for future in (tight, *rest):
        future.result(300)
    assert finished[0] <= 100.25
    assert backend.batches == [1, 1, 7]


def test_close_finishes_what_waits_and_refuses_more() -> None:
    backend = FakeBackend(blocking=True)
    model, batcher = Model(backend), Batcher(max_batch=1, queue_size=10)
    occupy(batcher, model)
    waiting = [batcher.submit(model, image(), FAR) for _ in range(3)]
    closer = threading.Thread(target=batcher.close, args=(600,))
    closer.start()
    backend.release.release(10)
    closer.join(300)
    assert all(future.done() and future.exception() is None for future in waiting)
    with pytest.raises(ClosedError):
        batcher.submit(model, image(), FAR)


def test_an_idle_device_is_kept_warm_with_the_last_image(make_batcher: Callable[..., Batcher]) -> None:
    backend = FakeBackend()
    model, batcher = Model(backend), make_batcher(idle_tick_s=0.01)
    batcher.submit(model, image(), FAR).result(300)
    for _ in range(4):
        assert backend.started.acquire(timeout=300)
    assert set(backend.batches) == {1}
    assert batcher.submit(model, image(255), FAR).result(300).scored.score == 1.0


def test_a_device_that_hangs_in_a_tick_is_noticed(make_batcher: Callable[..., Batcher]) -> None:
    clock, backend = FakeClock(), FakeBackend(blocking=True)
    model, batcher = Model(backend), make_batcher(clock=clock, idle_tick_s=0.01)
    first = occupy(batcher, model)
    backend.release.release()
    first.result(300)
    assert backend.started.acquire(timeout=300)
    clock.now += 16
    assert batcher.hung_s() == pytest.approx(16)
    with pytest.raises(BackendError, match="has been at one batch for 16 s"):
        batcher.submit(model, image(), FAR)
    backend.release.release(1_000_000)
    wait_for(lambda: not batcher.hung_s())
    assert batcher.submit(model, image(255), FAR).result(300).scored.score == 1.0


def test_a_tick_that_fails_is_no_end(make_batcher: Callable[..., Batcher]) -> None:
    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if images.max() == 0:
            raise RuntimeError("device lost")
        return brightness(images)

    backend = FakeBackend(run)
    model, batcher = Model(backend), make_batcher(idle_tick_s=0.01)
    with pytest.raises(BackendError):
        batcher.submit(model, image(), FAR).result(300)
    for _ in range(3):
        assert backend.started.acquire(timeout=300)
    assert batcher.submit(model, image(255), FAR).result(300).scored.score == 1.0


def test_a_retired_model_is_kept_warm_no_more_and_not_taken_from_its_run(make_batcher: Callable[..., Batcher]) -> None:
    backend = FakeBackend(blocking=True)
    model, batcher = Model(backend), make_batcher(idle_tick_s=0.01)
    running = occupy(batcher, model)
    assert not batcher.retire(model)
    backend.release.release(1_000_000)
    running.result(300)
    assert batcher.retire(model)
    backend.forget_starts()
    # It may still be asked by a request that began before, and is left alone after that.
    batcher.submit(model, image(), FAR).result(300)
    assert backend.started.acquire(timeout=300)
    assert not backend.started.acquire(timeout=0.2)


def test_a_batch_that_is_queued_at_once_is_one_run(make_batcher: Callable[..., Batcher]) -> None:
    backend = FakeBackend(max_batch_size=5)
    model, batcher = Model(backend), make_batcher(max_batch=4)
    assert batcher.largest_batch(model) == 4
    for size in (3, 4, 2):
        results = [future.result(300) for future in batcher.submit_batch(model, [image(51 * i) for i in range(size)])]
        assert [result.scored.score for result in results] == pytest.approx([0.2 * i for i in range(size)])
    assert backend.batches == [3, 4, 2]


def test_whether_the_device_hangs_is_told_without_a_lock(make_batcher: Callable[..., Batcher]) -> None:
    batcher = make_batcher()
    with batcher._lock, ThreadPoolExecutor(1) as thread:
        assert thread.submit(batcher.hung_s).result(300) is None


def test_runs_go_side_by_side_as_many_as_the_backend_takes(make_batcher: Callable[..., Batcher]) -> None:
    backend = FakeBackend(blocking=True, max_batch_size=1, lanes=2)
    model, batcher = Model(backend), make_batcher()
    futures = [batcher.submit(model, image(51 * i), FAR) for i in range(4)]
    for _ in range(2):
        assert backend.started.acquire(timeout=300)
    assert (batcher.depth, backend.batches) == (2, [1, 1])
    backend.release.release(10)
    assert [future.result(300).scored.score for future in futures] == pytest.approx([0.0, 0.2, 0.4, 0.6])


def test_runs_side_by_side_share_the_device_in_the_estimates(make_batcher: Callable[..., Batcher]) -> None:
    clock, backend = FakeClock(), FakeBackend(blocking=True, max_batch_size=1, lanes=2)
    model, batcher = Model(backend), make_batcher(clock=clock)
    futures = [batcher.submit(model, image(), FAR) for _ in range(2)]
    for _ in range(2):
        assert backend.started.acquire(timeout=300)
    clock.now += 0.2
    backend.release.release(10)
    for future in futures:
        assert future.result(300).model_s == pytest.approx(0.2)
    # Two images in 0.2 s, neither of which would have been back sooner than after 0.2 s.
    assert model.seconds_per_image == pytest.approx(0.1)
    backend.release = threading.Semaphore(0)
    occupy(batcher, model)
    # Beside what runs: nothing to wait for, and half of the device.
    with pytest.raises(OverloadedError, match="the result would take 200 ms"):
        batcher.submit(model, image(), clock.now + 0.19)
    batcher.submit(model, image(), clock.now + 0.21)
    assert backend.started.acquire(timeout=300)
    # Behind both: what they have left, with caution, and half of the device again.
    with pytest.raises(OverloadedError, match="the result would take 460 ms"):
        batcher.submit(model, image(), clock.now + 0.45)
    batcher.submit(model, image(), clock.now + 0.47)
    backend.release.release(10)


def test_only_images_that_are_there_share_the_device(make_batcher: Callable[..., Batcher]) -> None:
    clock, backend = FakeClock(), FakeBackend(blocking=True, max_batch_size=1, lanes=8)
    model, batcher = Model(backend, seconds_per_image=0.01), make_batcher(clock=clock)
    occupy(batcher, model)
    batcher.submit(model, image(), clock.now + 0.021)
    assert backend.started.acquire(timeout=300)
    with pytest.raises(OverloadedError, match="the result would take 30 ms"):
        batcher.submit(model, image(), clock.now + 0.029)
    backend.release.release(10)


def test_a_device_that_hangs_takes_no_more_images_until_it_is_back(make_batcher: Callable[..., Batcher]) -> None:
    clock, backend = FakeClock(), FakeBackend(blocking=True)
    model, batcher = Model(backend), make_batcher(clock=clock)
    running = occupy(batcher, model)
    clock.now += 14
    assert batcher.hung_s() is None
    clock.now += 2
    assert batcher.hung_s() == pytest.approx(16)
    with pytest.raises(BackendError, match="fake has been at one batch for 16 s: restart"):
        batcher.submit(model, image(), FAR)
    backend.release.release(10)
    running.result(300)
    assert batcher.hung_s() is None
    batcher.submit(model, image(), FAR).result(300)


def test_a_run_that_hangs_costs_its_model_alone_where_others_can_go_on(make_batcher: Callable[..., Batcher]) -> None:
    clock, backend = FakeClock(), FakeBackend(blocking=True, lanes=2, replaceable=True)
    model, other, batcher = (
        Model(backend),
        Model(FakeBackend(lanes=2)),
        make_batcher(clock=clock, computed=(cores := FakeClock())),
    )
    hanging = [occupy(batcher, model), occupy(batcher, model)]
    waiting = batcher.submit(model, image(), FAR)
    # The process was stopped, or had no core.
    clock.now += 100
    batcher.give_up_hung()
    assert batcher.lost == 0
    cores.now += 16
    batcher.give_up_hung()
    assert batcher.lost == 2
    assert model.computes_for_ever
    assert batcher.hung_s() is None
    for future in (*hanging, waiting):
        with pytest.raises(BackendError, match="for more than 15 s: the recipe is out of service"):
            future.result(0)
    with pytest.raises(BackendError, match="out of service"):
        batcher.submit(model, image(), FAR)
    assert batcher.submit(other, image(255), FAR).result(300).scored.score == 1.0
    backend.release.release(10)
    wait_for(lambda: batcher.lost == 0)
    assert batcher.submit(other, image(255), FAR).result(300).scored.score == 1.0


def test_a_run_that_waits_for_ever_is_given_up_too(make_batcher: Callable[..., Batcher]) -> None:
    clock, backend = FakeClock(), FakeBackend(blocking=True, replaceable=True)
    model, batcher = Model(backend), make_batcher(clock=clock, computed=FakeClock())
    hanging = occupy(batcher, model)
    clock.now += 121
    batcher.give_up_hung()
    assert isinstance(hanging.exception(0), BackendError)
    assert not model.computes_for_ever, "another process may have more luck"
    backend.release.release(10)
    wait_for(lambda: batcher.lost == 0)


def test_close_gives_up_a_device_that_hangs_and_answers_its_images() -> None:
    backend = FakeBackend(blocking=True)
    model, batcher = Model(backend), Batcher(max_batch=1, queue_size=10)
    futures = [occupy(batcher, model), batcher.submit(model, image(), FAR)]
    batcher.close(hung_s=0.01)
    for future in futures:
        with pytest.raises(BackendError, match="fake hangs"):
            future.result(0)
    backend.release.release(10)
