"""The integrator's job through the client alone: a line sends parts, meets failures, and finds its records."""

import asyncio
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import gray, png
from fakes import wait_for
from lossy import lossy_link
from processes import running_service

from service.client import Answer, AsyncClient, Box, Client, Page

GOOD, DOUBTFUL, BAD = gray(51), gray(110), gray(204)


def _found(client: Client, **wanted: str) -> list[dict]:  # type: ignore[type-arg]
    answer: Answer[Page] = client.search(**wanted)
    assert answer.value is not None, answer.detail
    return answer.value.items


@pytest.mark.slow
def test_a_line_is_integrated_through_the_client_alone(models: Path, tmp_path: Path) -> None:
    with (
        running_service(models, tmp_path / "log", record_images="all") as (process, http),
        lossy_link(http) as (url, link),
        Client(url, retries=3, timeout_s=60) as client,
    ):
        # The line asks what there is, and sends what its cameras give: files, bytes, arrays of 8 and 16 bits.
        assert [(one["recipe"], one["ready"]) for one in client.recipes().value or []] == [("part", True)]
        (tmp_path / "part.png").write_bytes(png(BAD))
        ramp = np.linspace(40_000, 60_000, 64 * 64).reshape(64, 64).astype(np.uint16)
        sent = [
            (png(GOOD), "OK"),
            (GOOD[:, :, 0], "OK"),
            (DOUBTFUL, "REVIEW"),
            (tmp_path / "part.png", "NG"),
            (ramp, "NG"),
        ]
        for number, (image, verdict) in enumerate(sent):
            outcome = client.inspect(image, recipe="part", part_id=f"A {number}")  # type: ignore[arg-type]
            assert outcome.verdict == verdict, outcome.detail

        # A part with all of the line's names; its reply is lost twice, and the part is inspected once.
        names = {"part_id": "Gehäuse 17", "camera_id": "left", "lot_id": "L 1", "metadata": {"order": "4711"}}
        link.losing = 2
        bad = client.inspect(BAD, trigger_id="T 1", heatmap="overlay", **names)  # type: ignore[arg-type]
        assert (bad.verdict, bad.replayed, link.lost) == ("NG", True, 2)
        drawn = client.inspect(png(BAD), part_id="B 1", heatmap="overlay").heatmap
        assert drawn is not None
        assert cv2.imdecode(np.frombuffer(drawn, np.uint8), cv2.IMREAD_COLOR).shape == (64, 64, 3)
        wait_for(lambda: _found(client, part_id="Gehäuse*"))
        (found,) = _found(client, part_id="Gehäuse 17")
        assert (found["inspection_id"], found["metadata"]) == (bad.inspection_id, {"order": "4711"})
        assert _found(client, lot="L 1", camera="left") == [found]

        # What is not inspected says why, and is on record too.
        assert client.inspect(GOOD, trigger_id="T 1").reply["code"] == "trigger_reused"
        assert client.inspect(b"no image", part_id="C 1").reply["code"] == "unsupported_image"
        assert client.inspect(GOOD, recipe="other").reply["code"] == "unknown_recipe"
        assert "too dark" in client.inspect(gray(0), part_id="C 2").detail
        assert "frozen" in client.inspect(BAD, camera_id="left", part_id="C 3").detail
        assert client.inspect(GOOD, deadline_ms=1).verdict in {"OK", "NOT_INSPECTED"}

        # Its record, images and review; then the counters.
        part = str(bad.inspection_id)
        wait_for(lambda: client.image(part).ok and client.anomaly_map(part).ok)
        assert client.image(part).value == BAD.tobytes()
        overlay = cv2.imdecode(np.frombuffer(client.overlay(part).value or b"", np.uint8), cv2.IMREAD_COLOR)
        assert overlay.shape == (64, 64, 3)
        mask = np.zeros((64, 64), np.bool_)
        mask[3:9, 4:8] = True
        said = client.review(part, "defect", defect_type="scratch", boxes=[Box(4, 3, 4, 6)], mask=mask)
        assert said.value is not None, said.detail
        assert (said.value["before"], said.value["after"], said.value["mask"]) == ("NG", "defect", True)
        record = client.record(part).value
        assert record is not None
        assert [one["boxes"] for one in record["reviews"]] == [[{"x": 4, "y": 3, "width": 4, "height": 6}]]
        assert client.defect_types().value == ["scratch"]
        reviews = client.reviews(recipe="part").value
        assert reviews is not None
        assert [one["inspection_id"] for one in reviews.items] == [part]
        assert client.record("none").code == "not_found"
        counted = client.counters().value
        assert counted is not None
        assert (counted["part"]["NG"], counted["part"]["REVIEW"]) == (4, 1)
        shift = client.shift().value
        assert shift is not None
        assert shift["recipes"]["part"]["NG"] == 4
        asyncio.run(_the_same_with_asyncio(url, part))

        # The station goes away in the middle: no verdict, and no exception.
        process.kill()
        gone = client.inspect(GOOD, deadline_ms=500)
        assert (gone.verdict, gone.status) == ("NOT_INSPECTED", None)
        assert client.counters().status is None


async def _the_same_with_asyncio(url: str, part: str) -> None:
    async with AsyncClient(url, retries=3) as client:
        outcomes = await asyncio.gather(*(client.inspect(GOOD, part_id=f"D {number}") for number in range(4)))
        assert {str(outcome.verdict) for outcome in outcomes} == {"OK"}
        first, rest = (await client.search(limit=1)).value, None
        assert first is not None
        rest = (await client.search(limit=1, cursor=first.cursor)).value
        assert rest is not None
        assert rest.items != first.items
        assert (await client.record(part)).ok
        assert (await client.reset_counters(recipe="part")).ok
