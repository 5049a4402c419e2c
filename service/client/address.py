"""Where a service is: `http://host:port`, `https://…`, or `http+unix:///run/inspect.sock` for a UNIX socket."""

from __future__ import annotations

from pathlib import Path

_UNIX = "http+unix://"
# What the Host header says: a socket has no name.
_NAME = "http://localhost"


def split_address(url: str) -> tuple[str, str | None]:
    """The base of all URLs, and the path of the socket that they are asked through; None for TCP. ValueError for a
    socket without a path from the root.
    """
    if not url.startswith(_UNIX):
        return url, None
    path = url.removeprefix(_UNIX)
    if not Path(path).is_absolute():
        raise ValueError(f"{url}: write the path of the socket from the root: {_UNIX}/run/inspect.sock")
    return _NAME, path
