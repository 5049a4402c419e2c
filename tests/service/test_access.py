import hashlib
from pathlib import Path
from typing import Any

import pytest
from bundles import gray, png, wait_until_loaded
from fastapi.testclient import TestClient
from replies import assert_problem

from service.app import create_app
from service.http.access import ROLES, Access, KeyFileError, new_key
from service.settings import Settings

PICTURE = {"image": png(gray(51))}
JSON = {"Content-Type": "application/json"}


def _client(models: Path, keys: Path | None, host: str = "127.0.0.1", **settings: Any) -> TestClient:
    app = create_app(Settings(records_dir=None, models_dir=models, api_keys_file=keys, **settings))
    return TestClient(app, base_url="http://127.0.0.1", client=(host, 50000))


def test_without_keys_all_may_inspect_and_only_this_machine_administers(models: Path) -> None:
    with _client(models, None, "192.0.2.7") as client:
        wait_until_loaded(client)
        assert client.post("/inspect", files=PICTURE).json()["verdict"] == "OK"
        assert_problem(client.post("/recipes/part/verify"), 403, "forbidden")
    with _client(models, None) as client:
        wait_until_loaded(client)
        assert client.post("/recipes/part/verify").json()["ready"] is True


def test_a_proxy_a_website_and_a_look_alike_are_not_this_machine(models: Path) -> None:
    refused = [
        *({name: "127.0.0.1"} for name in ("X-Forwarded-For", "X-Real-IP", "True-Client-IP", "X-Client-IP")),
        *({"X-Forwarded-Host": "localhost"}, {"X-Forwarded-Proto": "http"}, {"X-Forwarded-Anything": "1"}),
        *({"Forwarded": "for=127.0.0.1"}, {"Via": "1.1 line-proxy"}, {"X-Forwarded-For": ""}),
        *({name: "127.0.0.1"} for name in ("Client-IP", "X-Remote-Addr", "X-Originating-IP", "WL-Proxy-Client-IP")),
        *(
            {name: "1"}
            for name in ("X-Envoy-External-Address", "CF-Ray", "CDN-Loop", "Max-Forwards", "X-Amzn-Trace-Id")
        ),
        *({name: "1"} for name in ("X-ProxyUser-Ip", "X-Azure-ClientIP", "X-Appengine-User-IP", "Fastly-Client-IP")),
        *(
            {"Host": name}
            for name in ("evil.example", "localhost.evil.example", "127.0.0.6", "[::2]", "localhost@evil", "")
        ),
        *({"Origin": origin} for origin in ("http://evil.example", "null", "http://127.0.0.1:9", "https://127.0.0.1")),
        {"Referer": "http://evil.example/127.0.0.1"},
        *({"Sec-Fetch-Site": site} for site in ("cross-site", "same-site")),
    ]
    allowed: list[dict[str, str]] = [
        *({"Host": name} for name in ("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]", "[::1]:8000")),
        *({"Origin": "http://127.0.0.1"}, {"Referer": "http://127.0.0.1/docs", "Sec-Fetch-Site": "same-origin"}),
    ]
    with _client(models, None) as client:
        wait_until_loaded(client)
        for headers in refused:
            assert_problem(client.post("/counters/reset", headers=headers), 403, "forbidden")
        for headers in allowed:
            assert client.post("/counters/reset", headers=headers).status_code == 200, headers
    for host, status in (("::1", 200), ("::ffff:127.0.0.1", 200), ("127.0.0.6", 403), ("::ffff:127.0.0.6", 403)):
        with _client(models, None, host) as client:
            assert client.post("/counters/reset").status_code == status, host
    with _client(models, None, local_admin=False) as client:
        assert_problem(client.post("/counters/reset"), 403, "forbidden")


