"""The dashboard and the alert rules ask only for what /metrics of the running service has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import gray, png
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

DOCKER = Path(__file__).parents[1] / "docker"
RULES = DOCKER / "prometheus" / "rules.yaml"
DASHBOARD = DOCKER / "grafana" / "dashboard.json"
PROMTOOL = shutil.which("promtool")
SELECTOR = re.compile(r"(?<![:\w])(inspect_\w+)(?:\{([^}]*)\})?")


def _expressions(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "expr" and isinstance(value, str):
                yield value
            yield from _expressions(value)
    elif isinstance(part, list):
        for value in part:
            yield from _expressions(value)


def _rule_text() -> str:
    # Without the names of recording rules and the prose of annotations.
    lines = RULES.read_text().splitlines()
    return "\n".join(line for line in lines if not re.match(r"\s*(- record|summary|description|#)", line))


def _asked(text: str) -> set[tuple[str, str]]:
    """Metric and label pairs that an expression selects by; the label is empty where there is none."""
    asked = set()
    for name, matchers in SELECTOR.findall(text):
        asked |= {(name, ""), *((name, label) for label in re.findall(r"(\w+)\s*[=!]", matchers))}
    return asked


@pytest.mark.parametrize("file", [RULES, DASHBOARD], ids=lambda file: file.name)
def test_every_metric_and_label_asked_for_is_there(client: TestClient, file: Path) -> None:
    text = _rule_text() if file == RULES else "\n".join(_expressions(json.loads(file.read_text())))
    client.post("/recipes/part/shadow", params={"version": "1"})
    client.post("/inspect", files={"image": png(gray(0))})
    for _ in range(50):  # as many as drift is told from
        client.post("/inspect", files={"image": png(gray(51))})
    families = list(text_string_to_metric_families(client.get("/metrics").text))
    seen = {(s.name, label) for family in families for s in family.samples for label in ("", *s.labels)}
    asked = _asked(text)
    assert len(asked) > 10
    # Prometheus itself adds these two.
    assert {(name, label) for name, label in asked if label not in {"job", "instance"}} <= seen


@pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian package prometheus) is not installed")
@pytest.mark.parametrize("command", [["check", "rules", "rules.yaml"], ["test", "rules", "rules_test.yaml"]])
def test_promtool_accepts_the_rules(command: list[str]) -> None:
    done = subprocess.run([str(PROMTOOL), *command], cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
