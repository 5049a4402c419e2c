"""Qualification of a station for a line: an open-loop load test that a slow answer cannot flatter.

Images are sent at fixed times whether or not earlier ones were answered, and each latency counts from the time the
image was due, not from when it was sent (no coordinated omission). What was not answered counts as late.
"""

from __future__ import annotations

import asyncio
import json
import platform
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np

from service.client.conversation import Outcome
from service.station.verdicts import Verdict


@dataclass(frozen=True)
class Qualification:
    """Figures of one run; latencies in milliseconds from the due time, of all answered images."""

    rate_hz: float
    deadline_ms: float
    seconds: float
    sent: int
    in_time: int
    verdicts: dict[str, int]
    problems: dict[str, int]
    latency_ms: dict[str, float]
    goodput_hz: float
    passed: bool


class Inspects(Protocol):
    """A client, as far as it is needed here."""

    async def inspect(self, image: bytes, *, recipe: str | None, deadline_ms: float | None) -> Outcome: ...


async def qualify(
    client: Inspects,
    images: list[bytes],
    *,
    rate_hz: float,
    deadline_ms: float,
    seconds: float,
    recipe: str | None = None,
    required: float = 0.999,
) -> Qualification:
    """Send `images` in turn at `rate_hz`; passes where the share `required` was inspected before its deadline.

    An image that the station would not judge (its faults say why) was not inspected.
    """
    outcomes: list[tuple[float, Outcome]] = []
    started = time.perf_counter() + 0.05
    count = round(rate_hz * seconds)

    async def one(index: int) -> None:
        due = started + index / rate_hz
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        left = deadline_ms - 1000 * (time.perf_counter() - due)
        outcome = await client.inspect(images[index % len(images)], recipe=recipe, deadline_ms=max(1.0, left))
        outcomes.append((1000 * (time.perf_counter() - due), outcome))

    # Few enough timers at once that the event loop itself is not the load.
    window = max(1, round(rate_hz))
    tasks: list[asyncio.Task[None]] = []
    for first in range(0, count, window):
        await asyncio.sleep(max(0.0, started + first / rate_hz - 0.5 - time.perf_counter()))
        tasks += [asyncio.create_task(one(index)) for index in range(first, min(count, first + window))]
    await asyncio.gather(*tasks)
    elapsed = time.perf_counter() - started
    inspected = [late for late, outcome in outcomes if _problem(outcome) is None]
    in_time = sum(late <= deadline_ms for late in inspected)
    return Qualification(
        rate_hz=rate_hz,
        deadline_ms=deadline_ms,
        seconds=round(elapsed, 3),
        sent=count,
        in_time=in_time,
        verdicts=dict(Counter(str(outcome.verdict) for _, outcome in outcomes)),
        problems=dict(Counter(filter(None, (_problem(outcome) for _, outcome in outcomes)))),
        latency_ms=_percentiles(inspected),
        goodput_hz=round(in_time / elapsed, 3),
        passed=in_time >= required * count,
    )


def report(qualification: Qualification) -> str:
    """PASS or FAIL and the figures, for a person."""
    q = qualification
    lines = [
        f"{'PASS' if q.passed else 'FAIL'}: {q.in_time} of {q.sent} images inspected within {q.deadline_ms:g} ms "
        f"at {q.rate_hz:g}/s for {q.seconds:g} s",
        "latency ms: " + "  ".join(f"{name} {value:.1f}" for name, value in q.latency_ms.items()),
        "verdicts: " + "  ".join(f"{name} {count}" for name, count in sorted(q.verdicts.items())),
    ]
    if q.problems:
        lines.append("not inspected: " + "  ".join(f"{name} {count}" for name, count in sorted(q.problems.items())))
    return "\n".join(lines)


def write_record(qualification: Qualification, file: Path, *, url: str) -> None:
    """The figures with machine and date, as JSON."""
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "client_machine": f"{platform.system()} {platform.machine()}",
        "url": url,
        **asdict(qualification),
    }
    file.write_text(json.dumps(record, indent=2) + "\n")


def _problem(outcome: Outcome) -> str | None:
    """Why an image was not inspected: a problem's code, or the names of its faults."""
    if outcome.status != 200:
        return str(outcome.reply.get("code", "no_answer"))
    if outcome.verdict is not Verdict.NOT_INSPECTED:
        return None
    return ",".join(fault.split(":")[0] for fault in outcome.reply.get("faults", [])) or "not_inspected"


def _percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    names = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
    return {name: round(float(np.percentile(values, percent)), 3) for name, percent in names.items()}
