import hashlib
from pathlib import Path

import pytest
from bundles import gray, png, wait_until_loaded
from fastapi.testclient import TestClient
from replies import assert_problem

from service.app import create_app
from service.http.access import Access, KeyFileError, new_key
from service.settings import Settings

PICTURE = {"image": png(gray(51))}


def _client(models: Path, keys: Path | None, host: str = "127.0.0.1") -> TestClient:
    settings = Settings(records_dir=None, models_dir=models, api_keys_file=keys)
    return TestClient(create_app(settings), base_url="http://127.0.0.1", client=(host, 50000))


def test_without_keys_all_may_inspect_and_only_this_machine_administers(models: Path) -> None:
    with _client(models, None, "192.0.2.7") as client:
        wait_until_loaded(client)
        assert client.post("/inspect", files=PICTURE).json()["verdict"] == "OK"
        assert_problem(client.post("/recipes/part/verify"), 403, "forbidden")
    with _client(models, None) as client:
        wait_until_loaded(client)
        assert client.post("/recipes/part/verify").json()["ready"] is True
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            assert_problem(client.post("/recipes/part/verify", headers=headers), 403, "forbidden")


def test_keys_open_what_their_role_allows(models: Path, tmp_path: Path) -> None:
    camera, camera_line = new_key("inspect", "camera 4")
    boss, boss_line = new_key("admin", "line lead")
    keys = tmp_path / "keys"
    keys.write_text(f"# who may do what\n{camera_line}\n\n{boss_line}\n")
    assert camera not in keys.read_text()
    with _client(models, keys) as client:
        wait_until_loaded(client)
        assert_problem(client.post("/inspect", files=PICTURE), 401, "unauthorized")
        assert_problem(client.post("/inspect", files=PICTURE, headers={"X-API-Key": "guess"}), 401, "unauthorized")
        bearer = {"Authorization": f"Bearer {camera}"}
        for headers in ({"X-API-Key": camera}, bearer, {"X-API-Key": boss}):
            assert client.post("/inspect", files=PICTURE, headers=headers).json()["verdict"] == "OK"
        assert_problem(client.post("/recipes/part/verify", headers=bearer), 403, "forbidden")
        assert client.post("/recipes/part/verify", headers={"X-API-Key": boss}).status_code == 200
        assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    ("text", "message"),
    [("inspect nothash", "keys:1"), (f"\nroot {hashlib.sha256(b'x').hexdigest()}", "keys:2"), ("# none", "no key")],
)
def test_broken_key_files_are_refused_at_start(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(KeyFileError, match=message):
        Access(tmp_path / "keys")


def test_no_other_site_may_ask_and_browsers_are_told_to_be_strict(client: TestClient) -> None:
    asked = client.options("/inspect", headers={"Origin": "http://evil", "Access-Control-Request-Method": "POST"})
    answered = client.get("/state", headers={"Origin": "http://evil"})
    for response in (asked, answered):
        assert not [name for name in response.headers if name.startswith("access-control")]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert "default-src 'self'" in response.headers["content-security-policy"]
    assert asked.status_code == 405
