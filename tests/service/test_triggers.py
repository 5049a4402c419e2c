import asyncio
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import gray, make_bundle, png, wait_until_loaded
from fakes import FakeBackend, brightness
from fastapi.testclient import TestClient
from processes import running_service
from replies import assert_problem, post
from stations import opens, station
from tensors import INFER, bytes_input

from service.app import create_app
from service.settings import Settings
from service.station.problem import ProblemError
from service.station.record import Record, Trigger
from service.station.records import Records
from service.station.triggers import Judge, Triggers

HEADERS = {"Content-Type": "image/png", "X-Trigger-Id": "part 17"}
GOOD, BAD = png(gray(51)), png(gray(204))
JUDGE = Judge("1", "model", "limits")
GIVEN = {"version": "1", "model_sha256": "model", "limits": {"sha256": "limits"}}


def _client(models: Path, folder: Path, **more: object) -> TestClient:
    settings = Settings(models_dir=models, records_dir=folder, **more)  # type: ignore[arg-type]
    return TestClient(create_app(settings), base_url="http://localhost", client=("127.0.0.1", 50000))


def test_the_same_trigger_gives_the_same_answer_even_after_a_restart(models: Path, tmp_path: Path) -> None:
    headers = {**HEADERS, "X-Part-Id": "A17"}
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        assert_problem(client.post("/inspect", content=b"broken", headers=headers), 400, "unsupported_image")
        first = client.post("/inspect", content=BAD, headers=headers)
        again = client.post("/inspect", content=BAD, headers=headers)
        assert again.json() == first.json() | {"replayed": True}
        assert first.json()["replayed"] is False
        assert ("x-replayed" in first.headers, again.headers["x-replayed"]) == (False, "true")
        assert client.get("/counters").json()["part"]["NG"] == 1
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        again = client.post("/inspect", content=BAD, headers={**headers, "Accept": "image/png"})
        assert again.json() == first.json() | {"replayed": True}
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


@pytest.mark.parametrize(("first", "then"), [("A17", "A18"), (None, "A18"), ("A17", None)])
def test_a_trigger_never_gives_the_answer_of_another_part(
    client: TestClient, first: str | None, then: str | None
) -> None:
    """The camera is frozen and the counter began again: image and trigger are the same."""
    parts = [HEADERS | ({} if part is None else {"X-Part-Id": part}) for part in (first, then)]
    assert client.post("/inspect", content=GOOD, headers=parts[0]).json()["verdict"] == "OK"
    assert client.post("/inspect", content=GOOD, headers=parts[0]).headers["x-replayed"] == "true"
    refused = assert_problem(client.post("/inspect", content=GOOD, headers=parts[1]), 409, "trigger_reused")
    assert f"answered for part {first!r}, not {then!r}" in str(refused["detail"])
    tensor = {"headers": {**parts[1], "Content-Type": "application/json"}, "json": bytes_input([GOOD])}
    assert_problem(client.post(INFER, **tensor), 409, "trigger_reused")  # type: ignore[arg-type]


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
        again = [inspect(client, "part"), inspect(client, "strict")]
        assert again == [reply | {"replayed": True} for reply in replies]


@pytest.mark.parametrize(("hours", "status"), [(23, 409), (25, 200)])
def test_a_trigger_comes_free_when_its_answer_is_old(models: Path, tmp_path: Path, hours: int, status: int) -> None:
    reply = {"inspection_id": "old", "recipe": "part", "verdict": "OK", "part_id": None}
    records = Records(tmp_path / "records", image_budget_bytes=1)
    records.add(Record(reply, time.time() - 3600 * hours, Trigger("part", "part 17", "another image"), None))
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
    async with triggers.ask("part", "T 1", picture, time.monotonic() + 600, judge=lambda: JUDGE) as asked:
        if asked.before is not None:
            return asked.before
        await asyncio.sleep(0.01)
        if fails:
            raise RuntimeError("no answer")
        asked.give(GIVEN | {"number": number})
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
    assert replies == [None if n == number else GIVEN | {"number": number} for n in range(1, 9)]
    assert isinstance(refused, ProblemError)
    assert refused.code == "trigger_reused"


def test_who_waits_for_another_request_waits_until_its_own_deadline() -> None:
    async def ask() -> None:
        triggers = Triggers(None, hours=1)
        async with triggers.ask("part", "T 1", b"picture", time.monotonic() + 600, judge=lambda: JUDGE) as first:
            with pytest.raises(ProblemError) as raised:
                async with triggers.ask("part", "T 1", b"picture", time.monotonic() + 0.05, judge=lambda: JUDGE):
                    raise AssertionError("there is no answer yet")
            assert raised.value.code == "deadline_passed"
            first.give(GIVEN | {"number": 1})
        async with triggers.ask("part", "T 1", b"picture", time.monotonic() + 600, judge=lambda: JUDGE) as again:
            assert again.before == GIVEN | {"number": 1}

    asyncio.run(ask())


