"""The chart, as far as it can be checked without a cluster: rendered by Helm's library, held to Kubernetes' schemas."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml
from chart import (
    CHART,
    EXAMPLES,
    NEWEST,
    OLDEST,
    ROOT,
    Object,
    containers,
    example,
    only,
    pod_specs,
    render,
    service_container,
)
from images import DOCKER, image_environment


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
        # The Service must not send images to trainings and tests.
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


def test_the_ingress_has_the_limits_of_nginx() -> None:
    found = (DOCKER / "nginx" / "nginx.conf").read_text()
    nginx = dict(re.findall(r"^ *(?:proxy_|limit_|client_)?(\w+) ([\w.]+);", found, re.M))
    ingress = only(render({"ingress": {"enabled": True}}), "Ingress")
    annotations = {key.rsplit("/", 1)[1]: value for key, value in ingress["metadata"]["annotations"].items()}
    assert int(annotations["proxy-body-size"]) == 2 * 33_554_432 == int(nginx["max_body_size"][:-1]) << 20
    assert annotations["client-body-buffer-size"] == nginx["body_buffer_size"]
    assert annotations["proxy-request-buffering"] == nginx["request_buffering"] == "off"
    assert annotations["proxy-read-timeout"] + "s" == nginx["read_timeout"]
    assert annotations["proxy-next-upstream"] == nginx["next_upstream"] == "off"
    assert annotations["proxy-http-version"] == nginx["http_version"]
    assert annotations["limit-connections"] == re.findall(r"limit_conn address (\d+);", found)[0]
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert (path["path"], path["backend"]["service"]["port"]) == ("/", {"name": "http"})
    assert "tls" not in ingress["spec"]
    whole = only(render(example("everything")), "Ingress")
    assert whole["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"] == "90"
    assert whole["metadata"]["annotations"]["nginx.ingress.kubernetes.io/auth-tls-secret"] == "floor/line-3-clients"
    assert whole["spec"]["tls"] == [{"secretName": "line-3-tls", "hosts": ["line-3.example.com"]}]
    station = {"ingress": {"enabled": True}, "settings": {"root_path": "/station", "max_upload_bytes": 1_500_000}}
    below = only(render(station), "Ingress")
    assert below["spec"]["rules"][0]["http"]["paths"][0]["path"] == "/station"
    assert below["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"] == "3000000"


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
