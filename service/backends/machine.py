"""What a measurement on this machine depends on, beside what was measured."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from service.backends.cpu import held_to


def runtime_versions() -> dict[str, str]:
    """Of those runtimes that are installed."""
    versions = {}
    for package in ("onnxruntime", "onnxruntime-gpu", "openvino"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def cpu_name() -> str:
    """Name and instructions of this CPU: a virtual machine's name alone does not tell what it can do."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    except OSError:
        return "unknown"
    fields = dict(line.split(":", 1) for line in first.splitlines() if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    model = " ".join(named.get(name, "") for name in ("model name", "cpu family", "model", "stepping")).strip()
    flags = hashlib.sha256(named.get("flags", named.get("Features", "")).encode()).hexdigest()[:12]
    return f"{model}, flags {flags}, oneDNN held to {held_to()}"


def usable_cores() -> int:
    """Cores that this process may use: its affinity, less where a container's CPU quota (cgroup v2) is smaller."""
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    return cores
