"""A part that is OK has no region and no heat, one that is not has a region: whatever the bundle and its limits."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import brightness_model, gray, make_bundle, png, wait_until_loaded
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from service.app import create_app
from service.settings import Settings

# Of the golden image: its mean less its largest value.
_MEAN = (50 * (64**2 - 100) + 200 * 100) / 64**2 / 255 - 200 / 255


def _shown(reply: dict[str, dict[str, str]]) -> NDArray[np.uint8]:
    data = np.frombuffer(base64.b64decode(reply["heatmap"]["data"]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)  # type: ignore[return-value]


@pytest.mark.parametrize("score", ["ReduceMax", "ReduceMean"])
def test_heat_and_regions_are_those_of_the_verdict(score: str, tmp_path: Path) -> None:
    shift = 0.0 if score == "ReduceMax" else _MEAN
    make_bundle(tmp_path, model=brightness_model(score=score), golden_shift=shift)
    app = create_app(Settings(records_dir=None, models_dir=tmp_path))
    rng = np.random.default_rng(7)
    seen = set()
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        wait_until_loaded(client)
        for _ in range(40):
            review, reject = np.sort(rng.uniform(0, 1, 2)).tolist()
            limits = {"review": review, "reject": reject, "pixel": rng.uniform(), "min_area": int(rng.integers(200))}
            assert client.patch("/recipes/part/limits", json=limits).status_code == 200
            picture = gray(int(rng.integers(20, 120)))
            y, x = rng.integers(0, 50, 2)
            picture[y : y + rng.integers(1, 14), x : x + rng.integers(1, 14)] = rng.integers(20, 240)
            asked = {"content": png(picture), "headers": {"Content-Type": "image/png"}}
            reply = client.post("/inspect?heatmap=overlay", **asked).json()
            seen.add(reply["verdict"])
            is_ok = reply["verdict"] == "OK"
            assert (reply["regions"] == []) is is_ok
            assert np.array_equal(_shown(reply), picture) is is_ok
            # What is drawn and what is only said take different ways.
            assert client.post("/inspect", **asked).json()["regions"] == reply["regions"]
    assert seen == {"OK", "REVIEW", "NG"}
