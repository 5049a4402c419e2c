"""What decides beside a bundle: who may write the folder of recipes must not decide where keys say otherwise."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bundles import gray, make_bundle, png, wait_until_loaded
from fakes import FakeBackend
from fastapi.testclient import TestClient
from replies import assert_problem, post

from service.app import create_app
from service.bundle.folder import write_bundle
from service.bundle.signing import new_keys, sign
from service.settings import Settings
from service.station.batching import Batcher
from service.station.decisions import Decisions, read_key
from service.station.limits import LimitsChange
from service.station.recipes import ActivationError, RecipeNotReadyError, RecipeStore

KEY = b"k" * 32
DOUBTFUL = png(gray(102))


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    running = Batcher(max_batch=8, queue_size=8)
    yield running
    running.close()


def _load(models: Path, batcher: Batcher, decisions: Decisions | None = None) -> RecipeStore:
    store = RecipeStore(models, batcher, lambda bundle: FakeBackend(), default=None, decisions=decisions)
    store.load()
    return store


def _two_versions(models: Path) -> None:
    for version in ("lax", "strict"):
        make_bundle(models, version=version)


@pytest.mark.parametrize(
    "content",
    [
        *(b"../other/1\n", b"../../etc\n", b"/etc/passwd\n", b"strict/../lax\n", b".\n", b"..\n", b".hidden\n"),
        *(b"", b"\n\n", b"\0\0\0\0", "str\u0131ct".encode(), b"lax strict lax\n", b"la\x1bx\n", b"x" * 65 + b"\n"),
        *("lax\n".encode("utf-16"), b"\xff\n", b"lax\n" * 100_000, b"LAX\n", b"3\n"),
    ],
)
def test_active_names_a_version_of_its_recipe_or_nothing_serves(
    tmp_path: Path, batcher: Batcher, content: bytes
) -> None:
    make_bundle(tmp_path, "other")
    _two_versions(tmp_path)
    (tmp_path / "part" / "ACTIVE").write_bytes(content)
    store = _load(tmp_path, batcher)
    with pytest.raises(RecipeNotReadyError, match="ACTIVE"):
        store.get("part")
    assert store.activate("part", "strict").version == "strict"
    assert _load(tmp_path, batcher).get("part").version == "strict"


@pytest.mark.parametrize("content", [b"lax", b"lax\r\nstrict\r\n", b"\xef\xbb\xbflax\n", b"lax strict\n"])
def test_active_may_be_written_by_hand(tmp_path: Path, batcher: Batcher, content: bytes) -> None:
    _two_versions(tmp_path)
    (tmp_path / "part" / "ACTIVE").write_bytes(content)
    recipe = _load(tmp_path, batcher).get("part")
    assert (recipe.version, recipe.why) == ("lax", "written down by hand")


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_active_is_a_plain_file(tmp_path: Path, batcher: Batcher, kind: str) -> None:
    _two_versions(tmp_path)
    active = tmp_path / "part" / "ACTIVE"
    if kind == "link":
        (tmp_path / "elsewhere").write_text("lax\n")
        active.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        active.mkdir()
    else:
        os.mkfifo(active)
    store = _load(tmp_path, batcher)
    assert "ACTIVE" in store.failed["part"]


def _sealed(tmp_path: Path) -> Decisions:
    return Decisions(key=KEY, ledger=tmp_path / "records" / "decisions.jsonl")


@pytest.mark.parametrize(
    "name",
    [
        *("active", "Active", "ACTIVE.txt", "ACTIVE ", "\uff21\uff23\uff34\uff29\uff36\uff25", "limits-lax.json"),
        *("LIMITS-lax.JSON", "LIMITS-lax.json.txt", "LIMITS.json", "LIMITS-LAX.json"),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_a_decision_under_a_name_that_nobody_reads_is_no_secret(
    tmp_path: Path, batcher: Batcher, name: str, beside: bool
) -> None:
    make_bundle(tmp_path, version="lax")
    if beside:
        assert _load(tmp_path, batcher).ready
        assert (tmp_path / "part" / "ACTIVE").exists()
    written = tmp_path / "part" / name
    written.write_text("lax\n")
    store = _load(tmp_path, batcher)
    assert not store.ready
    assert f"{written}: nobody reads it, and " in store.failed["part"]
    with pytest.raises(ActivationError, match="nobody reads it"):
        store.activate("part", "lax")
    written.unlink()
    assert _load(tmp_path, batcher).ready


def test_what_editors_leave_and_a_recipe_of_that_name_decide_nothing(tmp_path: Path, batcher: Batcher) -> None:
    make_bundle(tmp_path)
    make_bundle(tmp_path, "default", label="default")
    # Limits of another version, of a name that differs in its case alone.
    make_bundle(tmp_path, version="V1", label="V1")
    make_bundle(tmp_path, version="v1", label="v1")
    (tmp_path / "part" / "LIMITS-V1.json").write_text("x")
    for name in ("ACTIVE~", ".ACTIVE.swp", "ACTIVE.bak", "LIMITS-2.json.orig", "LIMITS-2.json"):
        (tmp_path / "part" / name).write_text("lax\n")
    assert _load(tmp_path, batcher).ready.keys() == {"part", "default"}


def test_with_a_key_a_choice_counts_with_its_seal_alone(tmp_path: Path, batcher: Batcher) -> None:
    models = tmp_path / "models"
    _two_versions(models)
    store = _load(models, batcher, _sealed(tmp_path))
    assert store.activate("part", "lax", "Ada").version == "lax"
    active = models / "part" / "ACTIVE"
    sealed = active.read_text()
    assert "by Ada" in _load(models, batcher, _sealed(tmp_path)).get("part").why
    for forged in ("strict\n", sealed.replace("lax", "strict"), sealed.replace("Ada", "Eve"), sealed.split("seal")[0]):
        active.write_text(forged)
        assert "not sealed by this service" in _load(models, batcher, _sealed(tmp_path)).failed["part"]
    active.write_text(sealed)
    other = Decisions(key=b"o" * 32)
    assert "not sealed by this service" in _load(models, batcher, other).failed["part"]
    assert store.activate("part", "strict", "Ada").version == "strict"
    assert _load(models, batcher, _sealed(tmp_path)).get("part").version == "strict"


def test_a_seal_is_of_one_recipe(tmp_path: Path, batcher: Batcher) -> None:
    models = tmp_path / "models"
    for recipe in ("axle", "part"):
        for version in ("lax", "strict"):
            make_bundle(models, recipe, version)
    decisions = Decisions(key=KEY)
    store = _load(models, batcher, decisions)
    store.activate("axle", "lax")
    (models / "part" / "ACTIVE").write_bytes((models / "axle" / "ACTIVE").read_bytes())
    assert "not sealed" in _load(models, batcher, decisions).failed["part"]


def test_an_earlier_choice_that_is_put_back_or_one_that_is_gone_is_noticed(tmp_path: Path, batcher: Batcher) -> None:
    models = tmp_path / "models"
    _two_versions(models)
    store = _load(models, batcher, _sealed(tmp_path))
    store.activate("part", "lax")
    active = models / "part" / "ACTIVE"
    earlier = active.read_text()
    store.activate("part", "strict")
    active.write_text(earlier)
    assert "an earlier decision was put back" in _load(models, batcher, _sealed(tmp_path)).failed["part"]
    active.unlink()
    store = _load(models, batcher, _sealed(tmp_path))
    assert "it is gone" in store.failed["part"]
    assert store.activate("part", "strict").version == "strict"
    # A station without these records knows the seal alone.
    assert _load(models, batcher, Decisions(key=KEY)).get("part").version == "strict"


@pytest.mark.parametrize(
    "attack", ["by hand", "changed", "another version", "put back", "gone", "put back after reset"]
)
def test_with_a_key_limits_count_with_their_seal_alone(tmp_path: Path, batcher: Batcher, attack: str) -> None:
    models = tmp_path / "models"
    _two_versions(models)
    store = _load(models, batcher, _sealed(tmp_path))
    file = models / "part" / "LIMITS-strict.json"
    store.change_limits("part", LimitsChange(review=0.5), "Ada")
    assert _load(models, batcher, _sealed(tmp_path)).get("part").limits.thresholds.review == 0.5
    earlier = file.read_text()
    store.change_limits("part", LimitsChange(review=0.2), "Ada")
    if attack == "by hand":
        changed = json.loads(file.read_text()) | {"review": 0.6}
        file.write_text(json.dumps({name: value for name, value in changed.items() if name != "seal"}))
    elif attack == "changed":
        file.write_text(file.read_text().replace("0.2", "0.6"))
    elif attack == "another version":
        store.activate("part", "lax")
        (models / "part" / "LIMITS-lax.json").write_text(earlier)
    elif attack == "gone":
        file.unlink()
    else:
        if attack == "put back after reset":
            store.reset_limits("part", "Ada")
            assert _load(models, batcher, _sealed(tmp_path)).get("part").limits.change is None
        file.write_text(earlier)
    store = _load(models, batcher, _sealed(tmp_path))
    assert "LIMITS-" in store.failed["part"]
    assert "POST /recipes/part/limits/reset" in store.failed["part"]
    assert store.reset_limits("part", "Ada").limits.change is None
    assert _load(models, batcher, _sealed(tmp_path)).get("part").limits.thresholds.review == 0.3


def test_the_ledger_says_who_decided_and_notices_a_changed_line(
    tmp_path: Path, batcher: Batcher, caplog: pytest.LogCaptureFixture
) -> None:
    models, ledger = tmp_path / "models", tmp_path / "records" / "decisions.jsonl"
    _two_versions(models)
    store = _load(models, batcher, _sealed(tmp_path))
    store.activate("part", "lax", "Ada")
    store.change_limits("part", LimitsChange(review=0.5), "Bo")
    store.reset_limits("part", "Cy")
    entries = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [(entry["by"], entry["about"]) for entry in entries[-3:]] == [
        ("Ada", "the version of part"),
        ("Bo", "the limits of part/lax"),
        ("Cy", "the limits of part/lax"),
    ]
    _load(models, batcher, _sealed(tmp_path))
    assert "not written by this service" not in caplog.text
    whole = ledger.read_text()
    ledger.write_text(whole.replace("Ada", "Eve"))
    _sealed(tmp_path)
    assert "not written by this service" in caplog.text
    caplog.clear()
    ledger.write_text("".join(line for line in whole.splitlines(keepends=True) if "Ada" not in line))
    _sealed(tmp_path)
    assert "a line before it is gone" in caplog.text


def test_a_ledger_that_was_cut_off_or_damaged_is_gone_on_with(
    tmp_path: Path, batcher: Batcher, caplog: pytest.LogCaptureFixture
) -> None:
    models, ledger = tmp_path / "models", tmp_path / "records" / "decisions.jsonl"
    _two_versions(models)
    _load(models, batcher, _sealed(tmp_path)).activate("part", "lax", "Ada")
    earlier = (models / "part" / "ACTIVE").read_text()
    ledger.write_bytes(ledger.read_bytes() + b'{"at": "20\xff')
    _load(models, batcher, _sealed(tmp_path)).activate("part", "strict", "Ada")
    (models / "part" / "ACTIVE").write_text(earlier)
    assert "an earlier decision was put back" in _load(models, batcher, _sealed(tmp_path)).failed["part"]
    assert "not written by this service" in caplog.text


@pytest.mark.parametrize("line", ['{"about": [], "seal": null, "after": ""}', '{"about": "x", "seal": {}, "after": 1}'])
def test_a_ledger_written_by_hand_ends_no_start(tmp_path: Path, caplog: pytest.LogCaptureFixture, line: str) -> None:
    file = tmp_path / "decisions.jsonl"
    file.write_text(line + "\n")
    Decisions(ledger=file)
    assert f"{file}:1: not written by this service" in caplog.text


def test_a_ledger_that_cannot_be_read_ends_the_start_where_decisions_are_sealed_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Decisions(ledger=tmp_path)
    assert f"{tmp_path}: earlier decisions cannot be read there" in caplog.text
    with pytest.raises(OSError, match="Is a directory"):
        Decisions(ledger=tmp_path, key=bytes(32))


def test_a_ledger_that_cannot_be_written_loses_no_decision(
    tmp_path: Path, batcher: Batcher, caplog: pytest.LogCaptureFixture
) -> None:
    _two_versions(tmp_path / "models")
    (tmp_path / "records").write_text("a file where a folder should be")
    store = _load(tmp_path / "models", batcher, Decisions(ledger=None))
    assert store.activate("part", "lax").version == "lax"
    (tmp_path / "records").unlink()
    (tmp_path / "records" / "decisions.jsonl").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        _sealed(tmp_path)


def test_a_secret_that_is_too_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    with pytest.raises(ValueError, match="6 bytes are no secret"):
        read_key(tmp_path / "key")
    with pytest.raises(ValueError, match="no secret"):
        create_app(Settings(records_dir=None, models_dir=tmp_path, seal_key=tmp_path / "key"))


@contextmanager
def _signed(tmp_path: Path, **settings: Any) -> Iterator[TestClient]:
    """A service with two versions, signed by the key that it trusts."""
    if not (tmp_path / "ours.pub").exists():
        new_keys(tmp_path / "ours.pem", tmp_path / "ours.pub")
        for version in ("lax", "strict"):
            bundle = make_bundle(tmp_path / "made", version=version)
            contents = {name: bundle.read(name) for name in bundle.manifest.files}
            write_bundle(tmp_path / "models", sign(bundle.manifest, tmp_path / "ours.pem"), contents)
    app = create_app(
        Settings(
            models_dir=tmp_path / "models",
            trusted_key=tmp_path / "ours.pub",
            records_dir=tmp_path / "records",
            backend="ort-cpu",
            **settings,
        )
    )
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        wait_until_loaded(client)
        yield client


def test_signed_bundles_without_a_secret_leave_nothing_to_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "part"
    with _signed(tmp_path) as client:
        assert post(client, DOUBTFUL).json()["version"] == "strict"
        for path in ("activate?version=lax", "default"):
            body = assert_problem(client.post(f"/recipes/part/{path}"), 409, "activation_failed")
            assert "set INSPECT_SEAL_KEY" in str(body["detail"])
        body = assert_problem(client.patch("/recipes/part/limits", json={"review": 0.5}), 409, "limits_refused")
        assert "set INSPECT_SEAL_KEY" in str(body["detail"])
        assert post(client, DOUBTFUL).json()["verdict"] == "REVIEW"
        assert sorted(path.name for path in folder.iterdir()) == ["lax", "strict"]
    loose = {"version": "strict", "changed": "2026-01-01T00:00:00Z", "by": "nobody", "review": 0.5, "quality": {}}
    for name, content in (("ACTIVE", "lax\n"), ("LIMITS-strict.json", json.dumps(loose))):
        (folder / name).write_text(content)
        with _signed(tmp_path) as client:
            assert f"{name}: this service takes signed bundles only" in client.get("/readyz").json()["reason"]
            assert_problem(post(client, DOUBTFUL), 409, "recipe_not_ready")
        (folder / name).unlink()


def test_signed_bundles_with_a_secret_are_chosen_and_changed_by_administrators(tmp_path: Path) -> None:
    (tmp_path / "seal").write_text(secrets.token_hex(32))
    with _signed(tmp_path, seal_key=tmp_path / "seal") as client:
        assert client.post("/recipes/part/activate", params={"version": "lax"}).json()["version"] == "lax"
        assert client.patch("/recipes/part/limits", json={"review": 0.5}).json()["limits"]["source"] == "changed"
    with _signed(tmp_path, seal_key=tmp_path / "seal") as client:
        reply = post(client, DOUBTFUL).json()
        assert (reply["version"], reply["verdict"]) == ("lax", "OK")
    (tmp_path / "models" / "part" / "ACTIVE").write_text("strict\n")
    with _signed(tmp_path, seal_key=tmp_path / "seal") as client:
        assert_problem(post(client, DOUBTFUL), 409, "recipe_not_ready")
        with pytest.raises(AssertionError):
            assert client.get("/readyz").status_code == 200


def test_the_log_of_decisions_is_there_without_a_key_too(tmp_path: Path, batcher: Batcher) -> None:
    _two_versions(tmp_path / "models")
    ledger = tmp_path / "records" / "decisions.jsonl"
    store = _load(tmp_path / "models", batcher, Decisions(ledger=ledger))
    store.activate("part", "lax", "Ada")
    with pytest.raises(ActivationError):
        store.activate("part", "lost", "Ada")
    assert [json.loads(line)["by"] for line in ledger.read_text().splitlines()][-1] == "Ada"
