"""What a client wants to be answered with (RFC 9110, 12.5.1): JSON, or the overlay image itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

_Picture = Literal["png", "jpeg"]
# Each with the names that mean it, the most particular first.
_OFFERS: tuple[tuple[_Picture | None, tuple[tuple[str, ...], ...]], ...] = (
    (None, (("application/json",), ("application/*",), ("*/*",))),
    ("png", (("image/png", "image/x-png"), ("image/*",), ("*/*",))),
    ("jpeg", (("image/jpeg", "image/jpg", "image/pjpeg"), ("image/*",), ("*/*",))),
)


def wanted_picture(accepted: Sequence[str]) -> _Picture | None:
    """The image that the `Accept` headers prefer to JSON; None for JSON, also where they ask for neither.

    Of several with the same quality the one that is named first; `*/*` is JSON.
    """
    # What most clients send, and what curl does.
    if not accepted or accepted == ["*/*"]:
        return None
    entries = [_entry(entry) for entry in ",".join(accepted).split(",")]
    best: _Picture | None = None
    best_rank = (0.0, 0)
    for offer, names in _OFFERS:
        found = next(
            ((q, -i) for same in names for i, (media_type, q) in enumerate(entries) if media_type in same), None
        )
        if found is not None and found[0] > 0 and found > best_rank:
            best, best_rank = offer, found
    return best


def _entry(entry: str) -> tuple[str, float]:
    """A media type and its quality, 0 to 1; one that cannot be read is 1, as if it were not there."""
    media_type, *parameters = (part.strip().lower() for part in entry.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return media_type, max(0.0, min(1.0, float(value)))
            except ValueError:
                return media_type, 1.0
    return media_type, 1.0
