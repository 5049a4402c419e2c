"""The dashboard and the alert rules ask only for what /metrics of the running service has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from bundles import gray, make_bundle, png
from chart import example, only, render
from fakes import wait_for
from fastapi.testclient import TestClient
from ports import free_port
from processes import running_service
from prometheus_client.parser import text_string_to_metric_families

DOCKER = Path(__file__).parents[2] / "docker"
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


def _promtool(*command: str | Path, cwd: Path = RULES.parent, text: str = "") -> None:
    if PROMTOOL is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    done = subprocess.run(
        [PROMTOOL, *map(str, command)], cwd=cwd, input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_rules_and_configuration() -> None:
    _promtool("check", "rules", "rules.yaml")
    _promtool("check", "config", "prometheus.yaml")


def test_alerts_fire_and_keep_quiet_as_their_unit_tests_say() -> None:
    _promtool("test", "rules", "rules_test.yaml")


def test_promtool_accepts_the_metrics(client: TestClient) -> None:
    client.post("/inspect", files={"image": png(gray(51))})
    _promtool("check", "metrics", text=client.get("/metrics").text)


@contextmanager
def _prometheus(folder: Path, target: httpx2.URL) -> Iterator[httpx2.Client]:
    """Prometheus with the configuration and rules that are shipped, watching `target`, and faster than on a line."""
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("prometheus (Debian package prometheus) is not installed")
    config = yaml.safe_load((RULES.parent / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "200ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(RULES)]
    (job,) = config["scrape_configs"]
    # What a ServiceMonitor adds, and autoscaling asks for.
    labels = {"namespace": "floor", "service": "line-draem-inspect"}
    job["static_configs"] = [{"targets": [f"{target.host}:{target.port}"], "labels": labels}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [prometheus, "--config.file=prometheus.yaml", "--storage.tsdb.path=data"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], cwd=folder, stdout=log, stderr=log
        )
    try:
        transport = httpx2.HTTPTransport(retries=8)
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}/api/v1", transport=transport) as client:
            yield client
    finally:
        process.terminate()
        process.wait()


def _ask(prometheus: httpx2.Client, query: str) -> list[Any]:
    reply = prometheus.get("/query", params={"query": query}).json()
    assert reply["status"] == "success", (query, reply)
    return list(reply["data"]["result"])


@pytest.mark.slow
def test_a_real_prometheus_answers_every_query(models: Path, tmp_path: Path) -> None:
    make_bundle(models, version="2", label="shadow")
    with (
        running_service(models, tmp_path / "log") as (_, service),
        _prometheus(tmp_path, service.base_url) as prometheus,
    ):
        service.post("/recipes/part/shadow", params={"version": "1"})
        headers = {"Content-Type": "image/png"}

        def inspect(rounds: int) -> None:
            for _ in range(rounds):
                for data in (png(gray(51)), png(gray(204)), png(gray(0)), b"no picture"):
                    service.post("/inspect", content=data, headers=headers)
            service.post("/inspect", content=png(gray(51)), headers={**headers, "X-Deadline-Ms": "0.01"})

        def scraped() -> bool:
            """Prometheus has seen all that the service counts now."""
            verdicts = "sum(inspect_verdicts_total)"
            counted = service.get("/counters").json()["part"]["total"]
            return [float(one["value"][1]) for one in _ask(prometheus, verdicts)] == [counted]

        # Twice, so that rates have two points: first as many as drift is told from.
        for rounds in (50, 5):
            inspect(rounds)
            wait_for(scraped)
        dashboard = list(_expressions(json.loads(DASHBOARD.read_text())))
        assert len(dashboard) > 20
        scaling = only(render(example("keda")), "ScaledObject")
        queries = [*dashboard, scaling["spec"]["triggers"][0]["metadata"]["query"]]
        for query in queries:
            asked = query.replace("$recipe", ".*").replace("$__rate_interval", "1m")
            assert _ask(prometheus, asked), query

        def rules() -> list[Any]:
            groups = prometheus.get("/rules").json()["data"]["groups"]
            return [rule for group in groups for rule in group["rules"]]

        wait_for(lambda: all(rule["health"] != "unknown" for rule in rules()))
        assert [rule for rule in rules() if rule["health"] != "ok"] == []
        assert len(rules()) > 10
