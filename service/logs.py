"""Log lines as text for people or as JSON for machines, from the same calls to `logging`.

Standard error is often a pipe of 64 KiB, and who reads it may stop. Nobody waits for it: a thread writes the lines, and
those that find no room are counted. No line shows a key, the variables of a traceback, or more than its share of bytes,
and none looks like two.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

# Bytes of lines that may wait for the writer, and seconds that the end of the process waits for them.
_WAITING_BYTES = 4_000_000
_FLUSH_S = 2.0
# Seconds from one write to the next: lines that come meanwhile share it.
_WRITE_EVERY_S = 0.025
# Characters of one value, and of a traceback: its end says most.
_LONGEST_VALUE = 4_000
_LONGEST_TRACEBACK = 8_000
_LONGEST_LINE = 32_000
_MOST_FIELDS = 40

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# A name that keeps a secret, what parts it from its value (in a URL, a dict, a list of headers, JSON inside JSON), the
# value.
_BETWEEN = r"""\\*["']?\s*[:=,]\s*(?:b(?=\\*["']))?\\*["']?"""
_SECRET = re.compile(
    r"((?:proxy-)?authorization|x-api-key|\bapi[-_]?key|\bpassword|\bsecret|\b(?:access_)?token)"
    rf"({_BETWEEN})(?:(?:bearer|basic|digest)\s+)?[^\s\"'\\&;,)}}\]]+",
    re.IGNORECASE,
)
_COOKIE = re.compile(rf"(cookie)({_BETWEEN})[^\"'\\\r\n)]+", re.IGNORECASE)
_BEARER = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
# Of a URL's query: whatever its name makes look like a secret.
_IN_QUERY = re.compile(
    r"([?&][^=?&\s\"']*(?:key|auth|token|secret|pass|pwd|sig|session|cred)[^=?&\s\"']*=)[^&\s\"'\\]+", re.IGNORECASE
)
_REDACTED = "[redacted]"
# Of each name above a part, in lower case: a line that has none of them has no secret.
_HINTS = ("authorization", "api", "password", "secret", "token", "cookie", "bearer", "basic")
_BETWEEN_FIELDS = re.compile(r"""[ \t=\r\n"']""")


class LogWriter(logging.Handler):
    """Writes lines to the file descriptor `fd` from a thread of its own; `emit` never waits for it."""

    def __init__(
        self,
        fd: int,
        on_lost: Callable[[], object] = lambda: None,
        *,
        most_waiting: int = _WAITING_BYTES,
        flush_s: float = _FLUSH_S,
        write_every_s: float = _WRITE_EVERY_S,
    ) -> None:
        super().__init__()
        self._most_waiting = most_waiting
        self._flush_s = flush_s
        self._write_every_s = write_every_s
        self.on_lost = on_lost
        self._fd = fd
        self._lines: deque[bytes] = deque()
        self._waiting = 0
        self._lost = 0
        self._change = threading.Condition()
        self._hurry = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name="log writer", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode(errors="backslashreplace") + b"\n"
        except Exception:
            # What cannot be shown must not end the request that it tells of.
            line = f"a log line of {record.name} could not be made\n".encode()
        with self._change:
            if self._waiting + len(line) > self._most_waiting:
                self._lost += 1
                lost = True
            else:
                lost = False
                self._lines.append(line)
                self._waiting += len(line)
                self._change.notify_all()
        if lost:
            self.on_lost()

    def flush(self) -> None:
        """Wait until all is written, at most `flush_s` seconds."""
        until = time.monotonic() + self._flush_s
        self._hurry.set()
        with self._change:
            while self._waiting and (left := until - time.monotonic()) > 0:
                self._change.wait(left)
        if not self._closed:
            self._hurry.clear()

    def close(self) -> None:
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._hurry.set()
        super().close()

    def _write_all(self) -> None:
        while True:
            with self._change:
                while not self._lines:
                    if self._closed:
                        return
                    self._change.wait()
                # All that came meanwhile in one go: each line on its own would cost its request changes of threads.
                lines = b"".join(self._lines)
                self._lines.clear()
            written = self._write(lines)
            with self._change:
                self._waiting -= len(lines)
                lost, self._lost = (self._lost, 0) if written and not self._lines else (0, self._lost)
                self._change.notify_all()
            if lost:
                log.error("%d log lines were lost: nobody read standard error", lost)
            if not written:
                self.on_lost()
            self._hurry.wait(self._write_every_s)

    def _write(self, line: bytes) -> bool:
        # Not through sys.stderr: its lock would be held, also at the end of the process, as long as nobody reads.
        try:
            while line:
                line = line[os.write(self._fd, line) :]
        except OSError:
            return False
        return True