@pytest.mark.parametrize("open_views", [False, True])
def test_with_keys_the_station_shows_itself_to_those_who_have_one(
    models: Path, tmp_path: Path, open_views: bool
) -> None:
    found = {role: new_key(role, role) for role in ROLES}
    (tmp_path / "keys").write_text("\n".join(line for _, line in found.values()))
    keys = {role: {"X-API-Key": key} for role, (key, _) in found.items()}
    views = ("/state", "/recipes", "/counters", "/v2/models/part")
    with _client(models, tmp_path / "keys", open_views=open_views) as client:
        wait_until_loaded(client)
        for path in (*views, "/metrics"):
            nobody = client.get(path)
            assert (nobody.status_code == 200) == open_views, path
            if not open_views:
                assert_problem(nobody, 401, "unauthorized")
                assert_problem(client.get(path, headers={"X-API-Key": "guess"}), 401, "unauthorized")
            of_metrics = path == "/metrics"
            assert client.get(path, headers=keys["metrics"]).status_code == (200 if of_metrics or open_views else 403)
            assert client.get(path, headers=keys["inspect"]).status_code == (
                403 if of_metrics and not open_views else 200
            )
            assert client.get(path, headers=keys["admin"]).status_code == 200
        assert_problem(client.post("/inspect", files=PICTURE), 401, "unauthorized")
        assert_problem(client.post("/inspect", files=PICTURE, headers=keys["metrics"]), 403, "forbidden")
        for path in ("/livez", "/readyz", "/docs", "/"):
            assert client.get(path).status_code == 200


def test_why_a_station_is_not_ready_is_for_those_with_a_key(models: Path, tmp_path: Path) -> None:
    key, line = new_key("inspect", "camera")
    (tmp_path / "keys").write_text(line)
    (models / "part" / "1" / "manifest.json").write_text("{}")
    with _client(models, tmp_path / "keys") as client:
        wait_until_loaded(client)
        for path in ("/readyz", "/v2/health/ready"):
            nobody, camera = client.get(path), client.get(path, headers={"X-API-Key": key})
            assert nobody.status_code == camera.status_code == 503
            assert "manifest" in camera.text
            assert "manifest" not in nobody.text
            assert str(models) not in nobody.text


def test_rights_come_before_the_body(models: Path) -> None:
    with _client(models, None, "192.0.2.7") as client:
        wait_until_loaded(client)
        refused = client.patch("/recipes/part/limits", content=b"[" * 1_000_000)
        assert_problem(refused, 403, "forbidden")
    with _client(models, None) as client:
        wait_until_loaded(client)
        assert_problem(client.patch("/recipes/part/limits", content=b"[" * 70_000, headers=JSON), 413, "body_too_large")
        assert_problem(
            client.patch("/recipes/part/limits", content=b"[" * 60_000, headers=JSON), 422, "invalid_request"
        )
        assert_problem(client.patch("/recipes/part/limits", json={"review": "secret"}), 422, "invalid_request")


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
    [
        ("inspect nothash", "keys:1: .*new-key"),
        (f"\nroot {hashlib.sha256(b'x').hexdigest()}", "keys:2"),
        (f"inspect {'g' * 64}", "keys:1"),
        ("# none", "no key in it.*new-key"),
        ("", "no key in it"),
        ("\xff\xfe", "cannot be read"),
    ],
)
def test_broken_key_files_are_refused_at_start(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "keys").write_text(text, encoding="latin-1")
    with pytest.raises(KeyFileError, match=message):
        Access(tmp_path / "keys")


def test_a_key_file_that_is_not_there_or_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    with pytest.raises(KeyFileError, match="cannot be read"):
        Access(keys)
    keys.write_text(new_key("admin", "boss")[1])
    keys.chmod(0o646)
    with pytest.raises(KeyFileError, match="chmod o-w"):
        Access(keys)


def test_no_other_site_may_ask_and_browsers_are_told_to_be_strict(client: TestClient) -> None:
    asked = client.options("/inspect", headers={"Origin": "http://evil", "Access-Control-Request-Method": "POST"})
    answered = client.get("/state", headers={"Origin": "http://evil"})
    for response in (asked, answered):
        assert not [name for name in response.headers if name.startswith("access-control")]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert "default-src 'self'" in response.headers["content-security-policy"]
    assert asked.status_code == 405