def _spoil(folder: Path) -> None:
    """Make the recipe's golden check fail from now on, as a changed file or a device that computes otherwise would."""
    golden = folder / "golden" / "0.png"
    golden.write_bytes(png(gray(7)))


def _outdated(client: TestClient, named: str, **more: Any) -> None:
    refused = client.post("/inspect", content=GOOD, headers=HEADERS, **more)
    assert named in str(assert_problem(refused, 409, "trigger_outdated")["detail"])
    assert "new X-Trigger-Id" in refused.json()["detail"]
    tensors = client.post(INFER, json=bytes_input([GOOD]), headers={"X-Trigger-Id": "part 17"})
    assert_problem(tensors, 409, "trigger_outdated")
    fresh = client.post("/inspect", content=GOOD, headers={**HEADERS, "X-Trigger-Id": str(uuid.uuid4())})
    assert (fresh.status_code, fresh.json()["replayed"]) == (200, False)


def _change_limits(client: TestClient, models: Path) -> None:
    assert client.patch("/recipes/part/limits", json={"review": 0.1}).status_code == 200


def _change_quality(client: TestClient, models: Path) -> None:
    assert client.patch("/recipes/part/limits", json={"quality": {"dark_max": 0.5}}).status_code == 200


def _activate_another(client: TestClient, models: Path) -> None:
    make_bundle(models, version="2", label="two")
    assert client.post("/recipes/part/activate", params={"version": "2"}).status_code == 200


@pytest.mark.parametrize(
    ("change", "named"),
    [(_change_limits, "other limits"), (_change_quality, "other limits"), (_activate_another, "version 1")],
)
def test_the_answer_of_what_serves_no_more_is_not_given_again(
    models: Path, tmp_path: Path, change: Callable[[TestClient, Path], None], named: str
) -> None:
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        assert client.post("/inspect", content=GOOD, headers=HEADERS).json()["verdict"] == "OK"
        assert (
            client.post(INFER, json=bytes_input([GOOD]), headers={"X-Trigger-Id": "part 17"}).headers["x-replayed"]
            == "true"
        )
        change(client, models)
        _outdated(client, named)
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        _outdated(client, named, params={"recipe": "part"})


def test_limits_that_are_set_back_give_the_answer_again(models: Path, tmp_path: Path) -> None:
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        first = client.post("/inspect", content=GOOD, headers=HEADERS).json()
        _change_limits(client, models)
        assert client.post("/recipes/part/limits/reset").status_code == 200
        assert client.post("/inspect", content=GOOD, headers=HEADERS).json() == first | {"replayed": True}


def test_a_model_file_of_another_content_gives_no_answer_of_the_first(models: Path, tmp_path: Path) -> None:
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        assert client.post("/inspect", content=GOOD, headers=HEADERS).status_code == 200
    shutil.rmtree(models / "part" / "1")
    make_bundle(models, label="another network under the same version")
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        _outdated(client, "another model file")


def test_no_answer_from_before_a_failed_golden_image_is_given_again(models: Path, tmp_path: Path) -> None:
    newer = {**HEADERS, "X-Trigger-Id": "part 18"}
    shutil.copytree(models / "part" / "1", tmp_path / "sound")
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        assert client.post("/inspect", content=GOOD, headers=HEADERS).json()["verdict"] == "OK"
        _spoil(models / "part" / "1")
        assert_problem(client.post("/recipes/part/verify"), 409, "recipe_not_ready")
        assert_problem(client.post("/inspect", content=GOOD, headers=HEADERS), 409, "recipe_not_ready")
        shutil.rmtree(models / "part" / "1")
        shutil.copytree(tmp_path / "sound", models / "part" / "1")
        assert client.post("/recipes/part/activate", params={"version": "1"}).status_code == 200
        _outdated(client, "failed its golden images")
        assert client.post("/inspect", content=GOOD, headers=newer).json()["replayed"] is False
    with _client(models, tmp_path / "records") as client:
        wait_until_loaded(client)
        refused = client.post("/inspect", content=GOOD, headers=HEADERS)
        assert_problem(refused, 409, "trigger_outdated")
        # What was inspected since is given again.
        assert client.post("/inspect", content=GOOD, headers=newer).json()["replayed"] is True


def test_nothing_is_given_again_while_the_backend_fails(models: Path) -> None:
    broken = threading.Event()

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if broken.is_set():
            raise RuntimeError("device lost")
        return brightness(images)

    backend = FakeBackend(run)
    with station(models, opens(backend)) as client:
        assert client.post("/inspect", content=GOOD, headers=HEADERS).json()["verdict"] == "OK"
        broken.set()
        assert_problem(post(client, BAD), 503, "backend_failed")
        assert_problem(client.post("/inspect", content=GOOD, headers=HEADERS), 409, "recipe_not_ready")
        broken.clear()
        assert post(client, BAD).json()["verdict"] == "NG"
        assert client.post("/inspect", content=GOOD, headers=HEADERS).json()["replayed"] is True


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
