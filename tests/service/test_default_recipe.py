"""The recipe of requests that name none: a choice that stays, whatever recipes come beside it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import gray, make_bundle, png, wait_until_loaded
from fakes import FakeBackend
from fastapi.testclient import TestClient
from replies import assert_problem, post

from service.app import create_app
from service.settings import Settings
from service.station.batching import Batcher
from service.station.decisions import Decisions
from service.station.recipes import ActivationError, RecipeStore, UnknownRecipeError


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    running = Batcher(max_batch=8, queue_size=8)
    yield running
    running.close()


class _ReadOnly(Decisions):
    """Decisions on a disk that takes none."""

    def write(self, file: Path, about: str, by: str, text: str, content: str) -> None:
        raise OSError(30, "Read-only file system")


def _load(
    models: Path, batcher: Batcher, default: str | None = None, decisions: Decisions | None = None
) -> RecipeStore:
    store = RecipeStore(models, batcher, lambda bundle: FakeBackend(), default=default, decisions=decisions)
    store.load()
    return store


def test_a_second_recipe_leaves_unnamed_requests_at_the_first(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path, "bracket")
    store = _load(tmp_path, batcher)
    make_bundle(tmp_path, "axle")
    for _ in range(2):
        store.follow()
        assert store.get(None).name == "bracket"
    assert store.get("axle").name == "axle"
    assert _load(tmp_path, batcher).get(None).name == "bracket"


def test_where_nothing_can_be_kept_the_default_stays_until_the_next_start(
    tmp_path: Path, batcher: Batcher, caplog: pytest.LogCaptureFixture
) -> None:
    make_bundle(tmp_path, "bracket")
    store = _load(tmp_path, batcher, decisions=_ReadOnly())
    assert "not kept" in store.get("bracket").why
    make_bundle(tmp_path, "axle")
    store.follow()
    store.follow()
    assert (store.get(None).name, store.get("axle").name) == ("bracket", "axle")
    assert "set INSPECT_DEFAULT_RECIPE: [Errno 30]" in caplog.text
    with pytest.raises(UnknownRecipeError, match=r"no default, make one the default with .*: choose axle, bracket"):
        _load(tmp_path, batcher, decisions=_ReadOnly()).get(None)


def test_the_demo_neither_stands_in_for_a_recipe_nor_in_its_way(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path, "demo")
    store = _load(tmp_path, batcher)
    assert store.get(None).name == "demo"
    make_bundle(tmp_path, "bracket")
    store.follow()
    store.follow()
    assert store.get(None).name == "bracket"
    make_bundle(tmp_path, "axle")
    assert _load(tmp_path, batcher).get(None).name == "bracket"


def test_a_default_that_is_gone_is_replaced_by_nothing(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path, "bracket")
    _load(tmp_path, batcher)
    (tmp_path / "bracket").rename(tmp_path.parent / f"{tmp_path.name}-gone")
    make_bundle(tmp_path, "axle")
    make_bundle(tmp_path, "demo")
    store = _load(tmp_path, batcher)
    with pytest.raises(UnknownRecipeError, match="the default, bracket, is not there"):
        store.get(None)
    assert store.make_default("axle", "Ada").name == "axle"
    assert _load(tmp_path, batcher).get(None).name == "axle"


@pytest.mark.parametrize("content", [b"", b"../other\n", b"/etc\n", b"a b c\n", b"\xff\xfea\0", b"x" * 100_000])
def test_a_damaged_default_is_no_default(tmp_path: Path, batcher: Batcher, content: bytes) -> None:
    make_bundle(tmp_path, "bracket")
    (tmp_path / "DEFAULT").write_bytes(content)
    store = _load(tmp_path, batcher)
    with pytest.raises(UnknownRecipeError, match="DEFAULT"):
        store.get(None)
    assert store.get("bracket").name == "bracket"
    store.make_default("bracket", "Ada")
    assert store.get(None).name == "bracket"


def test_the_setting_is_above_every_choice(tmp_path: Path, batcher: Batcher) -> None:
    for name in ("axle", "bracket"):
        make_bundle(tmp_path, name)
    _load(tmp_path, batcher).make_default("axle", "Ada")
    store = _load(tmp_path, batcher, default="bracket")
    assert store.get(None).name == "bracket"
    with pytest.raises(ActivationError, match="INSPECT_DEFAULT_RECIPE is bracket"):
        store.make_default("axle", "Ada")


def test_the_default_is_chosen_and_shown_over_http(models: Path) -> None:
    make_bundle(models, "nut")
    app = create_app(Settings(records_dir=None, models_dir=models, backend="ort-cpu"))
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        wait_until_loaded(client)
        body = assert_problem(post(client, png(gray(51))), 404, "unknown_recipe")
        assert "POST /recipes/<recipe>/default" in str(body["detail"])
        assert [reply["default"] for reply in client.get("/recipes").json()] == [False, False]
        assert_problem(client.post("/recipes/other/default"), 404, "unknown_recipe")
        assert client.post("/recipes/nut/default").json()["recipe"] == "nut"
        assert [reply["default"] for reply in client.get("/recipes").json()] == [True, False]
        assert post(client, png(gray(51))).json()["recipe"] == "nut"
    with TestClient(create_app(Settings(records_dir=None, models_dir=models, backend="ort-cpu"))) as client:
        wait_until_loaded(client)
        assert post(client, png(gray(51))).json()["recipe"] == "nut"
        assert_problem(client.post("/recipes/part/default"), 403, "forbidden")
