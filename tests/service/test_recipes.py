import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bundles import make_bundle
from fakes import FakeBackend, brightness, no_more_files

from service.backends.base import Backend, BackendError
from service.backends.golden import GoldenError
from service.backends.opening import open_backend
from service.bundle.folder import Bundle
from service.station.batching import Batcher
from service.station.recipes import ActivationError, RecipeNotReadyError, RecipeStore, UnknownRecipeError


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    running = Batcher(max_batch=8, queue_size=8)
    yield running
    running.close()


def _load(models: Path, batcher: Batcher, default: str | None = None) -> RecipeStore:
    store = RecipeStore(models, batcher, lambda bundle: open_backend(bundle, "ort-cpu", threads=1), default=default)
    store.load()
    return store


def test_the_newest_version_is_served(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path, version="10")
    make_bundle(tmp_path, version="9")
    store = _load(tmp_path, batcher)
    assert store.get(None).version == "9"
    assert store.why_not_ready() is None


def test_a_backend_that_misses_the_golden_score_is_not_served(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path, golden_shift=0.01)
    store = _load(tmp_path, batcher)
    with pytest.raises(RecipeNotReadyError, match=r"golden/0\.png: score is off by 1\.00e-02 \(allowed 1e-03\)"):
        store.get("part")


def test_every_run_side_by_side_has_to_reproduce_the_golden_images(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path)
    both = threading.Barrier(2)

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        maps, scores = brightness(images)
        return (maps, scores) if both.wait(30) == 0 else (maps + 0.01, scores)

    store = RecipeStore(tmp_path, batcher, lambda bundle: FakeBackend(run, lanes=2, max_batch_size=1), default=None)
    store.load()
    assert "map by 1.00e-02" in store.failed["part"]


@pytest.mark.parametrize(("max_batch_size", "batches"), [(1, [1, 1]), (4, [1, 2, 3, 4, 1]), (99, [*range(1, 9), 1])])
def test_every_size_of_batch_is_run_before_a_part_is(
    tmp_path: Path, batcher: Batcher, max_batch_size: int, batches: list[int]
) -> None:
    """The last run, of one image, is what the estimate begins with."""
    make_bundle(tmp_path)
    backend = FakeBackend(max_batch_size=max_batch_size)
    store = RecipeStore(tmp_path, batcher, lambda bundle: backend, default=None)
    store.load()
    assert store.why_not_ready() is None
    assert backend.batches == batches


def test_a_backend_that_is_wrong_in_one_size_of_batch_is_not_served(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path)

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        maps, scores = brightness(images)
        if len(images) == 3:
            scores[1] = np.nan
        return maps, scores

    store = RecipeStore(tmp_path, batcher, lambda bundle: FakeBackend(run), default=None)
    store.load()
    assert "golden/0.png, image 2 of a batch of 3: score is off by nan" in store.failed["part"]


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_a_backend_that_misses_the_golden_map_is_not_served(tmp_path: Path, batcher: Batcher, value: float) -> None:
    make_bundle(tmp_path)

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        maps, scores = brightness(images)
        maps[:, 3, 3] = value
        return maps, scores

    backend = FakeBackend(run)
    store = RecipeStore(tmp_path, batcher, lambda bundle: backend, default=None)
    store.load()
    assert "map by" in store.failed["part"]
    assert backend.closed


def test_one_broken_recipe_does_not_stop_the_others(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path, "good")
    make_bundle(tmp_path, "bad").file("model.onnx").write_bytes(b"x")
    store = _load(tmp_path, batcher)
    assert store.get("good").name == "good"
    assert "model.onnx" in store.failed["bad"]
    assert store.why_not_ready() is None
    assert "model.onnx" in str(_load(tmp_path, batcher, default="bad").why_not_ready())


