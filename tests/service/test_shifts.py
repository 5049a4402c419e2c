"""Shifts by the clock of the station, on the days on which that clock is set."""

import time
from collections.abc import Callable, Iterator

import pytest

from service.station.shifts import read_shifts, shift_at


@pytest.fixture
def set_zone() -> Iterator[Callable[[str], None]]:
    with pytest.MonkeyPatch.context() as patch:

        def set_to(zone: str) -> None:
            patch.setenv("TZ", zone)
            time.tzset()

        yield set_to
    time.tzset()


# Begins of clocks set forward or back by an hour, by half an hour, and over a whole day at the date line.
@pytest.mark.parametrize(
    ("zone", "around"),
    [
        ("Europe/Berlin", 1_774_746_000),
        ("Europe/Berlin", 1_792_890_000),
        ("Australia/Lord_Howe", 1_775_314_800),
        ("Pacific/Apia", 1_325_239_200),
    ],
)
@pytest.mark.parametrize("begins", ["06:00,14:00,22:00", "02:00,02:30,03:00", "00:00"])
def test_every_moment_lies_in_its_shift(set_zone: Callable[[str], None], zone: str, around: int, begins: str) -> None:
    set_zone(zone)
    for moment in range(around - 86_400, around + 86_400, 900):
        shift = shift_at(moment, read_shifts(begins))
        assert shift.since <= moment < shift.until
