"""The chart, rendered by Helm's library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import yaml

ROOT = Path(__file__).parents[2]
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
