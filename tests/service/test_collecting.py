"""A recipe without a model gathers photos from the line: kept, counted, never judged, and what a training reads."""

import json
from pathlib import Path

import pytest
from bundles import gray, make_bundle, png, wait_until_loaded
from fakes import wait_for
from fastapi.testclient import TestClient

from service.app import create_app
from service.client.conversation import read_outcome
from service.settings import Settings
from training.commands import run


def _station(folder: Path) -> TestClient:
    settings = Settings(models_dir=folder / "models", records_dir=folder / "records", log_level="error")
    return TestClient(create_app(settings), client=("127.0.0.1", 1), base_url="http://localhost")


def _send(client: TestClient, value: int, **headers: str) -> dict:  # type: ignore[type-arg]
    reply = client.post(
        "/inspect?recipe=bracket", content=png(gray(value)), headers={"Content-Type": "image/png", **headers}
    )
    assert reply.status_code == 409
    assert read_outcome(reply.status_code, reply.content).verdict == "NOT_INSPECTED"
    return reply.json()


def _collecting(client: TestClient) -> dict | None:  # type: ignore[type-arg]
    return next((one["collecting"] for one in client.get("/recipes").json() if one["recipe"] == "bracket"), None)


def test_photos_of_a_recipe_without_a_model_are_kept_counted_and_collected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").mkdir()
    with _station(tmp_path) as client:
        wait_until_loaded(client)
        assert client.post("/inspect?recipe=bracket", content=png(gray(1))).json()["code"] != "collecting"
        assert client.post("/recipes/bracket/collect").status_code == 200
        assert "collects photos" in client.get("/readyz").json()["reason"]
        said = _send(
            client, 50, **{"X-Part-Id": "A 1", "X-Camera-Id": "left", "X-Lot-Id": "L 1", "X-Meta-Order": "4711"}
        )
        assert (said["verdict"], said["code"], said.get("score")) == ("NOT_INSPECTED", "collecting", None)
        for value in (60, 70, 50):
            _send(client, value)
        raw = client.post(
            "/inspect?recipe=bracket&width=8&height=8&pixel_format=Mono8",
            content=bytes(range(64)),
            headers={"Content-Type": "application/octet-stream"},
        )
        assert raw.json()["code"] == "collecting"
        # What is no photo is refused, and not among them.
        assert client.post("/inspect?recipe=bracket", content=b"none").json()["code"] != "collecting"
        assert client.post("/v2/models/bracket/infer", json={}).json()["verdict"] == "NOT_INSPECTED"
        wait_for(lambda: (_collecting(client) or {}).get("photos") == 4)
        (found,) = client.get("/inspections?lot=L 1&meta=order=4711").json()
        assert (found["code"], found["image"], found["open"]) == ("collecting", True, False)
        assert client.get(f"/inspections/{found['inspection_id']}/image").content == png(gray(50))
        assert client.get("/counters").json()["bracket"]["not_inspected"]["collecting"] == 5
        assert {one["verdict"] for one in client.get("/inspections?recipe=bracket").json()} == {"NOT_INSPECTED"}

    # After a restart it goes on; what was gathered is the data of a training.
    with _station(tmp_path) as client:
        wait_until_loaded(client)
        collecting = _collecting(client)
        assert collecting is not None
        assert collecting["photos"] == 4
        out = tmp_path / "data"
        assert run(["collect", "--records", str(tmp_path / "records"), "--recipe", "bracket", "--out", str(out)]) == 0
        assert json.loads(capsys.readouterr().out)["images"] == {"train/good": 4}
        assert [path.name for path in out.iterdir()] == ["train"]
        assert client.post("/recipes/bracket/collect/end").status_code == 200
        assert _collecting(client) is None
        assert client.post("/recipes/bracket/collect/end").json()["code"] == "unknown_recipe"


def test_a_recipe_with_a_version_inspects_and_does_not_collect(tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    make_bundle(tmp_path / "models", "bracket")
    (tmp_path / "models" / "bracket" / "COLLECTING").write_text("bracket\n")
    with _station(tmp_path) as client:
        wait_until_loaded(client)
        sent = client.post("/inspect?recipe=bracket", content=png(gray(50)), headers={"Content-Type": "image/png"})
        assert sent.json()["verdict"] == "OK"
        assert _collecting(client) is None
        refused = client.post("/recipes/part/collect").json()
        assert (refused["code"], "has versions already" in refused["detail"]) == ("activation_failed", True)
        assert client.post("/recipes/a b/collect").json()["code"] == "activation_failed"


def test_without_records_nothing_is_collected(tmp_path: Path) -> None:
    make_bundle(tmp_path / "models")
    app = create_app(Settings(models_dir=tmp_path / "models", records_dir=None, log_level="error"))
    with TestClient(app, client=("127.0.0.1", 1), base_url="http://localhost") as client:
        wait_until_loaded(client)
        assert "INSPECT_RECORDS_DIR" in client.post("/recipes/bracket/collect").json()["detail"]
