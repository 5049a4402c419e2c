"""What the device has to do: a model's images that wait, and those that share a run."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

from service.backends.base import Backend, Scored
from service.images.decoding import Pixels


@dataclass(eq=False)
class Model:
    """A backend with the batcher's running estimate of what one image costs the device, in seconds."""

    backend: Backend
    seconds_per_image: float = 0.0
    failures: int = 0  # in a row
    retired: bool = False
    refused: bool = False  # by the golden gate: what it gave and gives is not to be trusted
    endless: bool = False  # a run of it was given up
    computes_for_ever: bool = False  # and had not waited for the machine
    ran_at: float = 0.0  # when a run of it began last, on the batcher's clock
    rests: bool = False  # it gave back what only runs need, and none began since


@dataclass(frozen=True)
class Result:
    """What became of one image, and how long its batch ran."""

    scored: Scored
    model_s: float


@dataclass(eq=False)
class Job:
    model: Model
    image: Pixels
    deadline: float
    future: Future[Result] = field(default_factory=Future)


@dataclass(eq=False)
class Batch:
    """A run under way: when it began, and what the device had worked by then."""

    jobs: list[Job]
    started: float
    work_before: float
    lane: int
    computed_s: float = 0.0
    given_up: bool = False
