"""Changes on disks that fail: what the caller is told and what is on disk agree, and nothing is left behind."""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bundles import gray, make_bundle, png, wait_until_loaded
from fakes import FakeBackend
from fastapi.testclient import TestClient
from replies import assert_problem, post

from service.app import create_app
from service.bundle.files import remove_file, remove_leftovers, replace_file
from service.bundle.folder import write_bundle
from service.settings import Settings
from service.station.batching import Batcher
from service.station.recipes import ActivationError, RecipeStore

DOUBTFUL = png(gray(102))
Patch = pytest.MonkeyPatch


def _fail_folder_sync(monkeypatch: Patch, code: int) -> None:
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    monkeypatch.setattr("os.fsync", fsync)


def _fail_file_sync(monkeypatch: Patch, code: int) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fsync", fsync)


def _fail_rename(monkeypatch: Patch, code: int) -> None:
    def replace(path: Path, target: Path) -> Path:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "replace", replace)


def _fail_open(monkeypatch: Patch, code: int) -> None:
    opened = Path.open

    def open_file(path: Path, mode: str = "r", *rest: object, **options: object) -> object:
        if mode.startswith("x"):
            raise OSError(code, os.strerror(code))
        return opened(path, mode, *rest, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", open_file)


FAILURES: dict[str, tuple[Callable[[Patch, int], None], int]] = {
    "folder not written through": (_fail_folder_sync, errno.EIO),
    "disk full at the end": (_fail_file_sync, errno.ENOSPC),
    "quota": (_fail_file_sync, errno.EDQUOT),
    "rename": (_fail_rename, errno.EACCES),
    "read-only": (_fail_open, errno.EROFS),
    "no right": (_fail_open, errno.EACCES),
}


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF])
def test_a_folder_that_cannot_be_written_through_is_no_refusal(models: Path, monkeypatch: Patch, code: int) -> None:
    """SMB, VirtualBox, FUSE."""
    make_bundle(models, version="2")
    _fail_folder_sync(monkeypatch, code)
    settings = Settings(records_dir=None, models_dir=models, backend="ort-cpu")
    with TestClient(create_app(settings), base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        wait_until_loaded(client)
        assert client.post("/recipes/part/activate", params={"version": "1"}).json()["version"] == "1"
        assert client.patch("/recipes/part/limits", json={"review": 0.5}).json()["limits"]["source"] == "changed"
    with TestClient(create_app(settings)) as client:
        wait_until_loaded(client)
        reply = post(client, DOUBTFUL).json()
        assert (reply["version"], reply["limits"]["source"]) == ("1", "changed")
    made = make_bundle(models, version="3")
    assert made.path.is_dir()


@pytest.mark.parametrize("failure", FAILURES)
def test_a_refused_change_is_not_there_after_a_restart(models: Path, monkeypatch: Patch, failure: str) -> None:
    make_bundle(models, version="2")
    settings = Settings(records_dir=None, models_dir=models, backend="ort-cpu")

    def decide(client: TestClient) -> None:
        path = "/recipes/part"
        assert_problem(client.post(f"{path}/activate", params={"version": "1"}), 409, "activation_failed")
        assert_problem(client.patch(f"{path}/limits", json={"review": 0.9}), 409, "limits_refused")
        assert_problem(client.post(f"{path}/default"), 409, "activation_failed")

    with TestClient(create_app(settings), base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        wait_until_loaded(client)
        assert client.patch("/recipes/part/limits", json={"review": 0.2}).status_code == 200
        before = {path: path.read_bytes() for path in models.rglob("*") if path.is_file()}
        with monkeypatch.context() as patched:
            fail, code = FAILURES[failure]
            fail(patched, code)
            decide(client)
        assert {path: path.read_bytes() for path in models.rglob("*") if path.is_file()} == before
        serving = post(client, DOUBTFUL).json()
    with TestClient(create_app(settings)) as client:
        wait_until_loaded(client)
        after = post(client, DOUBTFUL).json()
    assert (after["version"], after["thresholds"]) == (serving["version"], serving["thresholds"])
    assert (after["version"], after["thresholds"]["review"]) == ("2", 0.2)


def test_limits_that_cannot_be_taken_back_stay(models: Path, monkeypatch: Patch) -> None:
    settings = Settings(records_dir=None, models_dir=models, backend="ort-cpu")
    with TestClient(create_app(settings), base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        wait_until_loaded(client)
        client.patch("/recipes/part/limits", json={"review": 0.2})
        with monkeypatch.context() as patched:
            _fail_folder_sync(patched, errno.EIO)
            assert_problem(client.post("/recipes/part/limits/reset"), 409, "activation_failed")
        assert post(client, DOUBTFUL).json()["thresholds"]["review"] == 0.2
    with TestClient(create_app(settings)) as client:
        wait_until_loaded(client)
        assert post(client, DOUBTFUL).json()["thresholds"]["review"] == 0.2


def test_a_change_that_cannot_be_undone_is_not_called_refused(
    tmp_path: Path, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "ACTIVE"
    file.write_text("old")
    _fail_folder_sync(monkeypatch, errno.EIO)
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
    replace_file(file, "new")
    assert file.read_text() == "new"
    assert "not yet safe from a power cut" in caplog.text


@pytest.mark.parametrize("failure", FAILURES)
def test_a_file_that_was_not_replaced_has_its_old_text_and_no_company(
    tmp_path: Path, monkeypatch: Patch, failure: str
) -> None:
    file = tmp_path / "new"
    fail, code = FAILURES[failure]
    with monkeypatch.context() as patched:
        fail(patched, code)
        with pytest.raises(OSError, match=os.strerror(code)):
            replace_file(file, "text")
    assert not list(tmp_path.iterdir())
    replace_file(file, "text")
    remove_file(file)
    remove_file(file)
    assert not list(tmp_path.iterdir())


def test_a_version_whose_folder_is_not_written_through_is_not_there(tmp_path: Path, monkeypatch: Patch) -> None:
    made = make_bundle(tmp_path / "made")
    contents = {name: made.read(name) for name in made.manifest.files}
    with monkeypatch.context() as patched:
        _fail_folder_sync(patched, errno.EIO)
        with pytest.raises(OSError, match="Input/output"):
            write_bundle(tmp_path, made.manifest, contents)
    assert not list((tmp_path / "part").iterdir())
    assert write_bundle(tmp_path, made.manifest, contents).path.is_dir()


def test_what_a_writer_left_behind_is_removed_once_it_is_nobodys(tmp_path: Path) -> None:
    old, young, other = (tmp_path / name for name in (".ACTIVE.1a2b3c4d.new", ".DEFAULT.1a2b3c4d.new", "notes.new"))
    for file in (old, young, other):
        file.write_text("1\n")
    os.utime(old, (time.time() - 3600, time.time() - 3600))
    os.utime(other, (0, 0))
    remove_leftovers(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [young.name, other.name]


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    running = Batcher(max_batch=8, queue_size=8)
    yield running
    running.close()


def test_an_activation_that_is_refused_leaves_memory_and_disk_as_they_were(
    tmp_path: Path, batcher: Batcher, monkeypatch: Patch
) -> None:
    for version in ("a", "b"):
        make_bundle(tmp_path, version=version)
    store = RecipeStore(tmp_path, batcher, lambda bundle: FakeBackend(), default=None)
    store.load()
    before = store.get("part")
    with monkeypatch.context() as patched:
        _fail_folder_sync(patched, errno.EIO)
        with pytest.raises(ActivationError, match="Input/output"):
            store.activate("part", "a")
    assert store.get("part") is before
    again = RecipeStore(tmp_path, batcher, lambda bundle: FakeBackend(), default=None)
    again.load()
    assert again.get("part").version == "b"
