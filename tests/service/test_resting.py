"""Of many recipes a line runs one: the others keep no memory for runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import make_bundle
from fakes import FakeBackend

from service.backends.base import Backend
from service.bundle.folder import Bundle
from service.station.batching import Batcher
from service.station.recipes import RecipeStore


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    running = Batcher(max_batch=8, queue_size=8)
    yield running
    running.close()


@pytest.mark.parametrize(("default", "rested"), [(None, ["a", "b", "c"]), ("b", ["a", "c"])])
def test_of_many_recipes_none_but_the_default_keeps_memory_for_runs(
    tmp_path: Path, batcher: Batcher, default: str | None, rested: list[str]
) -> None:
    for name in ("a", "b", "c"):
        make_bundle(tmp_path, name)
    backends: dict[str, FakeBackend] = {}

    def opened(bundle: Bundle) -> Backend:
        # Each rests before the next is opened: twenty at once would be the most that the start takes.
        assert [name for name in rested if name in backends] == [name for name, one in backends.items() if one.rested]
        return backends.setdefault(bundle.manifest.recipe, FakeBackend())

    store = RecipeStore(tmp_path, batcher, opened, default=default)
    store.load()
    assert sorted(store.ready) == ["a", "b", "c"]
    assert [name for name, backend in backends.items() if backend.rested] == rested


def test_the_only_recipe_is_ready_for_its_first_image(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path)
    backend = FakeBackend()
    RecipeStore(tmp_path, batcher, lambda bundle: backend, default=None).load()
    assert not backend.rested
