from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from bundles import make_bundle, wait_until_loaded
from fastapi.testclient import TestClient

from service.app import create_app
from service.backends.base import BackendError
from service.backends.cuda import Cuda
from service.settings import Settings

_ROOM = 4 * 2**30  # bytes

# A busy machine is no failure: no time limit on examples.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_configure() -> None:
    """Files of tests lie in memory where there is room. No test cuts the power, and a third of a service's test was
    waiting for a disk to have written.
    """
    memory = Path("/dev/shm")  # noqa: S108
    if "PYTEST_DEBUG_TEMPROOT" not in os.environ and memory.is_dir() and os.access(memory, os.W_OK):
        found = os.statvfs(memory)
        if found.f_bavail * found.f_frsize > _ROOM and not found.f_flag & os.ST_NOEXEC:
            os.environ["PYTEST_DEBUG_TEMPROOT"] = str(memory)


def pytest_collection_finish() -> None:
    """What the modules of the tests hold stays to the end: a service looks through all of its memory whenever it loads
    a model, and for each of a thousand services that took a quarter of a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_cache_in_the_checkout(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Real images in MVTec layout; they are not part of the project."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("INSPECT_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}: set INSPECT_TEST_DATA")
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def client(models: Path) -> Iterator[TestClient]:
    """The service with the brightness recipe, ready, asked from its own machine."""
    app = create_app(Settings(records_dir=None, models_dir=models, backend="ort-cpu"))
    address = ("127.0.0.1", 50000)
    with TestClient(app, base_url="http://localhost", client=address, raise_server_exceptions=False) as running:
        wait_until_loaded(running)
        yield running


@pytest.fixture
def demo() -> Path:
    """The recipe that the project ships."""
    return Path(__file__).parents[1] / "models" / "demo" / "1"


@pytest.fixture
def nvidia() -> None:
    """Skips where there is no NVIDIA GPU, saying why."""
    try:
        Cuda().gpu(0)
    except BackendError as error:
        pytest.skip(str(error))
