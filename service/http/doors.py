"""How many connections there are, which of them gives way to a new one, and when bytes really reached this machine."""

from __future__ import annotations

import asyncio
import math
import resource
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

# Connections, and how many of the process's files are for other things: models, records, images, pipes.
_MOST_CONNECTIONS = 4_096
_OTHER_FILES = 64
# Seconds after which one whose image is still arriving may have to give way.
_SLOW_S = 1.0
# Seconds between two beats of the clock that notices when the event loop was away, from when on it was, and between two
# looks for connections whose time is over.
_BEAT_S = 0.02
_AWAY_S = 0.1
_LOOK_S = 0.5
# Seconds in which gRPC hands over what came while everything stood still.
_HANDED_ON_S = 0.25
# `tcpi_last_data_recv` of Linux's struct tcp_info: milliseconds since data last arrived.
_TCP_INFO_BYTES = 104
_LAST_RECEIVED_AT = 52


class Guest(Protocol):
    """A connection as the doors see it. It is `new` until it has brought a whole request; `since`: its last step."""

    address: str
    since: float

    @property
    def state(self) -> Literal["new", "receiving", "working", "idle"]: ...
    def look(self, now: float) -> None: ...
    def abort(self) -> None: ...


class Doors:
    """The connections of one server, at most `most`, and its clock; used from one event loop."""

    def __init__(
        self,
        most: int,
        on_refused: Callable[[str], object] = lambda code: None,
        on_evicted: Callable[[], object] = lambda: None,
    ) -> None:
        self.most = most
        self.on_refused = on_refused
        self._on_evicted = on_evicted
        self._guests: set[Guest] = set()
        # Those that are new, by address, the oldest first: a flood of them costs no search.
        self._new: dict[str, dict[Guest, None]] = {}
        self._beat: float | None = None
        self._away_since: float | None = None
        self._last_away = (-math.inf, -math.inf)
        self._looked = 0.0

    def enter(self, guest: Guest, instead_of: Guest | None = None) -> None:
        """Let a connection in, or let it continue another; where there is no room, one that is missed least goes."""
        if instead_of is not None:
            self.leave(instead_of)
        self.watch()
        if len(self._guests) >= self.most:
            missed_least = self._missed_least() or guest
            self.leave(missed_least)
            missed_least.abort()
            self._on_evicted()
            if missed_least is guest:
                return
        self._guests.add(guest)
        self._new.setdefault(guest.address, {})[guest] = None

    def watch(self) -> None:
        """Notice from now on when the event loop is away."""
        if self._beat is None:
            self._tick()

    def brought_a_request(self, guest: Guest) -> None:
        group = self._new.get(guest.address, {})
        group.pop(guest, None)
        if not group:
            self._new.pop(guest.address, None)

    def leave(self, guest: Guest) -> None:
        self.brought_a_request(guest)
        self._guests.discard(guest)

    def arrival(self, transport: asyncio.BaseTransport) -> float:
        """When the bytes that are read now came, on time.monotonic, as well as can be known: the kernel tells of the
        last of them, and while the event loop was away, stopped or busy, the first may have waited for all that time.
        """
        now = time.monotonic()
        came = now - _since_last_received(transport)
        if self._beat is not None and now - self._beat > _AWAY_S:
            return min(came, self._beat)
        return came if self._away_since is None else min(came, self._away_since)

    def arrival_of_call(self) -> float:
        """When came what a server with threads of its own hands over now: that one tells of no bytes, and hands over
        what waited a moment after the event loop is back.
        """
        now = time.monotonic()
        if self._beat is not None and now - self._beat > _AWAY_S:
            return self._beat
        since, until = self._last_away
        return since if now - until <= _HANDED_ON_S else now

    def _missed_least(self) -> Guest | None:
        """Of the address with most new ones the oldest; else one whose request has been arriving for longest; else the
        one that has been idle for longest. A request that is being worked on is never given up.
        """
        if self._new:
            most = max(self._new, key=lambda address: len(self._new[address]))
            return next(iter(self._new[most]))
        for state, least in (("receiving", _SLOW_S), ("idle", 0.0)):
            before = time.monotonic() - least
            found = [guest for guest in self._guests if guest.state == state and guest.since <= before]
            if found:
                return min(found, key=lambda guest: guest.since)
        return None

    def _tick(self) -> None:
        # First: whatever happens below, the next beat comes.
        asyncio.get_running_loop().call_later(_BEAT_S, self._tick)
        now = time.monotonic()
        # What waited meanwhile is read after this, before the next beat.
        self._away_since = self._beat if self._beat is not None and now - self._beat > _AWAY_S else None
        if self._away_since is not None:
            since, until = self._last_away
            # Away again before all was handed over.
            self._last_away = (since if self._away_since - until <= _HANDED_ON_S else self._away_since, now)
        self._beat = now
        if now - self._looked >= _LOOK_S:
            self._looked = now
            for guest in list(self._guests):
                guest.look(now)


def most_connections() -> int:
    """As many as the limit on open files leaves."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(8, min(_MOST_CONNECTIONS, limit - _open_files() - _OTHER_FILES))


def _open_files() -> int:
    try:
        return len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        return 0


def _since_last_received(transport: asyncio.BaseTransport) -> float:
    found = transport.get_extra_info("socket")
    try:
        info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        (milliseconds,) = struct.unpack_from("=I", info, _LAST_RECEIVED_AT)
    # No such question on this system, no socket behind a test's transport, a socket that is closed already.
    except (AttributeError, OSError, struct.error):
        return 0.0
    return float(milliseconds) / 1000
