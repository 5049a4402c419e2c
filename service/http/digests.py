"""Digests that a client sends with a body: what is judged must be the bytes that they are of.

`Content-Digest` and `Repr-Digest` (RFC 9530), which are the same here, for no body is encoded; `Digest` (RFC 3230) and
`Content-MD5` (RFC 1864).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from service.station.problem import ProblemError

_STRUCTURED = ("content-digest", "repr-digest")
DIGESTS = (*_STRUCTURED, "digest", "content-md5")
# As a request has them, of those that are of digests; most have none.
OF_DIGESTS = frozenset(name.encode() for name in (*DIGESTS, "trailer"))
_ALGORITHMS = {"md5": "md5", "sha": "sha1", "sha-256": "sha256", "sha-512": "sha512"}
# Bytes from which a digest takes long enough to be made in a thread.
_LARGE = 65_536


class _Claim(NamedTuple):
    header: str
    algorithm: str
    digest: bytes


async def require_digests(headers: Iterable[tuple[str, str]], body: bytes, what: str = "body") -> None:
    """Raises ProblemError where `body` is not what a header says, or where nobody here can tell."""
    sent = [(name.lower(), value) for name, value in headers]
    for name, value in sent:
        if name == "trailer" and not set(DIGESTS).isdisjoint(word.strip().lower() for word in value.split(",")):
            raise ProblemError("invalid_request", f"Trailer {value[:64]!r}: send the digest before the {what}")
    claims = [claim for name, value in sent if name in DIGESTS for claim in _claims(name, value)]
    if not claims:
        return
    large = len(body) > _LARGE
    wrong = await asyncio.to_thread(_first_wrong, claims, body) if large else _first_wrong(claims, body)
    if wrong is not None:
        raise ProblemError(
            "digest_mismatch",
            f"{wrong.header}: the {what} that arrived, {len(body)} bytes, has another {wrong.algorithm}: something on "
            "the way changed it, or the digest is of another; send it again",
        )


def _first_wrong(claims: list[_Claim], body: bytes) -> _Claim | None:
    for claim in claims:
        found = hashlib.new(_ALGORITHMS[claim.algorithm], body, usedforsecurity=False).digest()
        if not hmac.compare_digest(found, claim.digest):
            return claim
    return None


def _claims(header: str, value: str) -> Iterator[_Claim]:
    """What a header says in algorithms that are known here; raises ProblemError where that is nothing."""
    if header == "content-md5":
        yield _Claim(header, "md5", _decoded(header, value, "md5"))
        return
    known = False
    for member in value.split(","):
        name, _, encoded = member.partition("=")
        algorithm = name.strip().lower()
        if algorithm not in _ALGORITHMS:
            continue
        known = True
        if header in _STRUCTURED:
            encoded = encoded.partition(";")[0].strip()
            if len(encoded) < 2 or encoded[0] + encoded[-1] != "::":
                raise _malformed(header, value)
            encoded = encoded[1:-1]
        yield _Claim(header, algorithm, _decoded(header, encoded, algorithm))
    if not known:
        raise ProblemError(
            "invalid_request", f"{header} {value[:64]!r} has no algorithm that is known here: send sha-256 or sha-512"
        )


def _decoded(header: str, encoded: str, algorithm: str) -> bytes:
    try:
        digest = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise _malformed(header, encoded) from None
    if len(digest) != hashlib.new(_ALGORITHMS[algorithm], usedforsecurity=False).digest_size:
        raise _malformed(header, encoded)
    return digest


def _malformed(header: str, value: str) -> ProblemError:
    form = {"content-md5": "<base64>", "digest": "sha-256=<base64>"}.get(header, "sha-256=:<base64>:")
    return ProblemError("invalid_request", f"{header} {value[:64]!r} is no digest: send {header}: {form}")
