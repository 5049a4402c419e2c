"""Values of the chart: the service's settings and nothing else, each read by a template, wrong ones refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from chart import CHART, Object, environment, example, render, service_container
from images import NOT_IN_CONTAINERS, environment_name, image_environment

from service.settings import Settings
from training.methods import METHODS


def _schema_of(field: str) -> Object:
    """What pydantic says of a setting, less what is not about its value."""
    schema = Settings.model_json_schema()["properties"][field]
    schema = schema["anyOf"][0] if "anyOf" in schema else schema
    return {key: schema[key] for key in schema if key not in {"title", "description", "default"}}


def test_values_and_schema_of_settings_are_those_of_the_service() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]
    values = yaml.safe_load((CHART / "values.yaml").read_text())["settings"]
    # The rest is the image's, or follows from other values.
    by_chart = {"records_dir", "api_keys_file", "trusted_key", "seal_key"}
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
        ({"ingress": {"host": "https://line-3"}}, "host"),
        ({"ingress": {"annotations": {"example.com/retries": 0}}}, "annotations"),
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
    assert presets["enum"] == [name for method in METHODS.values() for name in method.presets]