log = logging.getLogger("draem_inspect")


def configure(level: str, log_format: Literal["text", "json"]) -> LogWriter:
    """Send every logger, and Python's warnings, to standard error; values passed as `extra` become fields."""
    # No line shows them, and to find them out took half the time of a line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # as Python's documentation advises
    writer = LogWriter(sys.stderr.fileno())
    writer.setFormatter(formatter(log_format))
    logging.basicConfig(level=level.upper(), handlers=[writer], force=True)
    logging.captureWarnings(True)
    return writer


def formatter(log_format: Literal["text", "json"]) -> logging.Formatter:
    return _Lines(_as_json if log_format == "json" else _as_text)


class _Lines(logging.Formatter):
    """One line a record, without secrets; for one that is too long a short one tells of it."""

    def __init__(self, render: Callable[[logging.LogRecord], str]) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        line = self._render(record)
        if len(line) > _LONGEST_LINE:
            short = logging.LogRecord(
                *(record.name, record.levelno, record.pathname, record.lineno),
                *("a log line of %d characters was left out; it began: %s", (len(line), redact(line)[:500]), None),
            )
            line = self._render(short)
        return redact(line)


def redact(text: str) -> str:
    """`text` without the values of keys, cookies and passwords in it."""
    # Looking for a few words, or marks, costs a tenth of looking for what stands around them.
    if "?" in text or "&" in text:
        text = _IN_QUERY.sub(rf"\1{_REDACTED}", text)
    lower = text.lower()
    if not any(word in lower for word in _HINTS):
        return text
    for secret in (_SECRET, _COOKIE):
        text = secret.sub(rf"\1\2{_REDACTED}", text)
    return _BEARER.sub(rf"\1 {_REDACTED}", text)


def _as_json(record: logging.LogRecord) -> str:
    fields = {
        "event": record.getMessage(),
        "level": record.levelname.lower(),
        "logger": record.name,
        **_extra(record),
        "timestamp": _timestamp(record),
    }
    bounded = {name: _shortened(value) for name, value in list(fields.items())[:_MOST_FIELDS]}
    if exception := _traceback(record):
        bounded["exception"] = exception
    return json.dumps(bounded)


def _as_text(record: logging.LogRecord) -> str:
    """What a client sent cannot begin a line that looks like another entry."""
    level = record.levelname.lower()
    parts = [_timestamp(record), f"[{level:<9}]", str(_escaped(_shortened(record.getMessage()))), f"[{record.name}]"]
    shown = sorted(list(_extra(record).items())[:_MOST_FIELDS])
    parts += [f"{name}={_quoted(_escaped(_shortened(value)))}" for name, value in shown]
    line = " ".join(parts)
    if exception := _traceback(record):
        line += "\n" + "\n".join("    " + str(_escaped(one)) for one in exception.split("\n"))
    return line


# What every record has, and uvicorn's coloured second copy.
_OF_EVERY_RECORD = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"})


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}


def _timestamp(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(1_000_000 * (record.created % 1)):06d}Z"


@lru_cache(16)
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()[:-6]


def _traceback(record: logging.LogRecord) -> str:
    """Files, lines and messages: never the variables, which hold images and keys; empty without an exception."""
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    text = io.StringIO()
    traceback.print_exception(*record.exc_info, limit=-20, file=text)
    whole = text.getvalue().rstrip()
    cut = len(whole) - _LONGEST_TRACEBACK
    return whole if cut <= 0 else f"[{cut} characters cut]\n{whole[cut:]}"


def _shortened(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else repr(value)
    cut = len(text) - _LONGEST_VALUE
    return text if cut <= 0 else f"{text[:_LONGEST_VALUE]}[{cut} characters cut]"


def _escaped(value: object) -> object:
    # Looking for one costs a tenth of replacing none.
    if not isinstance(value, str) or value.isprintable():
        return value
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", value)


def _quoted(value: object) -> str:
    """A value that has what stands between fields, in quotes."""
    return repr(value) if not isinstance(value, str) or _BETWEEN_FIELDS.search(value) else value
