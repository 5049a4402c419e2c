"""Commands of the chart's containers, run here as a pod would run them."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from bundles import make_bundle
from chart import ROOT, containers, example, only, render
from processes import running_service

from service import commands
from service.http.access import new_key
from training.commands import parse


def test_each_index_trains_its_category(tmp_path: Path) -> None:
    """The command that the Job gives a pod, run by a real shell with a `python` that shows what it was called with."""
    (tmp_path / "python").write_text('#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done\n')
    (tmp_path / "python").chmod(0o755)
    job = only(render(example("everything")), "Job")
    assert (job["spec"]["completionMode"], job["spec"]["completions"]) == ("Indexed", 2)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    for index, category in enumerate(("bottle", "cable")):
        words = subprocess.run(
            [*container["command"], *container["args"]],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": str(index)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        assert words[:2] == ["-m", "training"]
        _, options = parse(words[2:])
        assert options.data == (Path("/photos") / category,)
        assert (options.models, options.runs) == (Path("/models"), Path("/runs"))
        assert (options.preset, options.textures) == ("station", Path("/photos/dtd/images"))
        assert (options.steps, options.region) == (3000, Path("/photos/region one.png"))


def test_another_training_is_another_job() -> None:
    """A Job cannot be changed, so an upgrade that would change it must name it anew, and no other may."""
    values = example("training")
    name = only(render(values), "Job")["metadata"]["name"]
    assert only(render(values | {"replicas": 3}), "Job")["metadata"]["name"] == name
    other = {**values["training"], "categories": ["bottle"]}
    for changed in ({"training": other}, {"nodeSelector": {"disk": "fast"}}):
        assert only(render(values | changed), "Job")["metadata"]["name"] != name


@pytest.mark.parametrize("source", ["archives", "claim"])
@pytest.mark.parametrize("scheme", ["s3", "oci"])
def test_init_containers_bring_the_archives(
    source: str, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each container's words are run as its image's entry point would, the stores' clients left out."""
    make_bundle(tmp_path / "trained", "nut")
    with tarfile.open(tmp_path / "0", "w:gz") as tar:
        tar.add(tmp_path / "trained", arcname=".")
    sha256 = hashlib.sha256((tmp_path / "0").read_bytes()).hexdigest()
    archive = {"url": f"{scheme}://store/recipes", "sha256": sha256}
    models = {"source": source, "archives": [archive], "oci": {"image": "oras", "credentialsSecret": "registry-reader"}}
    pod = only(render({"models": models}), "StatefulSet")["spec"]["template"]["spec"]
    download, fetch = pod["initContainers"]
    (service,) = pod["containers"]
    client = {
        "s3": [*("aws", "s3", "cp", "--no-progress"), "s3://store/recipes", "/incoming/0"],
        "oci": [*("oras", "blob", "fetch", "--output"), "/incoming/0", f"store/recipes@sha256:{sha256}"],
    }
    assert download["command"] == client[scheme]
    mounts = {mount["mountPath"]: mount["name"] for mount in download["volumeMounts"]}
    assert mounts["/incoming"] == "incoming"
    if scheme == "oci":
        assert {"name": "DOCKER_CONFIG", "value": "/run/registry"} in download["env"]
        (registry,) = [volume for volume in pod["volumes"] if volume["name"] == mounts["/run/registry"]]
        assert registry["secret"]["items"] == [{"key": ".dockerconfigjson", "path": "config.json"}]
    place = {"name": "models", "mountPath": "/models"}
    assert place in fetch["volumeMounts"]
    assert place in service["volumeMounts"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "models"]
    assert ("persistentVolumeClaim" in volume) is (source == "claim")
    monkeypatch.setenv("INSPECT_MODELS_DIR", str(tmp_path / "models"))
    assert commands.run([word.replace("/incoming", str(tmp_path)) for word in fetch["args"]]) == 0
    assert (tmp_path / "models/nut/1/manifest.json").is_file()


def test_the_engine_step_has_the_words_and_the_settings_of_the_service() -> None:
    pod = only(render(example("everything")), "StatefulSet")["spec"]["template"]["spec"]
    # After the recipes are there.
    assert [container["name"] for container in containers(pod)] == ["fetch-0", "build-engine", "service"]
    _, build, service = containers(pod)
    command, request = commands.parse(build["args"])
    assert command is commands.COMMANDS["build-engine"]
    assert request.missing
    assert build["env"] == service["env"]
    assert {"name": "cache", "mountPath": "/cache"} in build["volumeMounts"]


@pytest.mark.slow
@pytest.mark.parametrize("with_keys", [False, True])
def test_helm_test_inspects_a_golden_image(models: Path, tmp_path: Path, with_keys: bool) -> None:
    key, line = new_key("inspect", "helm test")
    (tmp_path / "keys").write_text(line)
    settings = {"api_keys_file": tmp_path / "keys"} if with_keys else {}
    script, _ = only(render({}), "Pod")["spec"]["containers"][0]["args"]
    with running_service(models, tmp_path / "log", **settings) as (_, http):
        command = [sys.executable, "-c", script, str(http.base_url)]

        def camera(**environment: str) -> subprocess.CompletedProcess[str]:
            more = {**os.environ, **environment}
            return subprocess.run(command, env=more, cwd=ROOT, capture_output=True, text=True, check=False)

        passed = camera(INSPECT_API_KEY=key) if with_keys else camera()
        assert passed.returncode == 0, passed.stderr
        assert re.match(r"part: (OK|REVIEW|NG) 0\.\d+", passed.stdout)
        if with_keys:
            assert camera().returncode != 0
        (models / "part" / "1" / "golden" / "0.png").write_bytes(b"no picture")
        assert camera(INSPECT_API_KEY=key).returncode == 1
