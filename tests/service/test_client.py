"""Client, commands and qualification against a running service, and against none."""

import asyncio
import json
import re
from pathlib import Path

import httpx2
import pytest
from bundles import gray, png
from processes import running_service

from service.client import AsyncClient, Client
from service.client.load import qualify
from service.commands import run

NOWHERE = "http://127.0.0.1:9"


def test_no_answer_is_not_inspected() -> None:
    with Client(NOWHERE) as client:
        outcome = client.inspect(b"x")
    assert (outcome.verdict, outcome.status, outcome.score) == ("NOT_INSPECTED", None, None)
    assert "no answer" in outcome.detail


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"<html>ok</html>"), (200, b'{"verdict": "FINE"}'), (200, b'["OK"]'), (502, b'{"verdict": "OK"}')],
)
def test_strange_answers_are_not_inspected(status: int, body: bytes) -> None:
    """A proxy's page, an unknown verdict, or an OK under an error status must not pass for OK."""
    client = Client("http://station")
    client._http = httpx2.Client(
        base_url="http://station", transport=httpx2.MockTransport(lambda request: httpx2.Response(status, content=body))
    )
    with client:
        assert client.inspect(b"x").verdict == "NOT_INSPECTED"


@pytest.mark.slow
def test_commands_against_a_running_service(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("good", 51), ("bad", 204)):
        (tmp_path / f"{name}.png").write_bytes(png(gray(value)))
    (tmp_path / "text.png").write_text("text")
    with running_service(models, tmp_path / "log") as (_, http):
        url = ["--url", str(http.base_url)]

        def inspect(*names: str) -> tuple[int, list[str]]:
            code = run(["inspect", *(str(tmp_path / f"{name}.png") for name in names), *url])
            return code, [json.loads(line)["verdict"] for line in capsys.readouterr().out.splitlines()]

        assert inspect("good") == (0, ["OK"])
        assert inspect("good", "bad") == (1, ["OK", "NG"])
        assert inspect("text", "good") == (2, ["NOT_INSPECTED", "OK"])
        assert run(["inspect", str(tmp_path / "missing.png"), *url]) == 2
        assert "missing.png" in capsys.readouterr().err

        assert run(["limits", "part", "--review", "0.5", "--quality", "dark_max=0.8", *url]) == 0
        reply = json.loads(capsys.readouterr().out)
        assert (reply["thresholds"]["review"], reply["quality"]["dark_max"]) == (0.5, 0.8)
        assert run(["limits", "part", "--review", "0.9", *url]) == 1
        assert "above" in capsys.readouterr().out
        assert run(["limits", "part", "--reset", "--reject", "1", *url]) == 2
        capsys.readouterr()
        assert run(["limits", "part", *url]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert (shown["thresholds"]["review"], shown["limits"]["source"]) == (0.5, "changed")
        assert run(["limits", "nothing", *url]) == 2
        assert run(["limits", "part", "--reset", *url]) == 0
        assert '"manifest"' in capsys.readouterr().out
        assert run(["verify", "part", *url]) == 0
        assert run(["activate", "part", "7", *url]) == 1
        assert "has no version '7'" in capsys.readouterr().out

        record = tmp_path / "record.json"
        flags = ["--rate", "40/s", "--deadline", "60s", "--seconds", "1", "--record", str(record), *url]
        assert run(["qualify", str(tmp_path / "good.png"), *flags]) == 0
        figures = json.loads(record.read_text())
        assert (figures["sent"], figures["in_time"], figures["verdicts"]) == (40, 40, {"OK": 40})
        assert "PASS: 40 of 40" in capsys.readouterr().out
        assert run(["qualify", str(tmp_path / "text.png"), *flags]) == 1
        assert "FAIL: 0 of 40" in capsys.readouterr().out
        # A lens cap passes nothing, in time or not.
        (tmp_path / "dark.png").write_bytes(png(gray(0)))
        assert run(["limits", "part", "--quality", "dark_max=0.5", *url]) == 0
        assert run(["qualify", str(tmp_path / "dark.png"), *flags]) == 1
        told = capsys.readouterr().out
        assert "FAIL: 0 of 40" in told
        assert re.search(r"not inspected: .*too dark.* 40", told), told


def test_latency_counts_from_the_due_time_not_from_the_send() -> None:
    """A station that answers one image at a time, 50 ms each, at 40/s: the backlog must show."""

    async def measure() -> float:
        one_at_a_time = asyncio.Lock()

        async def answer(request: httpx2.Request) -> httpx2.Response:
            async with one_at_a_time:
                await asyncio.sleep(0.05)
            return httpx2.Response(200, json={"verdict": "OK", "score": 0.0})

        client = AsyncClient("http://station")
        await client.close()
        client._http = httpx2.AsyncClient(base_url="http://station", transport=httpx2.MockTransport(answer))
        async with client:
            result = await qualify(client, [b"x"], rate_hz=40, deadline_ms=100, seconds=1)
        assert not result.passed
        assert result.sent == 40
        return result.latency_ms["max"]

    assert asyncio.run(measure()) > 700


@pytest.mark.parametrize("flag", [["--rate", "12"], ["--rate", "0/s"], ["--rate", "12/s", "--deadline", "80"]])
def test_quantities_need_their_unit(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["qualify", "x.png", "--deadline", "80ms", *flag]) == 2
    assert "is not a number with" in capsys.readouterr().err
