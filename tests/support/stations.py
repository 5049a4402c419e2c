"""A station in this process, on a backend that a test holds in its hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from bundles import wait_until_loaded
from fakes import FakeBackend, brightness
from fastapi.testclient import TestClient

from service.app import create_app
from service.assembly.parts import Parts
from service.backends.base import Backend
from service.http.context import Station
from service.settings import Settings
from service.station.inspection import Inspection
from service.station.inspector import Inspector

Output = tuple[np.ndarray, np.ndarray]
OFTEN = Parts(check_every_s=0.01)


class Faulty:
    """The brightness backend until `fault` is set."""

    def __init__(self) -> None:
        self.fault: Callable[[np.ndarray, np.ndarray], Any] | None = None
        self.backend = FakeBackend(self._run)

    def _run(self, images: np.ndarray) -> Output:
        maps, scores = brightness(images)
        return self.fault(maps, scores) if self.fault else (maps, scores)

    def lose_device(self) -> None:
        def lost(maps: np.ndarray, scores: np.ndarray) -> Output:
            raise RuntimeError("device lost")

        self.fault = lost

    def recover(self) -> None:
        self.fault = None


def opens(backend: Backend, **seconds: float) -> Parts:
    """The parts of a station that has `backend` for every bundle."""
    return Parts(open_backend=lambda *_, **__: backend, **seconds)


@contextmanager
def station(models: Path, parts: Parts, **settings: Any) -> Iterator[TestClient]:
    """A station without records, unless `settings` say where; it is asked from its own machine."""
    app = create_app(Settings(**({"records_dir": None, "models_dir": models} | settings)), parts)
    address = ("127.0.0.1", 50000)
    with TestClient(app, base_url="http://localhost", client=address, raise_server_exceptions=False) as client:
        wait_until_loaded(client)
        yield client


def built_in(client: TestClient) -> Station:
    """The station behind `client`."""
    found: Station = client.app_state["station"]
    return found


class AfterInspection:
    """The inspector of a station, after which `then` happens before the answer goes out."""

    def __init__(self, inspector: Inspector, then: Callable[[], object]) -> None:
        self._inspector = inspector
        self._then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inspector, name)

    async def inspect_all(self, *given: Any, **options: Any) -> list[Inspection]:
        found = await self._inspector.inspect_all(*given, **options)
        self._then()
        return found


@contextmanager
def after_inspection(client: TestClient, then: Callable[[], object]) -> Iterator[None]:
    """What the station decided meets `then` on its way out."""
    running = built_in(client)
    before = running.inspector
    running.inspector = AfterInspection(before, then)  # type: ignore[assignment]
    try:
        yield
    finally:
        running.inspector = before
