"""The deployment files, as far as they can be checked without an engine: parsed, validated, compared with the code."""

import re
import shutil
import ssl
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import yaml
from bundles import gray, png
from certificates import write_certificate
from images import COMPOSE, DOCKER, NOT_IN_CONTAINERS, ROOT, environment_name, image_environment, merged, run, tool
from ports import free_port
from processes import running_service

from service.http.draining import LEAVE_S
from service.serving import prepare
from service.settings import Settings


@pytest.mark.parametrize("name", ["Dockerfile", "training.Dockerfile"])
def test_dockerfiles_pass_hadolint(name: str) -> None:
    run(tool("hadolint"), DOCKER / name)


def test_what_the_dockerfiles_copy_is_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for name in ("Dockerfile", "training.Dockerfile"):
        for line in (DOCKER / name).read_text().splitlines():
            if line.startswith("COPY") and "--from" not in line:
                copied |= {word for word in line.split()[1:-1] if not word.startswith("--")}
    assert copied == kept
    assert all((ROOT / name).exists() for name in kept)


@pytest.mark.parametrize("name", ["Dockerfile", "training.Dockerfile"])
def test_labels_say_what_an_image_is(name: str) -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]+)"', (DOCKER / name).read_text()))
    assert labels.keys() == {"title", "description", "licenses", "version", "revision"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (labels["version"], labels["licenses"]) == (project["version"], project["license"])


def test_compose_files_follow_the_specification() -> None:
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE, DOCKER / "compose.gpu.yaml")


