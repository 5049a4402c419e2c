"""A version of a recipe, from its folder to a model that is loaded, warmed and checked against its golden images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from service.backends.base import Backend, BackendError
from service.backends.golden import GoldenError
from service.bundle.folder import Bundle, litter_in, read_bundle
from service.bundle.manifest import BundleError
from service.images.headers import ImageError
from service.station.batching import Batcher, ClosedError
from service.station.decisions import DecisionError, Decisions
from service.station.golden_gate import check_golden, check_golden_batches
from service.station.limits import Limits, LimitsError, read_limits
from service.station.runs import Model

log = logging.getLogger("draem_inspect")

# What loading a version is known to end in, other than a ready recipe.
_REFUSED = (
    *(BundleError, BackendError, ClosedError, DecisionError, GoldenError, ImageError, LimitsError),
    *(OSError, ValueError),
)


@dataclass(frozen=True)
class Recipe:
    """A recipe version that passed the golden gate at `checked`, with the limits that its images are judged by, and
    why it is this version.
    """

    bundle: Bundle
    model: Model
    checked: datetime
    limits: Limits
    # On time.monotonic, for what is due: `checked` is of a clock that may be set.
    checked_at: float = field(default_factory=time.monotonic)
    why: str = ""

    @property
    def name(self) -> str:
        return self.bundle.manifest.recipe

    @property
    def version(self) -> str:
        return self.bundle.manifest.version

    @property
    def model_sha256(self) -> str:
        return self.bundle.model_sha256(self.model.backend.precision)

    @property
    def shape(self) -> tuple[int, int]:
        return self.bundle.manifest.input.height, self.bundle.manifest.input.width


class Loader:
    """Loads versions; `tell` gets facts for the log."""

    def __init__(
        self,
        batcher: Batcher,
        open_model: Callable[[Bundle], Backend],
        check_bundle: Callable[[Bundle], None],
        decisions: Decisions,
        tell: Callable[[str], None],
        *,
        serve_unfit: bool,
    ) -> None:
        self._batcher = batcher
        self._open_model = open_model
        self._check_bundle = check_bundle
        self._decisions = decisions
        self._tell = tell
        self._serve_unfit = serve_unfit

    def open(self, path: Path) -> Recipe:
        """Load the version in folder `path` and check it; raises what `reason` knows, and then nothing stays loaded."""
        bundle = read_bundle(path)
        self._check_bundle(bundle)
        if bundle.manifest.unfit:
            if not self._serve_unfit:
                raise BundleError(
                    f"{path} is unfit: {bundle.manifest.unfit}: train again, or set INSPECT_SERVE_UNFIT=true"
                )
            self._tell(f"{path} serves though it is unfit: {bundle.manifest.unfit}")
        for name in litter_in(bundle):
            self._tell(f"{path / name} is passed over: no part of the bundle")
        limits = read_limits(path.parent, bundle.manifest, self._decisions)
        model = Model(self._open_model(bundle))
        try:
            check_golden(bundle, model, self._batcher)
            check_golden_batches(bundle, model, self._batcher)
            # The first runs pay for allocation and would spoil the estimate that admission relies on.
            model.seconds_per_image = 0.0
            check_golden(bundle, model, self._batcher, most=1)
        except BaseException:
            self.close(model)
            raise
        return Recipe(bundle, model, datetime.now(UTC), limits)

    def check(self, recipe: Recipe) -> None:
        """Run the golden gate of a recipe in service again; raises as `check_golden`."""
        check_golden(recipe.bundle, recipe.model, self._batcher)

    def close(self, model: Model) -> None:
        """Give a model's memory back, unless a run uses it: then it goes with the run."""
        if self._batcher.retire(model):
            model.backend.close()


def let_rest(recipe: Recipe) -> None:
    """Have a model give back what only runs need, until it has the next image."""
    recipe.model.rests = True
    try:
        recipe.model.backend.rest()
    # It serves all the same.
    except Exception:
        log.exception("recipe %s: its model gave back no memory", recipe.name)


def reason(name: str, error: Exception) -> str:
    """What `error` says; for one that nobody foresaw also its type, and its traceback in the log."""
    if isinstance(error, _REFUSED):
        return str(error)
    log.error("recipe %s is refused", name, exc_info=error)
    return f"{type(error).__name__}: {error}"
