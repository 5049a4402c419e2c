"""Who may do what: API keys with roles, kept as hashes; without keys, administration only from this machine."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from pathlib import Path
from typing import Literal, NamedTuple

from starlette.requests import Request

from service.station.problem import ProblemError

Role = Literal["inspect", "admin"]

_LOCAL_NAMES = {"localhost", "127.0.0.1", "::1"}


class KeyFileError(Exception):
    """The file of API keys cannot be used; the message names the line."""


class _Key(NamedTuple):
    role: str
    sha256: str
    name: str


class Access:
    """Checks `X-API-Key` or `Authorization: Bearer` against a file of lines `role sha256-of-key [name]`.

    An admin key may do everything. Without a file everybody may inspect, and only loopback clients may administer.
    """

    def __init__(self, file: Path | None) -> None:
        self._keys = None if file is None else _read_keys(file)

    def require(self, request: Request, role: Role) -> str:
        """Who asks, by the name of the key; raises ProblemError unless the request may act as `role`."""
        if self._keys is None:
            if role == "admin" and not (_is_loopback(request) and _is_no_website(request)):
                raise ProblemError(
                    "forbidden", "without API keys administration is for this machine only: set INSPECT_API_KEYS_FILE"
                )
            return "this machine"
        sent = _sent_key(request)
        if sent is None:
            raise ProblemError("unauthorized", "this needs an API key: send X-API-Key, or Authorization: Bearer")
        digest = hashlib.sha256(sent.encode()).hexdigest()
        # Every key is compared, in constant time each: the answer's timing tells nothing of the keys.
        found = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not found:
            raise ProblemError("unauthorized", "this API key is not known here")
        allowed = [key for key in found if key.role in {role, "admin"}]
        if not allowed:
            raise ProblemError("forbidden", f"this API key may not {role}")
        return allowed[0].name or f"key {digest[:8]}"


def new_key(role: Role, name: str) -> tuple[str, str]:
    """A fresh key and the line for the key file that lets it in; the key itself is stored nowhere."""
    key = secrets.token_urlsafe(32)
    return key, f"{role} {hashlib.sha256(key.encode()).hexdigest()} {name}"


def _read_keys(file: Path) -> list[_Key]:
    keys: list[_Key] = []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        parts = line.split(maxsplit=2)
        if not parts or parts[0].startswith("#"):
            continue
        if len(parts) < 2 or parts[0] not in {"inspect", "admin"} or len(parts[1]) != 64:
            raise KeyFileError(f"{file}:{number}: not `inspect|admin <sha256 in hex> [name]`")
        keys.append(_Key(parts[0], parts[1].lower(), "".join(parts[2:]).strip()))
    if not keys:
        raise KeyFileError(f"{file}: no key in it: nobody could use the service")
    return keys


def _sent_key(request: Request) -> str | None:
    if key := request.headers.get("x-api-key"):
        return key
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" and token else None


def _is_no_website(request: Request) -> bool:
    """A page open in this machine's browser can send requests here; they carry its origin, or a name of its own."""
    host = request.url.hostname or ""
    origin = request.headers.get("origin")
    return host in _LOCAL_NAMES and (origin is None or origin == f"{request.url.scheme}://{request.url.netloc}")


def _is_loopback(request: Request) -> bool:
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