def test_an_error_that_nobody_foresaw_refuses_one_recipe_and_is_logged(
    tmp_path: Path, batcher: Batcher, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b", "c"):
        make_bundle(tmp_path, name)

    def open_model(bundle: Bundle) -> Backend:
        if bundle.manifest.recipe == "b":
            raise ImportError("libcudart.so.13: cannot open shared object file")
        return open_backend(bundle, "ort-cpu", threads=1)

    store = RecipeStore(tmp_path, batcher, open_model, default=None)
    store.load()
    assert store.loaded
    assert sorted(store.ready) == ["a", "c"]
    assert store.failed == {"b": "ImportError: libcudart.so.13: cannot open shared object file"}
    (record,) = caplog.records
    assert record.message == "recipe b is refused"
    assert record.exc_info
    with pytest.raises(ActivationError, match=r"ImportError: libcudart\.so\.13"):
        store.activate("b", "1")


def test_a_shutdown_ends_loading_and_blames_no_recipe(tmp_path: Path) -> None:
    for name in ("cap", "nut"):
        make_bundle(tmp_path, name)
    closed = Batcher(max_batch=8, queue_size=8)
    closed.close()
    opened: list[Bundle] = []

    def open_model(bundle: Bundle) -> FakeBackend:
        opened.append(bundle)
        return FakeBackend()

    store = RecipeStore(tmp_path, closed, open_model, default=None)
    store.load()
    assert (store.loaded, store.ready, store.failed, len(opened)) == (True, {}, {}, 1)


def test_a_refused_model_is_closed_and_kept_warm_no_more(tmp_path: Path) -> None:
    make_bundle(tmp_path, golden_shift=0.01)
    backend, warming = FakeBackend(), Batcher(max_batch=8, queue_size=8, idle_tick_s=0.01)
    store = RecipeStore(tmp_path, warming, lambda bundle: backend, default=None)
    store.load()
    assert backend.closed
    backend.forget_starts()
    assert not backend.started.acquire(timeout=0.2)
    warming.close()


def test_what_is_activated_without_being_recorded_and_shadows_that_end_are_kept_warm_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1", "2"):
        make_bundle(tmp_path, version=version)
    (tmp_path / "part" / "ACTIVE").write_text("1\n")
    backends: list[FakeBackend] = []

    def open_model(bundle: Bundle) -> FakeBackend:
        backends.append(FakeBackend())
        return backends[-1]

    warming = Batcher(max_batch=8, queue_size=8, idle_tick_s=0.01)
    store = RecipeStore(tmp_path, warming, open_model, default=None)
    store.load()
    store.shadow("part", "2")
    store.shadow("part", None)
    monkeypatch.setattr("os.fsync", lambda descriptor: _raise_full_disk())
    with pytest.raises(ActivationError, match="No space left"):
        store.activate("part", "2")
    assert backends[-1].closed
    for backend in backends[1:]:
        backend.forget_starts()
        assert not backend.started.acquire(timeout=0.2)
    warming.close()


def _raise_full_disk() -> None:
    raise OSError(28, "No space left on device")


def test_a_model_whose_run_hangs_is_not_closed_under_it(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    backend, hanging = FakeBackend(blocking=True), Batcher(max_batch=8, queue_size=8)
    store = RecipeStore(tmp_path, hanging, lambda bundle: backend, default=None)
    loading = threading.Thread(target=store.load)
    loading.start()
    assert backend.started.acquire(timeout=300)
    hanging.close(hung_s=0.01)
    loading.join(300)
    assert "fake hangs" in store.failed["part"]
    assert not backend.closed
    backend.release.release(1000)


def test_a_wrong_graph_signature_is_refused(tmp_path: Path, batcher: Batcher) -> None:
    bundle = make_bundle(tmp_path)
    with pytest.raises(BackendError, match=r"one image is \[64, 64, 3\], the manifest says \[32, 64, 3\]"):
        _open_with_height(bundle, 32)


def _open_with_height(bundle: Bundle, height: int) -> Backend:
    spec = bundle.manifest.input.model_copy(update={"height": height})
    return open_backend(Bundle(bundle.path, bundle.manifest.model_copy(update={"input": spec})), "ort-cpu", threads=1)


def test_an_empty_models_folder_says_where_to_put_bundles(tmp_path: Path, batcher: Batcher) -> None:
    store = _load(tmp_path / "nothing", batcher)
    assert "put a bundle at" in str(store.why_not_ready())
    with pytest.raises(UnknownRecipeError, match="there are none"):
        store.get(None)


def test_readiness_waits_for_the_default_recipe(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path, "a")
    shutil.copytree(tmp_path / "a", tmp_path / "copied")
    store = _load(tmp_path, batcher, default="copied")
    assert "do not rename bundles" in str(store.why_not_ready())


def test_activation_rollback_and_restart_keep_the_chosen_version(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path, version="a")
    make_bundle(tmp_path, version="b")
    store = _load(tmp_path, batcher)
    assert store.get("part").version == "b"
    assert store.activate("part", "a").version == "a"
    assert _load(tmp_path, batcher).get("part").version == "a"
    assert store.rollback("part").version == "b"
    assert _load(tmp_path, batcher).get("part").version == "b"


def test_activating_the_version_in_service_keeps_it_over_a_restart(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path, version="a")
    store = _load(tmp_path, batcher)
    assert store.activate("part", "a").version == "a"
    make_bundle(tmp_path, version="b")
    assert _load(tmp_path, batcher).get("part").version == "a"


def test_rollback_serves_the_version_before_one_that_cannot_be_loaded(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path, version="a")
    damaged = make_bundle(tmp_path, version="b")
    store = _load(tmp_path, batcher)
    for version in ("a", "b"):
        store.activate("part", version)
    damaged.file("model.onnx").write_bytes(b"x")
    store = _load(tmp_path, batcher)
    with pytest.raises(RecipeNotReadyError, match=r"model\.onnx"):
        store.get("part")
    assert store.rollback("part").version == "a"
    assert (store.get("part").version, store.failed) == ("a", {})
    assert _load(tmp_path, batcher).get("part").version == "a"


@pytest.mark.parametrize("damage", ["flip", "half", "link", "golden"])
def test_a_version_that_is_refused_leaves_the_old_one_serving(tmp_path: Path, batcher: Batcher, damage: str) -> None:
    make_bundle(tmp_path, version="a")
    store = _load(tmp_path, batcher)
    before = store.get("part")
    bad = make_bundle(tmp_path, version="b", golden_shift=0.01 if damage == "golden" else 0.0)
    model = bad.file("model.onnx")
    if damage == "flip":
        data = bytearray(model.read_bytes())
        data[30] ^= 1
        model.write_bytes(data)
    elif damage == "half":
        bad.file("golden/0.npy").unlink()
    elif damage == "link":
        model.rename(tmp_path / "elsewhere.onnx")
        model.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(ActivationError, match=r"model\.onnx|golden/0"):
        store.activate("part", "b")
    assert store.get("part") is before
    assert _load(tmp_path, batcher).get("part").version == "a"


def test_unknown_versions_and_missing_predecessors_are_named(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path, version="a")
    store = _load(tmp_path, batcher)
    with pytest.raises(ActivationError, match="has no version 'z': choose a"):
        store.activate("part", "z")
    with pytest.raises(ActivationError, match="no version served before this one: activate one of a"):
        store.rollback("part")
    with pytest.raises(UnknownRecipeError, match="no recipe 'nut': choose part"):
        store.rollback("nut")
    with pytest.raises(UnknownRecipeError):
        store.activate("../part", "a")


def test_an_activation_that_cannot_be_recorded_does_not_happen(
    tmp_path: Path, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(tmp_path, version="a")
    make_bundle(tmp_path, version="b")
    store = _load(tmp_path, batcher)

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(ActivationError, match="No space left"):
        store.activate("part", "a")
    assert store.get("part").version == "b"


def test_verification_takes_a_recipe_that_changed_its_mind_out_of_service(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path)
    wrong = False

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        maps, scores = brightness(images)
        return maps, scores + 0.1 if wrong else scores

    store = RecipeStore(tmp_path, batcher, lambda bundle: FakeBackend(run), default=None)
    store.load()
    first = store.get("part").checked
    assert store.verify("part").checked > first
    wrong = True
    with pytest.raises(GoldenError, match=r"score is off by 1\.00e-01"):
        store.verify("part")
    with pytest.raises(RecipeNotReadyError, match="score is off"):
        store.get("part")


def test_golden_images_out_of_reach_for_a_while_say_nothing_about_the_recipe(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path)
    store = _load(tmp_path, batcher)
    with no_more_files():
        with pytest.raises(BackendError, match=r"cannot be read now: .*Too many open files"):
            store.verify("part")
        assert "Too many open files" in store.unchecked["part"]
    assert store.verify("part") is store.get("part")
    assert store.unchecked == {}


@pytest.mark.parametrize("damage", ["cut short", "empty", "text"])
def test_a_golden_image_that_cannot_be_compared_is_a_failed_check(
    tmp_path: Path, batcher: Batcher, damage: str
) -> None:
    """Whatever became of the file since it was loaded: what cannot be checked does not serve."""
    file = make_bundle(tmp_path).file("golden/0.npy")
    store = _load(tmp_path, batcher)
    if damage == "text":
        np.save(file, np.full(np.load(file).shape, "a"))
    else:
        file.write_bytes(file.read_bytes()[: 200 if damage == "cut short" else 0])
    with pytest.raises(GoldenError):
        store.verify("part")
    with pytest.raises(RecipeNotReadyError):
        store.get("part")


def test_only_a_backend_that_fails_run_after_run_asks_for_a_new_process(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path)
    make_bundle(tmp_path, "refused", golden_shift=0.01)
    broken = False

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if broken:
            raise RuntimeError("device lost")
        return brightness(images)

    store = RecipeStore(tmp_path, batcher, lambda bundle: FakeBackend(run), default=None)
    store.load()
    assert list(store.failed) == ["refused"]
    assert store.why_not_alive() is None
    broken = True
    for _ in range(9):
        with pytest.raises(BackendError):
            store.verify("part")
    assert store.why_not_alive() is None
    with pytest.raises(BackendError):
        store.verify("part")
    assert store.why_not_alive() == "the backend failed 10 times in a row for part: restart the service"
    broken = False
    store.verify("part")
    assert store.why_not_alive() is None