def test_every_setting_can_be_given_to_the_container() -> None:
    composed = set(yaml.safe_load(COMPOSE.read_text())["services"]["service"]["environment"])
    expected = {environment_name(field) for field in Settings.model_fields.keys() - NOT_IN_CONTAINERS}
    assert composed | image_environment().keys() == expected


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose gives `INSPECT_API_KEYS_FILE=` to the container where no file is named outside."""
    for field in Settings.model_fields:
        monkeypatch.setenv(environment_name(field), "")
    assert Settings() == Settings.model_construct()


def test_the_gpu_file_changes_image_backend_and_device_alone() -> None:
    cpu, gpu = merged(COMPOSE), merged(COMPOSE, DOCKER / "compose.gpu.yaml")
    service = gpu["services"]["service"]
    assert service["build"]["target"] == "gpu"
    assert service["environment"]["INSPECT_BACKEND"] == "ort-cuda"
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    changed = {key for key in service if service[key] != cpu["services"]["service"].get(key)}
    assert changed == {"build", "deploy", "environment", "image"}


def test_containers_are_hardened_and_reached_from_this_machine_alone() -> None:
    for name, service in merged(COMPOSE)["services"].items():
        assert service["read_only"], name
        assert service["init"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"]["max-size"], name
        assert {port["host_ip"] for port in service["ports"]} == {"127.0.0.1"}, name
        for volume in service["volumes"]:
            assert volume["type"] == "volume" or volume["read_only"], name


def test_a_stop_waits_until_the_service_has_drained() -> None:
    grace = merged(COMPOSE)["services"]["service"]["stop_grace_period"]
    settings = Settings()
    assert float(grace.removesuffix("s")) > settings.drain_grace_s + settings.drain_timeout_s + LEAVE_S


def test_mounted_files_are_there() -> None:
    for name, service in merged(COMPOSE)["services"].items():
        for volume in service["volumes"]:
            source = volume["source"]
            if volume["type"] == "bind" and not source.endswith("certificates"):
                assert Path(source).exists(), (name, source)


def test_nginx_gives_up_an_idle_connection_before_the_service_does() -> None:
    """Whoever closes second may be sending an image on a connection that is closing: a 502."""
    service = prepare(Settings(records_dir=None)).server.config
    for name in ("nginx.conf", "replicas.conf"):
        found = re.search(r"^ *keepalive_timeout (\d+)s;", (DOCKER / "nginx" / name).read_text(), re.M)
        assert found
        assert service.timeout_keep_alive > int(found[1])


def test_a_replica_is_the_same_service_with_records_of_its_own() -> None:
    services = merged(COMPOSE)["services"]
    first, second = services["service"], services["second"]
    assert {key for key in first if first[key] != second.get(key)} == {"ports", "volumes"}
    mounted = [{one["target"]: one for one in service["volumes"]} for service in (first, second)]
    assert mounted[0].keys() == mounted[1].keys()
    shared = {target for target, one in mounted[0].items() if mounted[1][target]["source"] == one["source"]}
    assert mounted[0].keys() - shared == {"/records", "/cache"}
    assert mounted[1]["/models"]["read_only"]
    servers = re.findall(r"^ *server (\w+):8000", (DOCKER / "nginx" / "replicas.conf").read_text(), re.M)
    assert set(servers) == {name for name, one in services.items() if one["image"] == first["image"]}


@contextmanager
def _nginx(folder: Path, name: str, *changes: tuple[str, str]) -> Iterator[None]:
    """nginx with a file that is shipped, changed where it names places that are not on this machine."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    text = (DOCKER / "nginx" / name).read_text().replace("/tmp/", f"{folder}/")  # noqa: S108
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (folder / "nginx.conf").write_text(text)
    process = subprocess.Popen(
        [nginx, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off;"], stderr=subprocess.PIPE
    )
    try:
        yield
    finally:
        process.terminate()
        _, errors = process.communicate()
    assert process.returncode == 0, errors


def test_what_nginx_answers_itself_has_a_verdict(tmp_path: Path) -> None:
    port, nobody = free_port(), f"127.0.0.1:{free_port()}"
    places = [("listen 8080", f"listen 127.0.0.1:{port}"), ("service:8000", nobody), ("second:8000", nobody)]
    with (
        _nginx(tmp_path, "replicas.conf", *places, ("client_max_body_size 64m", "client_max_body_size 1k")),
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", transport=httpx2.HTTPTransport(retries=8)) as line,
    ):
        for status, path, body in (
            (502, "/inspect", b"1"),
            (413, "/inspect", bytes(2000)),
            (404, "/not-inspected", b""),
        ):
            reply = line.post(path, content=body)
            assert (reply.status_code, reply.headers["X-Verdict"]) == (status, "NOT_INSPECTED")
            assert (reply.json()["status"], reply.json()["verdict"]) == (status, "NOT_INSPECTED")
            # nginx closes a connection whose image it has not read: said, or the next image would be sent into it.
            assert reply.headers["Connection"] == "close"


@pytest.mark.slow
def test_replicas_share_the_cameras_and_stand_in_for_each_other(models: Path, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "other").mkdir()
    good = png(gray(51))
    with ExitStack() as stack:
        first_process, first = stack.enter_context(running_service(models, tmp_path / "log"))
        _, second = stack.enter_context(running_service(models, tmp_path / "other" / "log"))
        places = [
            (f"{name}:8000", f"127.0.0.1:{one.base_url.port}") for name, one in (("service", first), ("second", second))
        ]
        stack.enter_context(_nginx(tmp_path, "replicas.conf", ("listen 8080", f"listen 127.0.0.1:{port}"), *places))
        transport = httpx2.HTTPTransport(retries=8)
        line = stack.enter_context(httpx2.Client(base_url=f"http://127.0.0.1:{port}", transport=transport))

        def inspect(**headers: str) -> dict[str, Any]:
            sent = {"Content-Type": "image/png"} | {f"X-{name}-Id": value for name, value in headers.items()}
            reply: dict[str, Any] = line.post("/inspect", content=good, headers=sent).json()
            return reply

        def parts(service: httpx2.Client) -> int:
            return int(service.get("/counters").json().get("part", {}).get("total", 0))

        for number in range(30):
            assert inspect(Part=str(number))["verdict"] == "OK"
        assert min(parts(first), parts(second)) > 0
        # The same trigger, and the second image of a frozen camera, come to where the first one came.
        for number in range(8):
            assert inspect(Trigger=f"t {number}")["inspection_id"] == inspect(Trigger=f"t {number}")["inspection_id"]
            assert inspect(Camera=f"c {number}")["verdict"] == "OK"
            assert inspect(Camera=f"c {number}")["faults"][0].startswith("frozen")
        refused = line.post("/recipes/part/rollback")
        assert (refused.status_code, refused.json()["verdict"]) == (404, "NOT_INSPECTED")
        first_process.kill()
        first_process.wait()
        assert [inspect(Part=f"after {number}")["verdict"] for number in range(10)] == ["OK"] * 10


@pytest.mark.slow
def test_nginx_lets_only_known_cameras_through(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    authority = write_certificate(folder, "clients", None)
    write_certificate(folder, "server", authority)
    write_certificate(folder, "camera", authority)
    port = free_port()
    # Noise does not compress: more than nginx keeps in memory.
    picture = png(np.random.default_rng(0).integers(0, 256, (1300, 1300, 3), np.uint8))
    assert len(picture) > 5_000_000
    with running_service(models, tmp_path / "log") as (_, service):
        here = ("service:8000", f"127.0.0.1:{service.base_url.port}"), ("8443 ssl", f"127.0.0.1:{port} ssl")
        with _nginx(tmp_path, "nginx.conf", *here):
            trusted = ssl.create_default_context(cafile=str(folder / "clients.pem"))
            known = ssl.create_default_context(cafile=str(folder / "clients.pem"))
            known.load_cert_chain(folder / "camera.pem", folder / "camera.key")
            address = f"https://localhost:{port}/inspect"
            headers = {"Content-Type": "image/png"}
            transport = httpx2.HTTPTransport(verify=known, retries=8)
            with httpx2.Client(transport=transport, headers=headers) as camera:
                replies = [camera.post(address, content=data) for data in (png(gray(51)), png(gray(204)), picture)]
            assert [reply.json()["verdict"] for reply in replies] == ["OK", "NG", "REVIEW"]
            with httpx2.Client(verify=trusted, headers=headers) as stranger:
                refused = stranger.post(address, content=png(gray(51)))
            assert refused.status_code == 400
            assert "No required SSL certificate" in refused.text
            assert (refused.headers["X-Verdict"], refused.json()["status"]) == ("NOT_INSPECTED", 400)
            assert service.get("/counters").json()["part"]["total"] == 3
