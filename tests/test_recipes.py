import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import make_bundle
from fakes import FakeBackend, brightness

from service.backends import Backend, BackendError, open_backend
from service.batching import Batcher
from service.bundle import Bundle
from service.golden import GoldenError
from service.recipes import ActivationError, RecipeNotReadyError, RecipeStore, UnknownRecipeError


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
    assert not (tmp_path / "part" / "ACTIVE").exists()


def test_unknown_versions_and_missing_predecessors_are_named(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path, version="a")
    store = _load(tmp_path, batcher)
    with pytest.raises(ActivationError, match="has no version 'z': choose a"):
        store.activate("part", "z")
    with pytest.raises(ActivationError, match="no version served before"):
        store.rollback("part")
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
