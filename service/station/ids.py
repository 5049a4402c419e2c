"""Names of inspections and requests: random UUIDs (version 4), of which a request makes two."""

from __future__ import annotations

import os

_VARIANTS = "89ab"


def new_id() -> str:
    """What `str(uuid.uuid4())` gives, without the object between: a tenth of the time."""
    digits = os.urandom(16).hex()
    variant = _VARIANTS[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
