"""The chart, as far as it can be checked without a cluster: rendered by Helm's library, held to Kubernetes' schemas."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml
from conftest import make_bundle
from test_docker import DOCKER, NOT_IN_CONTAINERS, environment_name, image_environment
from test_server import running_service

from service import commands
from service.access import new_key
from service.settings import Settings
from training.__main__ import _parser as training_parser
from training.config import PRESETS

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm"
EXAMPLES = {file.stem: file for file in sorted((CHART / "examples").glob("*.yaml"))}
# Image volumes are younger than the rest.
OLDEST = {"image-volume": "1.33"}
NEWEST = kubernetes_validate.latest_version()

Object = dict[str, Any]


def example(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(EXAMPLES[name].read_text())
    return values


def render(values: dict[str, Any], chart: Path = CHART, name: str = "line") -> list[Object]:
    with helm_python.Chart.load(chart) as loaded:
        files = loaded.render(values, name=name, namespace="floor")
    texts = [text for file, text in sorted(files.items()) if not file.endswith("NOTES.txt")]
    return [found for text in texts for found in yaml.safe_load_all(text) if found]


def only(objects: list[Object], kind: str) -> Object:
    (found,) = [one for one in objects if one["kind"] == kind]
    return found


def pod_specs(objects: list[Object]) -> Iterator[Object]:
    for one in objects:
        if one["kind"] in {"StatefulSet", "Job"}:
            yield one["spec"]["template"]["spec"]
        elif one["kind"] == "Pod":
            yield one["spec"]


def containers(pod: Object) -> list[Object]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def service_container(objects: list[Object]) -> Object:
    (container,) = only(objects, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    return dict(container)


def environment(container: Object) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}


@pytest.mark.parametrize("name", [None, *EXAMPLES])
def test_helm_finds_no_fault(name: str | None) -> None:
    report = helm_python.lint(CHART, example(name) if name else {}, strict=True)
    faults = [message for message in report["messages"] if message["severity"] > 1]  # 1 is advice: an icon
    assert (faults, report["errors"]) == ([], [])


# The parts of three custom resources that the chart uses; an unknown field is refused here as in a cluster.
def _object(properties: Object, *required: str) -> Object:
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": list(required)}


_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
_SELECTOR = _object({"matchLabels": _STRINGS}, "matchLabels")
_DURATION = {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"}
_STRING = {"type": "string"}
_RULE = _object(
    {"record": _STRING, "alert": _STRING, "expr": _STRING}
    | {"for": _DURATION, "labels": _STRINGS, "annotations": _STRINGS},
    "expr",
)
_TARGET = _object({"apiVersion": _STRING, "kind": _STRING, "name": _STRING}, "name")
_NUMBER = {"type": "integer"}
_BEHAVIOR = _object({"scaleDown": _object({"stabilizationWindowSeconds": {"type": "integer"}})})
_TRIGGER = _object(
    {"type": {"const": "prometheus"}, "metricType": {"enum": ["AverageValue", "Value"]}, "metadata": _STRINGS},
    *("type", "metadata"),
)
CUSTOM = {
    "monitoring.coreos.com/v1 ServiceMonitor": _object(
        {
            "jobLabel": {"type": "string"},
            "selector": _SELECTOR,
            "endpoints": {
                "type": "array",
                "items": _object({"port": {"type": "string"}, "path": {"type": "string"}, "interval": _DURATION}),
            },
        },
        *("selector", "endpoints"),
    ),
    "monitoring.coreos.com/v1 PrometheusRule": _object(
        {
            "groups": {
                "type": "array",
                "items": _object({"name": {"type": "string"}, "rules": {"type": "array", "items": _RULE}}, "name"),
            }
        },
        "groups",
    ),
    "keda.sh/v1alpha1 ScaledObject": _object(
        {
            "scaleTargetRef": _TARGET,
            "minReplicaCount": _NUMBER,
            "maxReplicaCount": _NUMBER,
            "pollingInterval": _NUMBER,
            "advanced": _object({"horizontalPodAutoscalerConfig": _object({"behavior": _BEHAVIOR})}),
            "triggers": {"type": "array", "items": _TRIGGER, "minItems": 1},
        },
        *("scaleTargetRef", "triggers"),
    ),
}


@pytest.mark.parametrize("name", [None, *EXAMPLES])
def test_kubernetes_takes_every_object(name: str | None) -> None:
    objects = render(example(name) if name else {})
    places = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(places) == len(set(places)) >= 3
    for one in objects:
        custom = CUSTOM.get(f"{one['apiVersion']} {one['kind']}")
        if custom is not None:
            jsonschema.validate(one["spec"], custom)
            continue
        for version in (OLDEST.get(name or "", "1.30"), NEWEST):
            kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("name", [None, *EXAMPLES])
def test_what_objects_refer_to_is_there(name: str | None) -> None:
    """No schema sees that a volume is mounted that no one declares, or that a Service selects nothing."""
    values = example(name) if name else {}
    objects = render(values)
    named = {kind: {o["metadata"]["name"] for o in objects if o["kind"] == kind} for kind in ("Secret", "ConfigMap")}
    claims = {one["metadata"]["name"] for one in objects if one["kind"] == "PersistentVolumeClaim"}
    given = set(re.findall(r"[\w-]+", json.dumps(values)))
    stations = only(objects, "StatefulSet")["spec"]
    own = {template["metadata"]["name"] for template in stations.get("volumeClaimTemplates", [])}
    for pod in pod_specs(objects):
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        mounted = {mount["name"] for container in containers(pod) for mount in container.get("volumeMounts", [])}
        assert volumes.keys() <= mounted
        assert mounted <= volumes.keys() | own
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims | given
            if "secret" in volume:
                assert volume["secret"]["secretName"] in named["Secret"] | given
            if "configMap" in volume:
                assert volume["configMap"]["name"] in named["ConfigMap"]
    labels = stations["template"]["metadata"]["labels"].items()
    assert stations["selector"]["matchLabels"].items() <= labels
    service = only(objects, "Service")
    assert service["spec"]["selector"].items() <= labels
    for one in objects:
        if one["kind"] == "PodDisruptionBudget":
            assert one["spec"]["selector"]["matchLabels"].items() <= labels
        if one["kind"] == "NetworkPolicy" and one["spec"].get("ingress"):
            assert one["spec"]["podSelector"]["matchLabels"].items() <= labels
        if one["kind"] == "ServiceMonitor":
            assert one["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        if one["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}:
            assert one["spec"]["scaleTargetRef"]["name"] == only(objects, "StatefulSet")["metadata"]["name"]
            assert "replicas" not in stations
        # The Service must not send pictures to trainings and tests.
        if one["kind"] in {"Job", "Pod"}:
            other = one["spec"]["template"]["metadata"] if one["kind"] == "Job" else one["metadata"]
            assert not service["spec"]["selector"].items() <= other["labels"].items()


@pytest.mark.parametrize("name", [None, *EXAMPLES])
def test_pods_are_restricted(name: str | None) -> None:
    """The Pod Security Standard `restricted`, and a read-only root besides."""
    for pod in pod_specs(render(example(name) if name else {})):
        assert pod["automountServiceAccountToken"] is False
        security = pod["securityContext"]
        assert (security["runAsNonRoot"], security["runAsUser"]) == (True, 10001)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
        kinds = {kind for volume in pod.get("volumes", []) for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "image"}


@pytest.mark.parametrize(
    ("pre_stop", "grace", "timeout"), [(5, 3, 20), (0, 0, 0), (8, 7.5, 20), (600, 600, 600), (1, 0.1, 1)]
)
def test_a_pod_has_time_to_drain(pre_stop: int, grace: float, timeout: int) -> None:
    settings = {"drain_grace_s": grace, "drain_timeout_s": timeout}
    pod = only(render({"preStopSeconds": pre_stop, "settings": settings}), "StatefulSet")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= pre_stop + grace + timeout + 10
    (container,) = pod["containers"]
    sleeps = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert sleeps == pre_stop


def test_probes_ask_what_the_service_answers(client: Any) -> None:
    container = service_container(render({}))
    assert container["ports"] == [{"name": "http", "containerPort": int(image_environment()["INSPECT_PORT"])}]
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}
        assert client.get(path).status_code == 200


def test_a_gpu_is_asked_for_by_those_who_use_it_and_nobody_else() -> None:
    objects = render(example("gpu"))
    pod = only(objects, "StatefulSet")["spec"]["template"]["spec"]
    assert pod["runtimeClassName"] == "nvidia"
    assert [c["name"] for c in containers(pod)] == ["build-engine", "service"]
    for container in containers(pod):
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia" not in json.dumps(only(objects, "Pod")["spec"]["containers"])
    assert "nvidia" not in json.dumps(render(example("cpu")))


def test_trainings_reach_nothing_and_nobody_reaches_them() -> None:
    objects = render(example("everything"))
    labels = only(objects, "Job")["spec"]["template"]["metadata"]["labels"].items()
    policies = [one["spec"] for one in objects if one["kind"] == "NetworkPolicy"]
    (policy,) = [one for one in policies if one["podSelector"]["matchLabels"].items() <= labels]
    assert policy.keys() == {"podSelector", "policyTypes"}
    assert policy["policyTypes"] == ["Ingress", "Egress"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_scales_on_cpu(name: str) -> None:
    for one in render(example(name)):
        if one["kind"] == "HorizontalPodAutoscaler":
            assert [metric["type"] for metric in one["spec"]["metrics"]] == ["Pods"]
        if one["kind"] == "ScaledObject":
            (trigger,) = one["spec"]["triggers"]
            assert trigger["type"] == "prometheus"
            assert 'stage="queue"' in trigger["metadata"]["query"]


def _schema_of(field: str) -> Object:
    """What pydantic says of a setting, less what is not about its value."""
    schema = Settings.model_json_schema()["properties"][field]
    schema = schema["anyOf"][0] if "anyOf" in schema else schema
    return {key: schema[key] for key in schema if key not in {"title", "description", "default"}}


def test_values_and_schema_of_settings_are_those_of_the_service() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]
    values = yaml.safe_load((CHART / "values.yaml").read_text())["settings"]
    # The rest is the image's, or follows from other values.
    by_chart = {"records_dir", "api_keys_file", "trusted_key"}
    of_image = {name for name in Settings.model_fields if environment_name(name) in image_environment()}
    free = Settings.model_fields.keys() - NOT_IN_CONTAINERS - by_chart - of_image
    free |= {"backend"}  # of the GPU image; values of a GPU say it too
    assert schema["properties"] == {name: _schema_of(name) for name in schema["properties"]}
    assert schema["properties"].keys() == values.keys() == free
    defaults = Settings.model_construct().model_dump()
    assert {name: value or None for name, value in values.items()} == {name: defaults[name] or None for name in values}
    rendered = set(environment(service_container(render(example("everything")))))
    rendered |= set(environment(service_container(render(example("minimal")))))
    assert {name for name in rendered | image_environment().keys() if name.startswith("INSPECT_")} == {
        environment_name(name) for name in Settings.model_fields.keys() - NOT_IN_CONTAINERS
    }


def test_the_service_reads_what_the_chart_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also numbers: Helm would print 33554432 as 3.3554432e+07."""
    for name, value in (image_environment() | environment(service_container(render({})))).items():
        monkeypatch.setenv(name, value)
    image = {"host": "0.0.0.0", "models_dir": Path("/models"), "cache_dir": Path("/cache")}  # noqa: S104
    image |= {"records_dir": Path("/records"), "log_format": "json"}
    assert Settings() == Settings.model_construct(**image)
    values = example("everything")
    for name, value in environment(service_container(render(values))).items():
        monkeypatch.setenv(name, value)
    settings = Settings().model_dump()
    assert {name: settings[name] for name in values["settings"]} == values["settings"]
    assert settings["api_keys_file"] == Path("/run/inspect/api-keys/api-keys")


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"replica": 2}, "replica"),
        ({"replicas": 0}, "replicas"),
        ({"replicas": "2"}, "replicas"),
        ({"settings": {"max_batches": 4}}, "max_batches"),
        ({"settings": {"max_batch": 0}}, "max_batch"),
        ({"settings": {"max_batch": 4.5}}, "max_batch"),
        ({"settings": {"backend": "cuda"}}, "backend"),
        ({"settings": {"deadline_ms": 0}}, "deadline_ms"),
        ({"settings": {"drain_timeout_s": None}}, "drain_timeout_s"),
        ({"env": [{"name": "INSPECT_BACKEND", "value": "auto"}]}, "env"),
        ({"image": {"digest": "sha256:12"}}, "digest"),
        ({"resources": {"limits": {"memory": "2 GB"}}}, "memory"),
        ({"resources": {"claims": {}}}, "claims"),
        # Values that do not go together.
        ({"settings": {"backend": "tensorrt"}}, "gpu"),
        ({"gpu": {"enabled": True}, "image": {"tag": "gpu"}}, "backend"),
        ({"gpu": {"enabled": True}, "settings": {"backend": "ort-cuda"}}, "image"),
        ({"engines": {"build": True}}, "backend"),
        ({"models": {"source": "s3"}}, "source"),
        ({"models": {"source": "imageVolume"}}, "reference"),
        ({"models": {"source": "archives"}}, "archives"),
        ({"models": {"source": "archives", "archives": [{"url": "https://a/b.tar"}]}}, "sha256"),
        ({"models": {"source": "archives", "archives": [{"url": "ftp://a/b.tar", "sha256": "0" * 64}]}}, "url"),
        (
            {"models": {"source": "archives", "archives": [{"url": "oci://a/b", "sha256": "0" * 64}]}},
            "models.oci.image: name an image",
        ),
        ({"models": {"archives": example("s3")["models"]["archives"]}}, "source"),
        ({"models": {"claim": {"size": "10"}}}, "size"),
        ({"apiKeys": {"lines": ["a key in the clear"]}}, "lines"),
        ({"apiKeys": {"existingSecret": "keys", "lines": [f"admin {'0' * 64}"]}}, "lines"),
        ({"trustedKey": "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----"}, "trustedKey"),
        ({"autoscaling": {"kind": "cpu"}}, "kind"),
        ({"autoscaling": {"kind": "hpa", "hpa": {"metric": "cpu"}}}, "metric"),
        ({"autoscaling": {"kind": "keda"}}, "prometheus"),
        ({"autoscaling": {"kind": "hpa", "minReplicas": 5, "maxReplicas": 2}}, "minReplicas 5 is more than"),
        ({"networkPolicy": {"enabled": True}, "models": {**example("s3")["models"]}}, "egress"),
        ({"training": {"enabled": True}}, "source"),
        ({"training": {"enabled": True}, "models": {"source": "claim"}}, "categories"),
        ({"training": {"categories": ["a", "a"]}}, "categories"),
        ({"training": {"categories": ["../a"]}}, "categories"),
        ({"training": {"arguments": ["'; rm -rf /models; '"]}}, "arguments"),
        ({"training": {"preset": "fast"}}, "preset"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_wrong_values_are_refused(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(helm_python.HelmError, match=re.escape(complaint)):
        render(values)


def test_schema_and_templates_know_every_value() -> None:
    """A value that no template reads does nothing, silently."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    templates = "".join(file.read_text() for file in (CHART / "templates").rglob("*") if file.is_file())

    def leaves(part: Object, path: str) -> Iterator[str]:
        for key, value in part.items():
            if isinstance(value, dict) and value and key not in {"requests", "limits", "labels"}:
                yield from leaves(value, f"{path}.{key}")
            else:
                yield f"{path}.{key}"

    for path in leaves({name: value for name, value in values.items() if name != "settings"}, ".Values"):
        parent, key = path.rsplit(".", 2)[-2:]
        # `claim.size` is read as `$claim.size`, `serviceMonitor.interval` as `.interval`, `resources` whole.
        read = rf"\.{key}\b" if parent != "resources" else rf"\.{parent}\b"
        assert re.search(read, templates), path
    presets = json.loads((CHART / "values.schema.json").read_text())["properties"]["training"]["properties"]["preset"]
    assert presets["enum"] == list(PRESETS)


def test_rules_and_dashboard_are_those_of_docker() -> None:
    objects = render(example("everything"))
    assert only(objects, "PrometheusRule")["spec"] == yaml.safe_load((DOCKER / "prometheus/rules.yaml").read_text())
    (dashboard,) = [one for one in objects if one["metadata"]["name"].endswith("-dashboard")]
    shipped = json.loads((DOCKER / "grafana/dashboard.json").read_text())
    assert json.loads(dashboard["data"]["draem-inspect.json"]) == shipped
    # The alert that nothing answers looks for the job by name, whatever the release is called.
    (down,) = [r for g in only(objects, "PrometheusRule")["spec"]["groups"] for r in g["rules"] if "up{" in r["expr"]]
    (job,) = re.findall(r'job=~"([^"]+)"', down["expr"])
    label = only(objects, "ServiceMonitor")["spec"]["jobLabel"]
    assert re.fullmatch(job, only(objects, "Service")["metadata"]["labels"][label])


def test_a_packaged_chart_needs_no_checkout(tmp_path: Path) -> None:
    archive = Path(helm_python.package(CHART, destination=tmp_path))
    assert render(example("everything"), archive) == render(example("everything"))
    with tarfile.open(archive) as tar:
        names = {name.removeprefix("draem-inspect/") for name in tar.getnames()}
        assert all(member.isfile() for member in tar)
    assert {"Chart.yaml", "values.schema.json", "README.md", "files/rules.yaml"} <= names
    assert not {name for name in names if "examples" in name or name.endswith(("readme.py", "kserve.yaml"))}


def test_a_checkout_that_lost_its_links_says_so(tmp_path: Path) -> None:
    """Without symbolic links git writes their target into the file."""
    shutil.copytree(CHART, tmp_path / "helm")
    (tmp_path / "helm/files/rules.yaml").unlink()
    (tmp_path / "helm/files/rules.yaml").write_text("../../docker/prometheus/rules.yaml")
    render({}, tmp_path / "helm")
    with pytest.raises(helm_python.HelmError, match=r"files/rules\.yaml is not in this chart"):
        render({"monitoring": {"rules": {"enabled": True}}}, tmp_path / "helm")


def test_names_stay_short_enough() -> None:
    for one in render(example("everything"), name="r" * 53):
        # A Job's pods add their index, and Kubernetes takes the name as a label.
        assert len(one["metadata"]["name"]) <= (58 if one["kind"] == "Job" else 63)
    assert only(render({}, name="draem-inspect"), "Service")["metadata"]["name"] == "draem-inspect"


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
        options = training_parser().parse_args(words[2:])
        assert options.data == [Path("/photos") / category]
        assert (options.models, options.runs) == (Path("/models"), Path("/runs"))
        assert (options.preset, options.textures) == ("edge", Path("/photos/dtd/images"))
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
    options = commands._parser().parse_args(build["args"])
    assert options.command is commands.build_engine_command
    assert options.missing
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


def test_readme_is_made_from_the_values() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "helm.readme"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert (CHART / "README.md").read_text() == made, "python -m helm.readme > helm/README.md"


def test_chart_and_package_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {chart["version"], chart["appVersion"]} == {package["version"]}
    assert chart["name"] == package["name"]
