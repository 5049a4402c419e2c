"""The live screen's feed: every part arrives with its image, and no page can hold up the station."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import httpx2
import numpy as np
import pytest
from bundles import gray, png
from fastapi.testclient import TestClient
from processes import running_service
from replies import assert_problem, post

from service.station.feed import KEPT, Feed, View

MAP = np.zeros((4, 4), np.float32)


def entry(number: int) -> dict[str, str]:
    return {"inspection_id": str(number)}


def events(client: httpx2.Client) -> Iterator[tuple[str, dict[str, object]]]:
    with client.stream("GET", "/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in response.iter_lines():
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                yield name, json.loads(line[6:])


@pytest.mark.slow
def test_parts_of_before_and_of_now_arrive_and_shutting_down_waits_for_no_page(models: Path, tmp_path: Path) -> None:
    with running_service(models, tmp_path / "log", drain_grace_s=0) as (process, client):
        with httpx2.Client(base_url=client.base_url, timeout=300) as camera:
            send = {"content": png(gray(204)), "headers": {"Content-Type": "image/png", "X-Part-Id": "A 1"}}
            before = camera.post("/inspect", **send).json()
            found = events(client)
            states = [data for name, data in (next(found), next(found)) if name == "state"]
            assert [state["ready"] for state in states] == [True]
            now = camera.post("/inspect", **send).json()
            arrived = [next(data for name, data in found if name == "inspection")]
            assert [one["inspection_id"] for one in arrived] == [now["inspection_id"]]
            assert (arrived[0]["verdict"], arrived[0]["part_id"]) == ("NG", "A 1")
            camera.post("/inspect", content=b"text", headers={"Content-Type": "image/png", "X-Part-Id": "A 2"})
            refused = next(data for name, data in found if name == "inspection")
            assert (refused["verdict"], refused["part_id"]) == ("NOT_INSPECTED", "A 2")
            for picture in ("image", "overlay"):
                shown = camera.get(f"/events/{before['inspection_id']}/{picture}.jpg")
                assert cv2.imdecode(np.frombuffer(shown.content, np.uint8), cv2.IMREAD_COLOR).shape == (64, 64, 3)
        process.send_signal(signal.SIGTERM)
        list(found)
        # A stopped server ends as its signal says.
        assert process.wait() == -signal.SIGTERM


def test_a_part_that_is_not_among_the_newest_has_no_picture_here(client: TestClient) -> None:
    assert_problem(client.get("/events/gone/image.jpg"), 404, "not_found")
    known = post(client, png(gray(51))).json()["inspection_id"]
    assert client.get(f"/events/{known}/image.jpg").status_code == 200
    for _ in range(KEPT):
        post(client, png(gray(51)))
    assert client.get(f"/events/{known}/image.jpg").status_code == 404


def test_a_slow_page_misses_the_oldest_parts_and_memory_stays_bounded() -> None:
    feed = Feed()
    with feed.look_on() as page:
        for number in range(1000):
            feed.publish(entry(number), View(bytes(10_000_000), MAP, 0.5))
        assert page.get_nowait()["inspection_id"] == str(1000 - 256)
    assert feed.newest[-1] == entry(999)
    assert sum(feed.view(str(number)) is not None for number in range(1000)) * 10_000_000 <= 64_000_000
    assert feed.view("999") is not None
    feed.publish(entry(1000))
    assert page.qsize() == 255


def test_pages_are_bounded_and_a_closed_one_makes_room(client: TestClient) -> None:
    feed: Feed = client.app_state["station"].feed
    with ExitStack() as pages:
        for _ in range(32):
            pages.enter_context(feed.look_on())
        assert_problem(client.get("/events"), 429, "overloaded")
    assert not feed.full
