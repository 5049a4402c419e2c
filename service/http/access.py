"""Who may do what: API keys with roles, kept as hashes; without keys, administration only from this machine."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import stat
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request

from service.station.problem import ProblemError

# What a request may be for: see what the station is and does, read the metrics, inspect, say what a part is, change
# something.
Right = Literal["view", "metrics", "inspect", "review", "admin"]
Role = Literal["inspect", "review", "metrics", "admin"]

ROLES: dict[Role, frozenset[Right]] = {
    "inspect": frozenset({"view", "inspect"}),
    "review": frozenset({"view", "inspect", "review"}),
    "metrics": frozenset({"metrics"}),
    "admin": frozenset({"view", "metrics", "inspect", "review", "admin"}),
}

_THIS_MACHINE = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
_LOCAL_NAMES = {"localhost", "127.0.0.1", "::1"}
# Who sends one of these is a proxy, or wants to be taken for what it forwards: every one has names of its own.
_FORWARDED = re.compile(
    r"forward|proxy|\bvia$|envoy|cdn-loop|original|^x-(arr|azure|amz|amzn|appengine|cloud|host|nginx|sendfile|served)\b"
    r"|^(cf|fastly|akamai)-|(client|real|remote|user|source|peer|originating|cluster|external)[-_]?(ip|addr|host|port)"
)
_NEW_KEY = "`python -m service new-key ROLE NAME` prints a line for it"


class KeyFileError(Exception):
    """The file of API keys cannot be used; the message names the line and the remedy."""


class _Key(NamedTuple):
    rights: frozenset[Right]
    sha256: str
    name: str


class Access:
    """Checks `X-API-Key` or `Authorization: Bearer` against a file of lines `role sha256-of-key [name]`.

    Without a file everybody may do all but administer, and that may who asks from this machine, unless `local_admin` is
    off. `open_views` lets everybody see the station and its metrics also where there are keys.
    """

    def __init__(self, file: Path | None, *, local_admin: bool = True, open_views: bool = False) -> None:
        self._keys = None if file is None else _read_keys(file)
        self._local_admin = local_admin
        self._open_views = open_views

    def require(self, request: Request, right: Right) -> str:
        """Who asks, by the name of the key; raises ProblemError unless the request may do what takes `right`."""
        if self._keys is None:
            if right == "admin" and not (self._local_admin and _is_local(request)):
                raise ProblemError(
                    "forbidden",
                    "without API keys administration is for programs on this machine only, by its loopback address "
                    "and not through a proxy: set INSPECT_API_KEYS_FILE",
                )
            return "this machine" if right == "admin" else "anybody"
        if self._open_views and right in {"view", "metrics"}:
            return "anybody"
        sent = _sent_key(request.headers)
        if sent is None:
            raise ProblemError("unauthorized", "this needs an API key: send X-API-Key, or Authorization: Bearer")
        digest = hashlib.sha256(sent.encode()).hexdigest()
        # Every key is compared, in constant time each: the answer's timing tells nothing of the keys.
        found = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not found:
            raise ProblemError("unauthorized", "this API key is not known here")
        allowed = [key for key in found if right in key.rights]
        if not allowed:
            raise ProblemError("forbidden", f"this API key may not {_DONE[right]}")
        return allowed[0].name or f"key {digest[:8]}"

    @property
    def has_keys(self) -> bool:
        return self._keys is not None

    def may(self, request: Request, right: Right) -> bool:
        try:
            self.require(request, right)
        except ProblemError:
            return False
        return True


_DONE: dict[Right, str] = {
    "view": "see the station",
    "metrics": "read the metrics",
    "inspect": "inspect",
    "review": "review",
    "admin": "administer",
}


def new_key(role: Role, name: str) -> tuple[str, str]:
    """A fresh key and the line for the key file that lets it in; the key itself is stored nowhere."""
    key = secrets.token_urlsafe(32)
    return key, f"{role} {hashlib.sha256(key.encode()).hexdigest()} {name}"


def _read_keys(file: Path) -> list[_Key]:
    try:
        text = file.read_text()
        mode = file.stat().st_mode
    except (OSError, ValueError) as error:
        raise KeyFileError(f"{file}: the file of API keys cannot be read: {error}") from error
    if mode & stat.S_IWOTH:
        raise KeyFileError(f"{file}: everybody may write it, and so let in any key: chmod o-w {file}")
    keys: list[_Key] = []
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.split(maxsplit=2)
        if not parts or parts[0].startswith("#"):
            continue
        if len(parts) < 2 or parts[0] not in ROLES or not re.fullmatch(r"[0-9a-fA-F]{64}", parts[1]):
            raise KeyFileError(f"{file}:{number}: not `{'|'.join(ROLES)} <sha256 in hex> [name]`: {_NEW_KEY}")
        keys.append(_Key(ROLES[parts[0]], parts[1].lower(), "".join(parts[2:]).strip()))
    if not keys:
        raise KeyFileError(f"{file}: no key in it: nobody could use the service; {_NEW_KEY}")
    return keys


def _sent_key(headers: Headers) -> str | None:
    if key := headers.get("x-api-key"):
        return key
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" and token else None


def _is_local(request: Request) -> bool:
    """Whether a program on this machine asks, by a loopback address and name, and neither a proxy nor a website that
    is open in this machine's browser.
    """
    headers = request.headers
    host = headers.get("host", "")
    origins = [headers[name] for name in ("origin", "referer") if name in headers]
    return (
        request.client is not None
        and request.client.host in _THIS_MACHINE
        and not any(map(_FORWARDED.search, headers))
        and len(headers.getlist("host")) == 1
        and _name_of(host) in _LOCAL_NAMES
        and headers.get("sec-fetch-site", "none") in {"none", "same-origin"}
        and all(_origin(sent) == f"{request.url.scheme}://{host}" for sent in origins)
    )


def _name_of(netloc: str) -> str:
    """The host of `host[:port]`; empty for anything else."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:@]+))(?::\d{1,5})?", netloc)
    return "" if found is None else (found[1] or found[2]).lower()


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}"
