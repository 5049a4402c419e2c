"""Which threads give way to which."""

from __future__ import annotations

import os
import threading
from contextlib import suppress


def yield_to_requests() -> None:
    """Let the calling thread, and those it starts, give way to the rest of the service.

    Inference on the CPU keeps all cores busy; without this a refusal that takes microseconds waits milliseconds.
    """
    thread = threading.get_native_id()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, os.getpid()) + 5)
