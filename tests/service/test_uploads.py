"""The reading of a request's body, apart from any route."""

import asyncio
import time

import pytest

from service.http.uploads import arrival
from service.station.problem import ProblemError


def test_a_body_has_to_arrive_in_its_time_however_late_the_deadline() -> None:
    async def trickle() -> None:
        async with arrival(time.monotonic() + 600, most_s=0.01):
            await asyncio.sleep(600)

    with pytest.raises(ProblemError, match=r"0\.01 s passed while the image was arriving"):
        asyncio.run(trickle())
