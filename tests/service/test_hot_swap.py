"""Versions change under load: no request fails, every reply comes from exactly one model."""

import json
import secrets
import threading
from pathlib import Path

import pytest
from bundles import gray, make_bundle, png, wait_until_loaded
from fakes import wait_for
from fastapi.testclient import TestClient
from processes import running_service
from replies import assert_problem

from service.app import create_app
from service.bundle.folder import write_bundle
from service.bundle.signing import new_keys, sign
from service.settings import Settings

HEADERS = {"Content-Type": "image/png"}


@pytest.mark.slow
def test_a_thousand_requests_during_fifty_swaps(models: Path, tmp_path: Path) -> None:
    make_bundle(models, version="2", golden_shift=1e-6, label="another model")
    picture = png(gray(51))
    replies: list[tuple[int, str, str]] = []
    with running_service(models, tmp_path / "log") as (_, client):
        swapping = threading.Event()
        swapping.set()

        def inspect() -> None:
            while swapping.is_set() or len(replies) < 1000:
                response = client.post("/inspect", content=picture, headers=HEADERS)
                reply = response.json()
                replies.append((response.status_code, reply.get("version"), reply.get("model_sha256")))

        threads = [threading.Thread(target=inspect) for _ in range(4)]
        for thread in threads:
            thread.start()
        sha256_of: dict[str, str] = {}
        for swap in range(50):
            version = str(1 + swap % 2)
            reply = client.post("/recipes/part/activate", params={"version": version}).json()
            assert reply["version"] == version
            sha256_of[version] = reply["model_sha256"]
        swapping.clear()
        for thread in threads:
            thread.join()
    assert len(replies) >= 1000
    assert {status for status, _, _ in replies} == {200}
    assert len(set(sha256_of.values())) == 2
    assert {(version, sha256) for _, version, sha256 in replies} == set(sha256_of.items())


def test_refused_activations_are_problems_that_change_nothing(models: Path) -> None:
    make_bundle(models, version="2").file("model.onnx").write_bytes(b"half")
    app = create_app(Settings(records_dir=None, models_dir=models))
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        wait_until_loaded(client)
        assert client.get("/recipes").json()[0]["ready"] is False
        assert client.post("/recipes/part/activate", params={"version": "1"}).json()["version"] == "1"
        body = assert_problem(client.post("/recipes/part/activate", params={"version": "2"}), 409, "activation_failed")
        assert "model.onnx" in str(body["detail"])
        assert client.get("/recipes").json()[0]["version"] == "1"
        assert_problem(client.post("/recipes/part/rollback"), 409, "activation_failed")
        assert_problem(client.post("/recipes/other/activate", params={"version": "1"}), 404, "unknown_recipe")
        assert 'version="1"' in client.get("/metrics").text


def test_only_signed_versions_are_served_where_a_key_is_trusted(tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        new_keys(tmp_path / f"{name}.pem", tmp_path / f"{name}.pub")
    for version, key in (("1", "ours"), ("2", "theirs")):
        bundle = make_bundle(tmp_path / "made", version=version)
        contents = {name: bundle.file(name).read_bytes() for name in bundle.manifest.files}
        write_bundle(tmp_path / "signed", sign(bundle.manifest, tmp_path / f"{key}.pem"), contents)
    (tmp_path / "seal").write_text(secrets.token_hex(32))
    keys = {"trusted_key": tmp_path / "ours.pub", "seal_key": tmp_path / "seal"}
    app = create_app(Settings(records_dir=None, models_dir=tmp_path / "signed", **keys))
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        wait_until_loaded(client)
        assert "signature is not from the key" in client.get("/readyz").json()["reason"]
        assert client.post("/recipes/part/activate", params={"version": "1"}).json()["version"] == "1"
        body = assert_problem(client.post("/recipes/part/activate", params={"version": "2"}), 409, "activation_failed")
        assert "signature is not from the key" in str(body["detail"])
        make_bundle(tmp_path / "signed", version="3")
        body = assert_problem(client.post("/recipes/part/activate", params={"version": "3"}), 409, "activation_failed")
        assert "not signed" in str(body["detail"])
        assert client.get("/recipes").json()[0]["version"] == "1"


def test_a_photo_that_only_the_shadow_refuses_is_inspected(models: Path) -> None:
    bundle = make_bundle(models, version="2")
    manifest = bundle.path / "manifest.json"
    told = json.loads(manifest.read_text())
    told["input"]["interpolation"] = "linear"
    manifest.write_text(json.dumps(told))
    app = create_app(Settings(records_dir=None, models_dir=models))
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        wait_until_loaded(client)
        client.post("/recipes/part/activate", params={"version": "1"})
        assert client.post("/recipes/part/shadow", params={"version": "2"}).status_code == 200
        # More than twice the network's size: a linear resize would not see all of it.
        assert client.post("/inspect", content=png(gray(51, 300)), headers=HEADERS).json()["verdict"] == "OK"
        wanted = 'inspect_shadow_verdicts_total{recipe="part",shadow_verdict="NOT_INSPECTED",verdict="OK"} 1.0'
        assert wanted in client.get("/metrics").text


def test_a_shadow_version_is_compared_and_has_no_say(models: Path) -> None:
    make_bundle(models, version="stricter", review=0.1, reject=0.15)
    app = create_app(Settings(records_dir=None, models_dir=models))
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        wait_until_loaded(client)
        client.post("/recipes/part/activate", params={"version": "1"})
        assert client.post("/recipes/part/shadow", params={"version": "stricter"}).json()["version"] == "1"
        assert client.post("/inspect", content=png(gray(51)), headers=HEADERS).json()["verdict"] == "OK"
        wanted = 'inspect_shadow_verdicts_total{recipe="part",shadow_verdict="NG",verdict="OK"} 1.0'
        wait_for(lambda: wanted in client.get("/metrics").text)
        assert_problem(client.post("/recipes/part/shadow", params={"version": "7"}), 409, "activation_failed")
        assert client.post("/recipes/part/shadow").status_code == 200
        client.post("/inspect", content=png(gray(51)), headers=HEADERS)
        assert wanted in client.get("/metrics").text
