import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from bundles import gray, make_bundle, png, wait_until_loaded
from fastapi.testclient import TestClient
from processes import running_service
from replies import assert_problem

from service.app import create_app
from service.settings import Settings
from service.station.problem import ProblemError
from service.station.records import Record, Records, Trigger
from service.station.triggers import Triggers

HEADERS = {"Content-Type": "image/png", "X-Trigger-Id": "part 17"}
GOOD, BAD = png(gray(51)), png(gray(204))


def _client(models: Path, folder: Path, **more: object) -> TestClient:
    settings = Settings(models_dir=models, records_dir=folder, **more)  # type: ignore[arg-type]
    return TestClient(create_app(settings))


def test_the_same_trigger_gives_the_same_answer_even_after_a_restart(models: Path, tmp_path: Path) -> None:
    headers = {**HEADERS, "X-Part-Id": "A17"}
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        assert_problem(client.post("/inspect", content=b"broken", headers=headers), 400, "unsupported_image")
        first = client.post("/inspect", content=BAD, headers=headers)
        again = client.post("/inspect", content=BAD, headers=headers)
        assert again.json() == first.json()
        assert ("x-replayed" in first.headers, again.headers["x-replayed"]) == (False, "true")
        assert client.get("/counters").json()["part"]["total"] == 1
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        again = client.post("/inspect", content=BAD, headers={**headers, "Accept": "image/png"})
        assert again.json() == first.json()
        names = ["x-verdict", "x-score", "x-recipe", "x-recipe-version", "x-model-sha256", "x-limits", "x-part-id"]
        assert [again.headers[name] for name in names] == [first.headers[name] for name in names]
        assert again.headers["server-timing"] == first.headers["server-timing"]


def test_a_trigger_never_gives_the_answer_of_another_picture(models: Path, tmp_path: Path) -> None:
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        assert client.post("/inspect", content=GOOD, headers=HEADERS).json()["verdict"] == "OK"
        refused = client.post("/inspect", content=BAD, headers=HEADERS)
        assert_problem(refused, 409, "trigger_reused")
        assert "X-Trigger-Id of its own" in refused.json()["detail"]
        assert 'inspect_errors_total{code="trigger_reused"} 1.0' in client.get("/metrics").text
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        assert_problem(client.post("/inspect", content=BAD, headers=HEADERS), 409, "trigger_reused")
        assert client.post("/inspect", content=GOOD, headers=HEADERS).headers["x-replayed"] == "true"


def test_bare_pixels_in_another_layout_are_another_picture(client: TestClient) -> None:
    headers = {"Content-Type": "application/octet-stream", "X-Trigger-Id": "raw"}
    pixels = {"width": 60, "height": 80, "pixel_format": "Mono8"}
    turned = {"width": 80, "height": 60, "pixel_format": "Mono8"}
    assert client.post("/inspect", params=pixels, content=bytes([51]) * 4800, headers=headers).status_code == 200
    assert client.post("/inspect", params=pixels, content=bytes([51]) * 4800, headers=headers).status_code == 200
    again = client.post("/inspect", params=turned, content=bytes([51]) * 4800, headers=headers)
    assert_problem(again, 409, "trigger_reused")


def test_every_recipe_has_triggers_of_its_own(models: Path, tmp_path: Path) -> None:
    make_bundle(models, "strict", review=0.1, reject=0.15)

    def inspect(client: TestClient, recipe: str) -> Any:
        return client.post("/inspect", params={"recipe": recipe}, content=GOOD, headers=HEADERS).json()

    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        replies = [inspect(client, "part"), inspect(client, "strict")]
        assert [reply["verdict"] for reply in replies] == ["OK", "NG"]
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        assert [inspect(client, "part"), inspect(client, "strict")] == replies


@pytest.mark.parametrize(("hours", "status"), [(23, 409), (25, 200)])
def test_a_trigger_comes_free_when_its_answer_is_old(models: Path, tmp_path: Path, hours: int, status: int) -> None:
    reply = {"inspection_id": "old", "recipe": "part", "verdict": "OK"}
    records = Records(tmp_path / "records", image_budget_bytes=1)
    records.add(Record(reply, time.time() - 3600 * hours, Trigger("part", "part 17", "another picture"), None))
    records.close(wait_s=600)
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        assert client.post("/inspect", content=BAD, headers=HEADERS).status_code == status
    if status == 200:
        with _client(models, tmp_path / "records") as client:
            wait_until_loaded(client)
            assert client.post("/inspect", content=BAD, headers=HEADERS).headers["x-replayed"] == "true"


def test_hours_of_zero_remember_nothing(models: Path, tmp_path: Path) -> None:
    with _client(models, tmp_path / "records", trigger_hours=0) as client:
        wait_until_loaded(client)
        replies = [client.post("/inspect", content=picture, headers=HEADERS) for picture in (GOOD, BAD, BAD)]
    assert [reply.json()["verdict"] for reply in replies] == ["OK", "NG", "NG"]
    assert not any("x-replayed" in reply.headers for reply in replies)


async def _answer(triggers: Triggers, picture: bytes, number: int, *, fails: bool = False) -> Any:
    async with triggers.ask("part", "T 1", picture, time.monotonic() + 600) as asked:
        if asked.before is not None:
            return asked.before
        await asyncio.sleep(0.01)
        if fails:
            raise RuntimeError("no answer")
        asked.give({"number": number})
        return None


def test_of_requests_at_the_same_moment_one_is_inspected() -> None:
    async def ask() -> list[Any]:
        triggers = Triggers(None, hours=1)
        others = [_answer(triggers, b"picture", number) for number in range(1, 9)]
        other_picture = _answer(triggers, b"another picture", 9)
        failing = _answer(triggers, b"another picture", 0, fails=True)
        return await asyncio.gather(failing, *others, other_picture, return_exceptions=True)

    failed, *replies, refused = asyncio.run(ask())
    assert isinstance(failed, RuntimeError)
    (number,) = {reply["number"] for reply in replies if reply is not None}
    assert replies == [None if n == number else {"number": number} for n in range(1, 9)]
    assert isinstance(refused, ProblemError)
    assert refused.code == "trigger_reused"


def test_who_waits_for_another_request_waits_until_its_own_deadline() -> None:
    async def ask() -> None:
        triggers = Triggers(None, hours=1)
        async with triggers.ask("part", "T 1", b"picture", time.monotonic() + 600) as first:
            with pytest.raises(ProblemError) as raised:
                async with triggers.ask("part", "T 1", b"picture", time.monotonic() + 0.05):
                    raise AssertionError("there is no answer yet")
            assert raised.value.code == "deadline_passed"
            first.give({"number": 1})
        async with triggers.ask("part", "T 1", b"picture", time.monotonic() + 600) as again:
            assert again.before == {"number": 1}

    asyncio.run(ask())


@pytest.mark.slow
def test_two_requests_with_one_trigger_at_the_same_moment_are_one_inspection(models: Path, tmp_path: Path) -> None:
    replies = []
    with running_service(models, tmp_path / "log") as (_, client):

        def work() -> None:
            replies.append(client.post("/inspect", content=png(gray(60, 800)), headers=HEADERS).json())

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({reply["inspection_id"] for reply in replies}) == 1
