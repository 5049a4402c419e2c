"""Multipart forms, from a body that is in memory already: every part as bytes, whether it has a filename or not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.station.problem import ProblemError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


@dataclass
class Part:
    """One part of a form; `filename` is None where the sender gave none, as curl's `-F image=<file` does."""

    name: str = ""
    filename: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)


def parse_form(content_type: str, body: bytes, *, max_parts: int) -> list[Part]:
    """The parts of a form, in order; raises ProblemError where it is cut short, malformed or has too many parts."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    end = b"--" + boundary + b"--"
    at = 0 if body.startswith(end) else body.find(b"\r\n" + end)
    if not boundary or at < 0:
        raise ProblemError("invalid_request", "the multipart form is cut short or names no boundary")
    if body[at:].strip() != end:
        raise ProblemError("invalid_request", "behind the end of the multipart form follows more: send one form")
    reader = _Reader(max_parts)
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise ProblemError("invalid_request", f"the multipart form cannot be read: {error}") from error
    return reader.parts


class _Reader:
    def __init__(self, max_parts: int) -> None:
        self.parts: list[Part] = []
        self._max_parts = max_parts
        self._field, self._value = bytearray(), bytearray()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_part_data": lambda data, start, end: self.parts[-1].data.extend(memoryview(data)[start:end]),
            "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._name_part,
        }

    def _begin(self) -> None:
        if len(self.parts) == self._max_parts:
            raise ProblemError("invalid_request", f"the form has more than {self._max_parts} parts")
        self.parts.append(Part())

    def _end_header(self) -> None:
        name, headers = self._field.decode("latin-1").lower(), self.parts[-1].headers
        if name in headers:
            raise ProblemError("invalid_request", f"part {len(self.parts)} of the form has {name[:64]!r} twice")
        headers[name] = self._value.decode("latin-1")
        self._field.clear()
        self._value.clear()

    def _name_part(self) -> None:
        part = self.parts[-1]
        options = parse_options_header(part.headers.get("content-disposition", ""))[1]
        part.name = options.get(b"name", b"").decode("utf-8", "replace")
        if (filename := options.get(b"filename")) is not None:
            part.filename = filename.decode("utf-8", "replace")
