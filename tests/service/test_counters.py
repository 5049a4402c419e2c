import json
import re
from pathlib import Path

import numpy as np
import pytest
from bundles import gray, png
from fakes import wait_for
from fastapi.testclient import TestClient
from processes import running_service

from service.station.counters import Counters
from service.station.verdicts import Verdict


def _filled(scores: np.ndarray, version: str = "1") -> Counters:
    counters = Counters()
    for score in scores:
        counters.add("part", version, Verdict.REVIEW, float(score))
    return counters


def test_drift_is_small_for_the_same_distribution_and_large_for_another() -> None:
    rng = np.random.default_rng(0)
    calibration = rng.beta(2, 20, 200).tolist()
    same = _filled(rng.beta(2, 20, 500)).drift("part", calibration)
    shifted = _filled(rng.beta(2, 20, 500) + 0.1).drift("part", calibration)
    assert same is not None
    assert shifted is not None
    assert same < 0.15
    assert shifted > 0.6
    assert _filled(np.ones(500)).drift("part", calibration) == 1.0


def test_drift_is_not_told_from_pictures_that_were_not_judged() -> None:
    counters = _filled(np.full(500, 0.1))
    for _ in range(500):
        counters.add("part", "1", Verdict.NOT_INSPECTED, 0.9)
    assert counters.drift("part", [0.1] * 50) == 0.0
    assert counters.totals()["part"]["NOT_INSPECTED"] == 500


def test_drift_says_nothing_from_too_little_or_from_another_version() -> None:
    counters = _filled(np.full(49, 0.1))
    assert counters.drift("part", [0.1] * 50) is None
    counters.add("part", "1", Verdict.REVIEW, 0.1)
    assert counters.drift("part", [0.1] * 50) == 0.0
    assert counters.drift("part", []) is None
    counters.add("part", "2", Verdict.REVIEW, 0.1)
    assert counters.drift("part", [0.1] * 50) is None


def test_counts_by_verdict_until_reset(client: TestClient) -> None:
    for value in (51, 51, 102, 204, 0):
        client.post("/inspect", files={"image": png(gray(value))})
    counted = client.get("/counters").json()["part"]
    assert {name: counted[name] for name in ("total", "OK", "REVIEW", "NG", "NOT_INSPECTED")} == {
        "total": 5,
        "OK": 2,
        "REVIEW": 1,
        "NG": 1,
        "NOT_INSPECTED": 1,
    }
    assert counted["not_inspected"] == {"too dark": 1}
    client.post("/inspect", files={"image": b"text"})
    counted = client.get("/counters").json()["part"]
    assert (counted["total"], counted["NOT_INSPECTED"]) == (6, 2)
    assert counted["not_inspected"] == {"too dark": 1, "unsupported_image": 1}
    shown = client.get("/metrics").text
    assert 'inspect_not_inspected_total{code="unsupported_image",recipe="part"} 1.0' in shown
    assert re.search(r"^process_resident_memory_bytes \d", shown, re.M)
    assert client.post("/counters/reset", params={"recipe": "other"}).json()["part"]["total"] == 6
    reset = client.post("/counters/reset").json()["part"]
    assert (reset["total"], reset["not_inspected"]) == (0, {})


@pytest.mark.slow
def test_json_logs_have_one_object_a_line_with_the_request_id(models: Path, tmp_path: Path) -> None:
    with running_service(models, tmp_path / "log", log_format="json") as (_, client):
        headers = {"Content-Type": "image/png", "X-Request-Id": "line-4.17"}
        reply = client.post("/inspect", content=png(gray(204)), headers=headers).json()
        # The reply does not wait for its line.
        wait_for(lambda: "line-4.17" in (tmp_path / "log").read_text())
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    (inspected,) = [line for line in lines if line["event"] == "inspected"]
    assert (inspected["request_id"], inspected["verdict"], inspected["score"]) == ("line-4.17", "NG", reply["score"])
    assert all(line["timestamp"] and line["level"] for line in lines)
