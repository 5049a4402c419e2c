"""A recipe that its own training found unfit serves only where somebody says so."""

from pathlib import Path

from bundles import gray, make_bundle, png, wait_until_loaded
from fastapi.testclient import TestClient
from replies import assert_problem, post

from service.app import create_app
from service.settings import Settings

WHY = "74 of 140 rendered defects pass as OK"


def _client(models: Path, **settings: bool) -> TestClient:
    app = create_app(Settings(records_dir=None, models_dir=models, backend="ort-cpu", **settings))
    return TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000))


def test_an_unfit_recipe_gives_no_verdict(tmp_path: Path) -> None:
    make_bundle(tmp_path, unfit=WHY)
    with _client(tmp_path) as client:
        wait_until_loaded(client)
        assert WHY in client.get("/readyz").json()["reason"]
        body = assert_problem(post(client, png(gray(51))), 409, "recipe_not_ready")
        assert "INSPECT_SERVE_UNFIT" in str(body["detail"])


def test_an_unfit_version_is_not_activated_and_the_one_before_serves_on(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    with _client(tmp_path) as client:
        wait_until_loaded(client)
        make_bundle(tmp_path, version="2", unfit=WHY)
        body = assert_problem(client.post("/recipes/part/activate", params={"version": "2"}), 409, "activation_failed")
        assert WHY in str(body["detail"])
        assert post(client, png(gray(51))).json()["version"] == "1"


def test_where_it_is_told_so_an_unfit_recipe_serves_and_says_it(tmp_path: Path) -> None:
    make_bundle(tmp_path, unfit=WHY)
    with _client(tmp_path, serve_unfit=True) as client:
        wait_until_loaded(client)
        assert post(client, png(gray(51))).json()["verdict"] == "OK"
        assert client.get("/recipes").json()[0]["unfit"] == WHY
