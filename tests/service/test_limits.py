"""Limits that are changed without a new version: kept, shown, taken back, and never passed over."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bundles import gray, make_bundle, png, wait_until_loaded
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from replies import assert_problem, post

from service.app import create_app
from service.bundle.folder import read_manifest
from service.http.access import new_key
from service.settings import Settings
from service.station.decisions import Decisions
from service.station.limits import Limits, LimitsChange, LimitsError, StoredChange, change_limits, read_limits

LIMITS = "/recipes/part/limits"
RESET = "/recipes/part/limits/reset"
DOUBTFUL = png(gray(102))


@contextmanager
def _service(models: Path, **settings: Any) -> Iterator[TestClient]:
    app = create_app(Settings(records_dir=None, models_dir=models, **settings))
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        wait_until_loaded(client)
        yield client


def test_a_change_is_judged_by_shown_everywhere_and_taken_back(client: TestClient) -> None:
    before = post(client, DOUBTFUL).json()
    assert (before["verdict"], before["limits"]["source"]) == ("REVIEW", "manifest")
    reply = client.patch(LIMITS, json={"review": 0.5, "min_area": 7}).json()
    assert reply["thresholds"] == {"review": 0.5, "reject": 0.6, "pixel": 0.5, "min_area": 7}
    assert (reply["limits"]["source"], reply["limits"]["by"]) == ("changed", "this machine")
    after = post(client, DOUBTFUL).json()
    assert (after["verdict"], after["limits"]) == ("OK", reply["limits"])
    assert after["thresholds"] == reply["thresholds"]
    assert post(client, DOUBTFUL, headers={"Accept": "image/png"}).headers["x-limits"] == "changed"
    for found in (client.get("/recipes").json()[0], client.get("/state").json()["recipes"][0]):
        assert found["limits"]["changed"] == reply["limits"]["changed"]
    batch = client.post("/inspect/batch", files={"image": DOUBTFUL}).json()
    assert batch[0]["limits"]["source"] == "changed"
    assert client.post(RESET).json()["limits"]["source"] == "manifest"
    assert post(client, DOUBTFUL).json()["verdict"] == "REVIEW"


def test_changes_add_up_null_takes_one_back_and_none_left_is_the_manifest(client: TestClient, models: Path) -> None:
    client.patch(LIMITS, json={"review": 0.5, "quality": {"brightness_min": 5.0}})
    reply = client.patch(LIMITS, json={"reject": 0.7, "quality": {"brightness_max": 250}}).json()
    assert (reply["thresholds"]["review"], reply["thresholds"]["reject"]) == (0.5, 0.7)
    assert (reply["quality"]["brightness_min"], reply["quality"]["brightness_max"]) == (5.0, 250.0)
    reply = client.patch(LIMITS, json={"review": None, "reject": None, "quality": {"brightness_max": None}}).json()
    assert (reply["thresholds"]["review"], reply["quality"]["brightness_max"]) == (0.3, 245.0)
    assert reply["limits"]["source"] == "changed"
    reply = client.patch(LIMITS, json={"quality": {"brightness_min": None}}).json()
    assert reply["limits"]["source"] == "manifest"
    assert not list(models.glob("part/LIMITS*"))


def test_quality_limits_take_effect(client: TestClient) -> None:
    client.patch(LIMITS, json={"quality": {"brightness_max": 100.0}})
    reply = post(client, DOUBTFUL).json()
    assert reply["verdict"] == "NOT_INSPECTED"
    assert "above 100" in reply["faults"][0]


@pytest.mark.parametrize(
    ("change", "status", "named"),
    [
        ({"review": 0.7}, 409, "thresholds.review 0.7 is above thresholds.reject 0.6"),
        ({"reject": 0.2}, 409, "above"),
        ({"review": 1.5}, 422, "review"),
        ({"review": "0.2"}, 422, "review"),
        ({"min_area": 1.5}, 422, "min_area"),
        ({"min_area": -1}, 422, "min_area"),
        ({"reveiw": 0.2}, 422, "reveiw"),
        ({"quality": {"sharpnes_min": 1.0}}, 422, "sharpnes_min"),
        ({"quality": {"dark_max": 2.0}}, 409, "dark_max"),
        ({"quality": {"brightness_min": 200.0, "brightness_max": 100.0}}, 409, "brightness_min 200.0 is above"),
    ],
)
def test_limits_that_make_no_sense_change_nothing(
    client: TestClient, models: Path, change: dict[str, Any], status: int, named: str
) -> None:
    before = client.get("/recipes").json()
    code = {409: "limits_refused", 422: "invalid_request"}[status]
    assert named in str(assert_problem(client.patch(LIMITS, json=change), status, code)["detail"])
    assert client.get("/recipes").json() == before
    assert not list(models.glob("part/LIMITS*"))


def test_a_change_survives_a_restart_and_belongs_to_its_version(models: Path) -> None:
    make_bundle(models, version="2")
    with _service(models) as client:
        assert client.patch(LIMITS, json={"review": 0.5}).json()["version"] == "2"
    with _service(models) as client:
        reply = client.get("/recipes").json()[0]
        assert (reply["version"], reply["thresholds"]["review"]) == ("2", 0.5)
        assert client.post("/recipes/part/activate", params={"version": "1"}).json()["limits"]["source"] == "manifest"
        assert client.post("/recipes/part/rollback").json()["thresholds"]["review"] == 0.5


def test_a_limit_that_stands_twice_in_the_file_is_none(models: Path) -> None:
    """Of two values one would be passed over, perhaps the one that was meant."""
    stored = {"version": "1", "changed": "2026-01-02T12:00:00Z", "by": "Ada"}
    text = json.dumps(stored)[:-1] + ', "review": 0.01, "review": 0.02}'
    (models / "part" / "LIMITS-1.json").write_text(text)
    with pytest.raises(LimitsError, match=r"LIMITS-1\.json: 'review' stands there twice: repair it"):
        read_limits(models / "part", read_manifest(models / "part" / "1"), Decisions())


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"review": 0.5}', "review", "other version", "unknown", "above"],
)
def test_a_damaged_file_takes_the_recipe_out_of_service_until_it_is_reset(models: Path, text: str) -> None:
    with _service(models) as client:
        client.patch(LIMITS, json={"review": 0.5})
    (file,) = models.glob("part/LIMITS-1.json")
    good = json.loads(file.read_text())
    damaged = {
        "review": {"review": "0.5"},
        "other version": {"version": "2"},
        "unknown": {"rewiev": 0.5},
        "above": {"review": 0.9},
    }
    file.write_text(json.dumps(good | damaged[text]) if text in damaged else text)
    with _service(models) as client:
        body = assert_problem(post(client, DOUBTFUL), 409, "recipe_not_ready")
        assert "LIMITS-1.json" in str(body["detail"])
        assert "POST /recipes/part/limits/reset" in str(body["detail"])
        assert client.get("/readyz").status_code == 503
        assert client.post(RESET).json()["limits"]["source"] == "manifest"
        assert post(client, DOUBTFUL).json()["verdict"] == "REVIEW"
        assert client.get("/readyz").status_code == 200


def test_only_administrators_change_limits_and_the_log_says_who(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (admin, first), (camera, second) = new_key("admin", "Ada from quality"), new_key("inspect", "camera 4")
    (tmp_path / "keys").write_text(f"{first}\n{second}\n")
    with _service(models, api_keys_file=tmp_path / "keys") as client:
        assert_problem(client.patch(LIMITS, json={"review": 0.5}), 401, "unauthorized")
        assert_problem(client.patch(LIMITS, json={"review": 0.5}, headers={"X-API-Key": camera}), 403, "forbidden")
        assert_problem(client.post(RESET, headers={"X-API-Key": camera}), 403, "forbidden")
        with caplog.at_level(logging.WARNING):
            reply = client.patch(LIMITS, json={"review": 0.5}, headers={"X-API-Key": admin}).json()
            client.post(RESET, headers={"X-API-Key": admin})
    assert reply["limits"]["by"] == "Ada from quality"
    changed, reset = (record.getMessage() for record in caplog.records if "limits of recipe" in record.getMessage())
    assert 'by Ada from quality: {"review":0.5}' in changed
    assert "by Ada from quality" in reset


def test_a_change_that_cannot_be_stored_does_not_happen(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    assert "No space" in str(
        assert_problem(client.patch(LIMITS, json={"review": 0.5}), 409, "limits_refused")["detail"]
    )
    monkeypatch.undo()
    assert post(client, DOUBTFUL).json()["verdict"] == "REVIEW"


unit = st.none() | st.floats(0, 1)


@given(st.lists(st.builds(LimitsChange, review=unit, reject=unit, pixel=unit), max_size=4))
def test_what_is_in_force_is_what_is_stored(
    tmp_path_factory: pytest.TempPathFactory, changes: list[LimitsChange]
) -> None:
    folder = tmp_path_factory.mktemp("models")
    manifest = make_bundle(folder).manifest
    in_force = Limits.of(manifest)
    for change in changes:
        try:
            in_force = change_limits(folder / "part", manifest, change, "someone", Decisions())
        except LimitsError:
            continue
        assert in_force.thresholds.review <= in_force.thresholds.reject
    stored = read_limits(folder / "part", manifest, Decisions())
    assert (stored.thresholds, stored.quality) == (in_force.thresholds, in_force.quality)
    assert stored.change is None or isinstance(stored.change, StoredChange)
