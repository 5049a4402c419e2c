"""No late 200: the clock is looked at last, and what was not said is not on record."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import gray, png, wait_until_loaded
from fastapi.testclient import TestClient
from replies import assert_problem, post
from tensors import INFER, image_input

from service.app import create_app
from service.http import inspect, open_inference, orders
from service.settings import Settings

GOOD = png(gray(51))
SOON = {"X-Deadline-Ms": "1500"}
Ask = Callable[[TestClient, dict[str, str]], Any]

ASKS: dict[str, Ask] = {
    "JSON": lambda client, headers: post(client, GOOD, headers=headers),
    "overlay": lambda client, headers: post(client, GOOD, headers={"Accept": "image/png", **headers}),
    "batch": lambda client, headers: client.post("/inspect/batch", files={"image": GOOD}, headers=headers),
    "tensors": lambda client, headers: client.post(INFER, json=image_input(gray(51)[None]), headers=headers),
}


def _slow(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        time.sleep(1.6)
        return result

    return wrapped


@pytest.mark.parametrize("kind", ASKS)
def test_an_answer_that_is_ready_too_late_is_none(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    settings = Settings(records_dir=tmp_path / "records", models_dir=models, backend="ort-cpu")
    with TestClient(create_app(settings), base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        wait_until_loaded(client)
        trigger = {} if kind == "batch" else {"X-Trigger-Id": "7"}
        with monkeypatch.context() as patch:
            patch.setattr(orders, "inspection_reply", _slow(orders.inspection_reply))
            assert_problem(ASKS[kind](client, SOON | trigger), 504, "deadline_passed")
        assert client.get("/counters").json().get("part", {}).get("OK", 0) == 0
        assert not [found for found in client.get("/inspections").json() if found["verdict"] == "OK"]
        assert 'inspect_verdicts_total{recipe="part",verdict="OK"} 0.0' in client.get("/metrics").text
        # Nor is it remembered for the trigger: it comes again, is inspected, and both answers agree.
        again = ASKS[kind](client, trigger)
        assert again.status_code == 200
        assert "x-replayed" not in again.headers
        assert client.get("/counters").json()["part"]["OK"] == 1


@pytest.mark.parametrize("kind", ["JSON", "tensors"])
def test_an_answer_that_is_given_again_is_in_time_too(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "tensors":
        tensors = image_input(gray(51)[None]) | {"outputs": [{"name": "score"}]}
        ask: Ask = lambda client, headers: client.post(INFER, json=tensors, headers=headers)  # noqa: E731
    else:
        ask = ASKS[kind]
    trigger = {"X-Trigger-Id": "7"}
    assert ask(client, trigger).status_code == 200
    monkeypatch.setattr(inspect, "replay", _slow(inspect.replay))
    monkeypatch.setattr(open_inference, "_replay", _slow(open_inference._replay))
    assert_problem(ask(client, SOON | trigger), 504, "deadline_passed")
    assert ask(client, trigger).headers["x-replayed"] == "true"
