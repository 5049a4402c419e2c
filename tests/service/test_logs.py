"""Log lines: never in the way, never a secret, never two that are one."""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import pytest
from fakes import wait_for

from service.logs import LogWriter, configure, formatter, redact

KEY = "kq3-VERY_secret_0123456789"


def _line(message: str, *arguments: object, form: Literal["text", "json"] = "text", **fields: object) -> str:
    record = logging.getLogger("draem_inspect").makeRecord(
        "draem_inspect", logging.ERROR, __file__, 1, message, arguments, fields.pop("exc_info", None), None, fields
    )  # type: ignore[arg-type]
    return formatter(form).format(record)


def _failure(message: str = "boom") -> Any:
    api_key, headers = KEY, [(b"x-api-key", KEY.encode())]
    try:
        raise RuntimeError(f"{message} {len(api_key) + len(headers)}")
    except RuntimeError:
        return sys.exc_info()


@contextmanager
def _told_by_the_service(writer: LogWriter) -> Iterator[None]:
    """What the service itself logs goes to `writer` too."""
    own = logging.getLogger("draem_inspect")
    own.addHandler(writer)
    try:
        yield
    finally:
        own.removeHandler(writer)


@contextmanager
def _pipe(**bounds: float) -> Iterator[tuple[int, LogWriter, logging.Logger, list[None]]]:
    """The reading end of a pipe, a writer to the other, its logger, and what was lost."""
    reading, writing = os.pipe()
    lost: list[None] = []
    writer = LogWriter(writing, lambda: lost.append(None), **bounds)  # type: ignore[arg-type]
    logger = logging.Logger("test")
    logger.addHandler(writer)
    try:
        yield reading, writer, logger, lost
    finally:
        writer.close()
        for end in (reading, writing):
            with suppress(OSError):
                os.close(end)


def test_nobody_who_reads_costs_lines_and_no_time() -> None:
    with _pipe(most_waiting=100_000, flush_s=0.01) as (reading, writer, logger, lost), _told_by_the_service(writer):
        for number in range(1000):
            logger.error("%d %s", number, "x" * 1000)
        # The pipe is full, the writer waits for a reader, and this thread came here all the same.
        writer.flush()
        assert len(lost) > 700
        read = bytearray()

        def read_all() -> None:
            while b"were lost" not in read:
                read.extend(os.read(reading, 65_536))

        reader = threading.Thread(target=read_all, daemon=True)
        reader.start()
        reader.join(300)
        lines = read.decode().splitlines()
        kept = [int(line.split()[0]) for line in lines if line.endswith("x")]
        assert kept == sorted(set(kept))
        assert len(kept) == 1000 - len(lost)
        assert lines[-1] == f"{len(lost)} log lines were lost: nobody read standard error"


def test_a_closed_reader_costs_lines_alone() -> None:
    with _pipe() as (reading, _, logger, lost):
        os.close(reading)
        logger.error("nobody is there")
        wait_for(lambda: lost)


def test_all_lines_are_written_before_the_end() -> None:
    with _pipe() as (reading, writer, logger, _):
        for number in range(100):
            logger.error("%d", number)
        writer.flush()
        assert os.read(reading, 65_536).decode().split() == [str(number) for number in range(100)]


def test_lines_that_follow_closely_are_written_together() -> None:
    with _pipe(write_every_s=600) as (reading, writer, logger, _):
        logger.error("at once")
        assert os.read(reading, 65_536) == b"at once\n"
        logger.error("later")
        logger.error("together")
        assert select.select([reading], [], [], 0.2)[0] == []
        # Who waits for the end waits for no pause.
        writer.flush()
        assert os.read(reading, 65_536) == b"later\ntogether\n"


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_has_no_variables_and_an_end(form: Literal["text", "json"]) -> None:
    line = _line("request %s failed", "1", form=form, exc_info=_failure())
    assert "RuntimeError: boom 27" in line
    assert "test_logs.py" in line
    assert KEY not in line
    assert "headers" not in line.replace("len(headers)", "")
    long = _line("failed", form=form, exc_info=_failure("y" * 1_000_000), picture=b"\0" * 1_000_000)
    assert len(long) < 40_000
    if form == "json":
        assert json.loads(long)["logger"] == "draem_inspect"


@pytest.mark.parametrize(
    "text",
    [
        f"X-API-Key: {KEY}",
        f"Authorization: Bearer {KEY}",
        f"authorization=Basic {KEY}",
        f"Cookie: theme=dark; session={KEY}",
        f"GET /inspect?recipe=a&api_key={KEY}&width=3",
        f"GET /inspect?token={KEY}",
        f"GET /inspect?key={KEY}&width=3",
        f"GET /inspect?part=7?&Sig={KEY}",
        repr({"x-api-key": KEY}),
        repr([(b"x-api-key", KEY.encode()), (b"accept", b"*/*")]),
        json.dumps({"inner": json.dumps({"authorization": f"Bearer {KEY}"})}),
        f"sent Bearer {KEY} to nobody",
    ],
)
def test_no_key_is_written_whatever_it_is_in(text: str) -> None:
    assert KEY not in redact(text)
    assert KEY not in _line("%s", text)
    assert KEY not in json.loads(_line("%s", text, form="json"))["event"]


def test_what_is_no_secret_stays() -> None:
    text = "recipe part version 1: 401 this needs an API key: send X-API-Key, or Authorization: set token_count to 7"
    assert "version 1: 401 this needs an API key: send X-API-Key" in redact(text)
    assert redact("token_count=7 keys=3 monkey: 4") == "token_count=7 keys=3 monkey: 4"


def test_a_value_cannot_forge_a_line_of_its_own() -> None:
    forged = "A 17\n2026-01-02T00:00:00Z [info] inspected verdict=OK\x1b[2J\u2028"
    line = _line("inspected", part_id=forged)
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line
    assert "\\x0a2026-01-02" in line
    assert len(_line("inspected %s", forged).splitlines()) == 1
    parsed = json.loads(_line("inspected", form="json", part_id=forged))
    assert parsed["part_id"] == forged
    # A traceback has lines, and each begins with blanks.
    first, *rest = _line("failed", exc_info=_failure(forged)).splitlines()
    assert first.startswith("20")
    assert rest
    assert all(line.startswith("    ") for line in rest)


def test_python_warnings_and_odd_arguments_are_lines_too(capfd: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:], logging.getLogger().level
    writer = configure("info", "json")
    try:
        logging.getLogger("draem_inspect").info("%d", "no number")
        logging.getLogger("draem_inspect").info("Gehäuse \ud800")
        writer.flush()
    finally:
        logging.captureWarnings(False)
        logging.getLogger().handlers[:] = before[0]
        logging.getLogger().setLevel(before[1])
        writer.close()
    odd, surrogate = capfd.readouterr().err.splitlines()
    assert "could not be made" in odd
    assert json.loads(surrogate)["event"].startswith("Gehäuse")
