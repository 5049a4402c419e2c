"""Which version serves: damage, copies, litter and clocks never change it without a word."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bundles import gray, make_bundle, png, wait_until_loaded
from fakes import FakeBackend, wait_for
from fastapi.testclient import TestClient
from replies import assert_problem, post
from stations import OFTEN, station

from service.app import create_app
from service.bundle.folder import read_bundle, write_bundle
from service.bundle.manifest import MANIFEST, BundleError, parse_manifest
from service.bundle.versions import survey_recipe
from service.settings import Settings
from service.station.batching import Batcher
from service.station.recipes import ActivationError, RecipeStore

DAMAGES = {
    "cut in half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "no date": lambda data: data.replace(b'"created"', b'"kreated"'),
    "another date": lambda data: _with(data, created="yesterday"),
    "another version": lambda data: _with(data, version="0"),
    "garbage": lambda data: bytes(reversed(data)),
    "not UTF-8": lambda data: data.replace(b"draem", b"dr\xffem"),
    "nested": lambda data: b"[" * 100_000,
    "NaN": lambda data: data.replace(b'"metrics": null', b'"metrics": {"loss": NaN}'),
    "infinite": lambda data: data.replace(b'"metrics": null', b'"metrics": {"loss": 1e999}'),
    "twice": lambda data: data.replace(b'"recipe"', b'"version": "0", "recipe"'),
}


def _with(data: bytes, **values: object) -> bytes:
    return json.dumps(json.loads(data) | values).encode()


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    running = Batcher(max_batch=8, queue_size=8)
    yield running
    running.close()


def _load(models: Path, batcher: Batcher, **options: object) -> RecipeStore:
    store = RecipeStore(models, batcher, lambda bundle: FakeBackend(), default=None, **options)  # type: ignore[arg-type]
    store.load()
    return store


def _created(bundle: Path, created: str) -> None:
    (bundle / MANIFEST).write_bytes(_with((bundle / MANIFEST).read_bytes(), created=created))


@pytest.mark.parametrize("kind", ["pipe", "gigabytes", "folder"])
def test_what_stands_in_the_place_of_a_manifest_stops_no_other_recipe(
    tmp_path: Path, batcher: Batcher, kind: str
) -> None:
    """A pipe that nobody writes to would be waited for, and a file without an end takes the memory."""
    make_bundle(tmp_path, "sound")
    file = make_bundle(tmp_path, "odd").path / MANIFEST
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        with file.open("wb") as stream:
            stream.truncate(2**40)
    store = _load(tmp_path, batcher)
    assert list(store.ready) == ["sound"]
    assert str(file) in store.failed["odd"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_version_makes_no_older_one_serve(tmp_path: Path, batcher: Batcher, damage: str) -> None:
    make_bundle(tmp_path, version="lax", review=0.9, reject=0.95)
    newest = make_bundle(tmp_path, version="strict").path / MANIFEST
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))
    store = _load(tmp_path, batcher)
    assert not store.ready
    assert "which version of part is the newest is not known" in store.failed["part"]
    assert "strict" in store.failed["part"]
    assert "activate lax" in str(store.why_not_ready())
    assert store.activate("part", "lax").version == "lax"
    assert _load(tmp_path, batcher).get("part").version == "lax"


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_served_goes_on_serving_whatever_becomes_of_newer_ones(
    tmp_path: Path, batcher: Batcher, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_bundle(tmp_path, version="a")
    assert "the first start, as the newest" in _load(tmp_path, batcher).get("part").why
    newer = make_bundle(tmp_path, version="b").path / MANIFEST
    store = _load(tmp_path, batcher)
    assert store.get("part").version == "a"
    assert "version a serves; newer, not active: b" in caplog.text
    newer.write_bytes(DAMAGES[damage](newer.read_bytes()))
    store = _load(tmp_path, batcher)
    assert store.get("part").version == "a"
    assert "recipe part: version b cannot serve" in caplog.text


def test_the_station_says_everywhere_which_version_it_does_not_know(models: Path) -> None:
    newest = make_bundle(models, version="2").path / MANIFEST
    newest.write_bytes(newest.read_bytes()[:100])
    with TestClient(create_app(Settings(records_dir=None, models_dir=models))) as client:
        wait_until_loaded(client)
        assert client.get("/readyz").status_code == 503
        assert "part/2/manifest.json" in client.get("/readyz").json()["reason"]
        (reply,) = client.get("/recipes").json()
        assert (reply["ready"], reply["versions"], list(reply["faulty"])) == (False, ["1", "2"], ["2"])
        assert 'inspect_recipe_ready{recipe="part"} 0.0' in client.get("/metrics").text
        assert_problem(post(client, png(gray(51))), 409, "recipe_not_ready")


def test_age_is_an_instant_whatever_the_time_zone(tmp_path: Path, batcher: Batcher) -> None:
    for version, created in (
        ("tokyo", "2026-01-02T08:00:00+09:00"),
        ("utc", "2026-01-01T23:30:00Z"),
        ("before-zones", "2026-01-01T23:10:00"),
        ("new-york", "2026-01-01T20:00:00-05:00"),
    ):
        _created(make_bundle(tmp_path, version=version).path, created)
    shelf = survey_recipe(tmp_path / "part")
    assert shelf.names == ["tokyo", "before-zones", "utc", "new-york"]
    assert shelf.newer_than("before-zones") == ["utc", "new-york"]
    assert _load(tmp_path, batcher).get("part").version == "new-york"


def test_a_new_version_has_a_time_zone_and_a_name_of_its_own(tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "made")
    contents = {name: made.read(name) for name in made.manifest.files}
    naive = made.manifest.model_copy(update={"created": datetime(2026, 1, 2)})
    with pytest.raises(BundleError, match="has no time zone"):
        write_bundle(tmp_path, naive, contents)
    for name in ("ACTIVE", "LIMITS-1.json"):
        with pytest.raises(BundleError, match="says what serves: choose another --version"):
            write_bundle(tmp_path, made.manifest.model_copy(update={"version": name}), contents)
    assert not (tmp_path / "part").exists()


def test_files_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    manifest = json.loads((make_bundle(tmp_path).path / MANIFEST).read_text())
    manifest["files"]["Model.onnx"] = manifest["files"]["model.onnx"]
    with pytest.raises(BundleError, match=r"model\.onnx and Model\.onnx are one file where case"):
        parse_manifest(json.dumps(manifest).encode(), "m")


def test_a_manifest_without_end_is_refused_unread() -> None:
    with pytest.raises(BundleError, match="no manifest is longer"):
        parse_manifest(b" " * (32 * 1024 * 1024 + 1), "m")


@pytest.mark.parametrize(
    "litter",
    ["Thumbs.db", ".DS_Store", "desktop.ini", "._model.onnx", ".manifest.json.swp", "golden/Thumbs.db", "@eaDir/x/y"],
)
def test_litter_is_passed_over_and_said(
    tmp_path: Path, batcher: Batcher, litter: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = make_bundle(tmp_path).path / litter
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"\0")
    assert _load(tmp_path, batcher).get("part").version == "1"
    assert "is passed over: no part of the bundle" in caplog.text


@pytest.mark.parametrize(
    "name", ["notes.txt", "thumbs.db.onnx", "model.onnx.swp", "model.onnx.bak", ".env", "@eadir/x", "DS_Store"]
)
def test_everything_else_in_a_bundle_is_refused(tmp_path: Path, name: str) -> None:
    bundle = make_bundle(tmp_path)
    (bundle.path / name).parent.mkdir(exist_ok=True)
    (bundle.path / name).write_bytes(b"")
    with pytest.raises(BundleError, match="not listed in manifest"):
        read_bundle(bundle.path)


def test_a_link_with_the_name_of_litter_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    (bundle.path / "Thumbs.db").symlink_to("/dev/null")
    with pytest.raises(BundleError, match="symbolic links"):
        read_bundle(bundle.path)


@pytest.mark.parametrize("copied", ["1 (copy)", "1-copy", "Copy of 1", "0"])
def test_a_copy_beside_a_version_changes_nothing(
    tmp_path: Path, batcher: Batcher, copied: str, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(make_bundle(tmp_path).path, tmp_path / "part" / copied)
    store = _load(tmp_path, batcher)
    assert store.get("part").version == "1"
    assert store.folder.shelf("part").names == ["1"]
    assert f"part/{copied} is passed over" in caplog.text


@pytest.mark.parametrize("copied", ["part (copy)", "@eaDir", "lost+found"])
def test_a_copy_of_a_recipe_is_no_recipe(tmp_path: Path, batcher: Batcher, copied: str) -> None:
    make_bundle(tmp_path)
    shutil.copytree(tmp_path / "part", tmp_path / copied)
    store = _load(tmp_path, batcher)
    assert (list(store.ready), store.failed, store.get(None).name) == (["part"], {}, "part")


def _without_manifest(bundle: Path) -> Callable[[], None]:
    file = bundle / MANIFEST
    data = file.read_bytes()
    file.unlink()
    return lambda: file.write_bytes(data) and None


def _without_model(bundle: Path) -> Callable[[], None]:
    file = bundle / "model.onnx"
    data = file.read_bytes()
    file.write_bytes(data[:50])
    return lambda: file.write_bytes(data) and None


@pytest.mark.parametrize("half", [_without_manifest, _without_model])
def test_a_half_copied_newest_version_serves_once_it_is_whole(
    tmp_path: Path, batcher: Batcher, half: Callable[[Path], Callable[[], None]]
) -> None:
    make_bundle(tmp_path, version="a")
    finish = half(make_bundle(tmp_path, version="b").path)
    store = _load(tmp_path, batcher)
    assert "part" in store.failed
    assert [store.follow(), store.follow()] == [[], []]
    finish()
    # Once it is seen to have changed, and once more to stand still.
    assert [store.follow(), store.follow()] == [[], ["part"]]
    assert (store.get("part").version, store.failed) == ("b", {})
    assert store.follow() == []


@pytest.mark.parametrize("half", [_without_manifest, _without_model])
def test_a_half_copied_newer_version_stops_nothing(
    tmp_path: Path, batcher: Batcher, half: Callable[[Path], Callable[[], None]]
) -> None:
    make_bundle(tmp_path, version="a")
    _load(tmp_path, batcher)
    finish = half(make_bundle(tmp_path, version="b").path)
    store = _load(tmp_path, batcher)
    assert (store.get("part").version, store.why_not_ready()) == ("a", None)
    with pytest.raises(ActivationError):
        store.activate("part", "b")
    finish()
    assert store.folder.shelf("part").newer_than("a") == ["b"]
    assert store.activate("part", "b").version == "b"


def test_recipes_come_go_and_are_repaired_while_the_service_runs(tmp_path: Path, batcher: Batcher) -> None:
    store = _load(tmp_path / "models", batcher)
    assert "put a bundle at" in str(store.why_not_ready())
    bundle = make_bundle(tmp_path / "models", golden_shift=0.01)
    assert store.follow() == []
    assert "once its files stand still" in str(store.why_not_ready())
    assert store.follow() == ["part"]
    assert "score is off" in str(store.why_not_ready())
    assert store.follow() == []
    shutil.rmtree(bundle.path.parent)
    store.follow()
    assert "put a bundle at" in str(store.why_not_ready())
    make_bundle(tmp_path / "models")
    store.follow()
    store.follow()
    assert (store.why_not_ready(), store.get(None).version) == (None, "1")


def test_the_service_looks_by_itself(models: Path) -> None:
    with station(models, OFTEN, backend="ort-cpu") as client:
        make_bundle(models, "nut")
        make_bundle(models, version="2")
        wait_for(lambda: [reply["ready"] for reply in client.get("/recipes").json()] == [True, True])
        replies = client.get("/recipes").json()
        assert [(reply["recipe"], reply["version"], reply["newer"]) for reply in replies] == [
            ("nut", "1", []),
            ("part", "1", ["2"]),
        ]
        assert "the first start, as the newest" in replies[1]["why"]
        newer = 'inspect_recipe_versions{recipe="part",state="newer"} 1.0'
        wait_for(lambda: newer in client.get("/metrics").text)


def test_a_folder_that_is_away_for_a_moment_takes_nothing_from_service(tmp_path: Path, batcher: Batcher) -> None:
    models = tmp_path / "models"
    make_bundle(models)
    store = _load(models, batcher)
    models.rename(tmp_path / "away")
    store.follow()
    assert store.get(None).version == "1"
    (tmp_path / "away").rename(models)
    store.follow()
    assert (store.get(None).version, store.failed) == ("1", {})


def test_an_older_version_is_activated_only_where_that_is_allowed(tmp_path: Path, batcher: Batcher) -> None:
    for version in ("a", "b", "c"):
        make_bundle(tmp_path, version=version)
    (tmp_path / "part" / "ACTIVE").write_text("b\na\n")
    store = _load(tmp_path, batcher, forbid_older=True)
    for refused in (lambda: store.activate("part", "a"), lambda: store.rollback("part")):
        with pytest.raises(ActivationError, match=r"'a' is not newer than 'b', as INSPECT_FORBID_OLDER wants it"):
            refused()
    assert store.activate("part", "b").version == "b"
    assert store.activate("part", "c").version == "c"
    assert _load(tmp_path, batcher).rollback("part").version == "b"


def test_a_time_in_the_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    """A signature is of it: a time without a zone stays one, and is compared as UTC."""
    bundle = make_bundle(tmp_path)
    _created(bundle.path, "2026-01-02T03:04:05")
    manifest = read_bundle(bundle.path).manifest
    assert manifest.created.tzinfo is None
    assert manifest.created_utc == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert bundle.manifest.created_utc - manifest.created_utc > timedelta(0)
