"""Whom the station believes: the key that signs bundles, and the files that say what serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from service.bundle.folder import Bundle
from service.settings import Settings
from service.station.decisions import LEDGER, Decisions, read_key


@dataclass(frozen=True)
class Trust:
    """`check_bundle` raises BundleError for a bundle that nobody trusted has signed; `decisions` are what is believed
    of the files that say which version serves, and by which limits.
    """

    check_bundle: Callable[[Bundle], None]
    decisions: Decisions

    @classmethod
    def of(cls, settings: Settings) -> Trust:
        """Raises OSError or ValueError for a key that cannot be used."""
        key = None if settings.seal_key is None else read_key(settings.seal_key)
        ledger = None if settings.records_dir is None else settings.records_dir / LEDGER
        return cls(
            _signature_check(settings), Decisions(key=key, closed=settings.trusted_key is not None, ledger=ledger)
        )


def _signature_check(settings: Settings) -> Callable[[Bundle], None]:
    if settings.trusted_key is None:
        return lambda bundle: None
    # Only needed where signatures are required.
    from service.bundle.signing import load_public_key, require_signature

    key = load_public_key(settings.trusted_key)
    return lambda bundle: require_signature(bundle, key)
