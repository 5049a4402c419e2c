"""Recipes in service: bundles that were read, loaded, warmed and checked against their golden images."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from service.backends.base import Backend, BackendError
from service.backends.golden import Found, GoldenError, require_golden, require_golden_batches
from service.bundle.folder import Bundle, list_versions, read_bundle, replace_file
from service.bundle.manifest import BundleError
from service.images.decoding import ImageError, Pixels
from service.station.batching import Batcher, ClosedError, Model, Result
from service.station.limits import Limits, LimitsChange, LimitsError, change_limits, read_limits, reset_limits

# In a recipe's folder: the version to serve, then the one before it.
ACTIVE = "ACTIVE"
# Failed runs in a row, golden checks every few seconds among them, after which no more is hoped for in this process.
_LOST_AFTER = 10

log = logging.getLogger("draem_inspect")


class UnknownRecipeError(Exception):
    """There is no recipe of this name; the message lists those there are."""


class RecipeNotReadyError(Exception):
    """The recipe exists but cannot inspect; the message says why."""


@dataclass(frozen=True)
class Recipe:
    """A recipe version that passed the golden gate at `checked`, with the limits that its pictures are judged by."""

    bundle: Bundle
    model: Model
    checked: datetime
    limits: Limits
    # On time.monotonic, for what is due: `checked` is of a clock that may be set.
    checked_at: float = field(default_factory=time.monotonic)

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


class ActivationError(Exception):
    """The version was not activated, the one before goes on serving; the message says why."""


# What loading a version is known to end in, other than a ready recipe.
_REFUSED = (BundleError, BackendError, ClosedError, GoldenError, ImageError, LimitsError, OSError, ValueError)


class RecipeStore:
    """Every recipe below `models_dir`: ready in one version, or failed with a reason.

    `models_dir/<recipe>/ACTIVE` names the version to serve and the one before it; without that file it is the newest.
    A swap replaces one entry of `ready`: requests that began with the old version finish with it. `on_refused` is told
    the name of a recipe that failed its golden images where it serves, or was to.
    """

    def __init__(
        self,
        models_dir: Path,
        batcher: Batcher,
        open_model: Callable[[Bundle], Backend],
        *,
        default: str | None,
        check_bundle: Callable[[Bundle], None] = lambda bundle: None,
        on_refused: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._models_dir = models_dir
        self._batcher = batcher
        self._open_model = open_model
        self._default = default
        self._check_bundle = check_bundle
        self._on_refused = on_refused
        self._changing = threading.Lock()
        self.ready: dict[str, Recipe] = {}
        self.failed: dict[str, str] = {}
        self.shadows: dict[str, Recipe] = {}
        self.loaded = False

    def load(self) -> None:
        """Load one version of every recipe; a recipe that cannot be loaded is kept in `failed`, never raised."""
        try:
            for name, versions in list_versions(self._models_dir).items():
                try:
                    self.ready[name] = self._open(self._models_dir / name / self._chosen(name, versions))
                except ClosedError:
                    # Shutting down: nobody needs the others.
                    return
                except Exception as error:
                    self.failed[name] = _reason(name, error)
                    if isinstance(error, GoldenError):
                        self._on_refused(name)
        finally:
            self.loaded = True

    def activate(self, name: str, version: str) -> Recipe:
        """Load a version beside the one in service, check it, then serve it; ActivationError leaves all as it was."""
        with self._changing:
            known = list_versions(self._models_dir).get(name)
            if known is None:
                raise self._unknown(name)
            if version not in known:
                raise ActivationError(f"recipe {name!r} has no version {version!r}: choose {', '.join(known)}")
            before = self.ready.get(name)
            try:
                recipe = self._open(self._models_dir / name / version)
            except Exception as error:
                raise ActivationError(_reason(name, error)) from error
            if read_active(self._models_dir / name)[:1] != [version]:
                last = before.version if before and before.version != version else None
                try:
                    _write_active(self._models_dir / name, version, last)
                except OSError as error:
                    self._close(recipe.model)
                    raise ActivationError(str(error)) from error
            self.ready[name] = recipe
            self.failed.pop(name, None)
            if before:
                self._batcher.retire(before.model)
            return recipe

    def shadow(self, name: str, version: str | None) -> None:
        """Let a version see what recipe `name` sees, without a say; None ends that. Raises ActivationError."""
        with self._changing:
            self.get(name)
            if version is None:
                self._end_shadow(name)
                return
            known = list_versions(self._models_dir).get(name, [])
            if version not in known:
                raise ActivationError(f"recipe {name!r} has no version {version!r}: choose {', '.join(known)}")
            try:
                shadow = self._open(self._models_dir / name / version)
            except Exception as error:
                raise ActivationError(_reason(name, error)) from error
            self._end_shadow(name)
            self.shadows[name] = shadow

    def rollback(self, name: str) -> Recipe:
        """Activate the version that served before the present one, also where that one could not be loaded."""
        self._require_known(name)
        active = read_active(self._models_dir / name)
        if len(active) < 2:
            known = list_versions(self._models_dir).get(name, [])
            raise ActivationError(
                f"recipe {name!r}: no version served before this one: activate one of {', '.join(known)}"
            )
        return self.activate(name, active[1])

    def verify(self, name: str) -> Recipe:
        """Run the golden gate on the version in service.

        A recipe that gives other numbers, or cannot be checked, stops serving, and what it is still asked for gets no
        verdict: GoldenError. One whose backend does not run at all stays, not ready, and may recover, as one whose
        files are out of reach stays: BackendError.
        """
        with self._changing:
            recipe = self.get(name)
            try:
                check_golden(recipe.bundle, recipe.model, self._batcher)
            except (BackendError, ClosedError):
                raise
            except Exception as error:
                # Too many open files, a share that is away: says nothing about the recipe.
                if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                    log.error("recipe %s: its golden images cannot be read now: %s", name, error)
                    raise BackendError(f"the golden images cannot be read now: {error}") from error
                recipe.model.refused = True
                self._on_refused(name)
                del self.ready[name]
                self.failed[name] = _reason(name, error)
                self._batcher.retire(recipe.model)
                raise GoldenError(self.failed[name]) from error
            self.ready[name] = replace(recipe, checked=datetime.now(UTC), checked_at=time.monotonic())
            return self.ready[name]

    def change_limits(self, name: str, change: LimitsChange, by: str) -> Recipe:
        """Judge the pictures of a recipe's version in service by other limits from now on; raises LimitsError."""
        with self._changing:
            recipe = self.get(name)
            limits = change_limits(self._models_dir / name, recipe.bundle.manifest, change, by)
            self.ready[name] = replace(recipe, limits=limits)
            return self.ready[name]

    def reset_limits(self, name: str) -> Recipe:
        """Go back to the limits of the manifest, also where the changed ones cannot be read; raises ActivationError."""
        with self._changing:
            self._require_known(name)
            recipe = self.ready.get(name)
            versions = list_versions(self._models_dir).get(name, [])
            try:
                version = recipe.version if recipe else self._chosen(name, versions)
                reset_limits(self._models_dir / name, version)
                if recipe:
                    self.ready[name] = replace(recipe, limits=Limits.of(recipe.bundle.manifest))
                else:
                    self.ready[name] = self._open(self._models_dir / name / version)
                    self.failed.pop(name, None)
            except Exception as error:
                raise ActivationError(_reason(name, error)) from error
            return self.ready[name]

    def versions(self) -> dict[str, list[str]]:
        """All versions on disk of every recipe, oldest first."""
        return list_versions(self._models_dir)

    def get(self, name: str | None) -> Recipe:
        """The recipe of this name, or the default one; raises UnknownRecipeError or RecipeNotReadyError."""
        name = name or self.default_name()
        if name in self.ready:
            return self.ready[name]
        if name in self.failed:
            raise RecipeNotReadyError(f"recipe {name!r} could not be loaded: {self.failed[name]}")
        raise self._unknown(name)

    def default_name(self) -> str:
        """The configured default, or the only recipe there is."""
        if self._default:
            return self._default
        names = sorted({*self.ready, *self.failed})
        if len(names) != 1:
            raise UnknownRecipeError(f"the request names no recipe and there is no default: {self._choice()}")
        return names[0]

    def why_not_ready(self) -> str | None:
        """None when the station can inspect: everything was tried and the default, or any recipe, is ready."""
        if not self.loaded:
            return "recipes are being loaded and checked"
        if not self.ready and not self.failed:
            return f"no recipe in {self._models_dir}: put a bundle at {self._models_dir}/<recipe>/<version>"
        if not self.ready or (self._default and self._default not in self.ready):
            return "; ".join(f"{name}: {reason}" for name, reason in self.failed.items()) or self._choice()
        if broken := self._failing(1):
            return f"the backend failed on the last batch of {', '.join(broken)}"
        return None

    def why_not_alive(self) -> str | None:
        """None unless a backend that passed its golden images has failed run after run since: a lost device comes back
        in a new process alone. What was refused when it was loaded is no reason: it would be refused again.
        """
        if lost := self._failing(_LOST_AFTER):
            return f"the backend failed {_LOST_AFTER} times in a row for {', '.join(lost)}: restart the service"
        return None

    def close(self) -> None:
        for recipe in self.ready.values():
            self._close(recipe.model)

    def _failing(self, times: int) -> list[str]:
        # A copy: another thread may activate a recipe meanwhile.
        return sorted(name for name, recipe in list(self.ready.items()) if recipe.model.failures >= times)

    def _close(self, model: Model) -> None:
        """Give a model's memory back, unless a run uses it: then it goes with the run."""
        if self._batcher.retire(model):
            model.backend.close()

    def _end_shadow(self, name: str) -> None:
        # Not closed: pictures of requests under way may still be sent to it.
        if before := self.shadows.pop(name, None):
            self._batcher.retire(before.model)

    def _require_known(self, name: str) -> None:
        if name not in self.ready and name not in self.failed:
            raise self._unknown(name)

    def _unknown(self, name: str) -> UnknownRecipeError:
        return UnknownRecipeError(f"no recipe {name!r}: {self._choice()}")

    def _choice(self) -> str:
        names = sorted({*self.ready, *self.failed})
        return f"choose {', '.join(names)}" if names else "there are none"

    def _chosen(self, name: str, versions: list[str]) -> str:
        """The version that was activated last, else the newest of `versions`."""
        active = read_active(self._models_dir / name)
        return active[0] if active else versions[-1]

    def _open(self, path: Path) -> Recipe:
        bundle = read_bundle(path)
        self._check_bundle(bundle)
        limits = read_limits(path.parent, bundle.manifest)
        model = Model(self._open_model(bundle))
        try:
            check_golden(bundle, model, self._batcher)
            check_golden_batches(bundle, model, self._batcher)
            # The first runs pay for allocation and would spoil the estimate that admission relies on.
            model.seconds_per_image = 0.0
            check_golden(bundle, model, self._batcher)
        except BaseException:
            self._close(model)
            raise
        return Recipe(bundle, model, datetime.now(UTC), limits)


def check_golden(bundle: Bundle, model: Model, batcher: Batcher) -> None:
    """Run the golden images the way every image is run; raises GoldenError above the manifest's tolerance.

    Each as often as the backend runs side by side: its runs may differ in threads and memory, all must be right.
    """

    def run(image: Pixels) -> list[Found]:
        return _results([batcher.submit(model, image, math.inf) for _ in range(model.backend.lanes)])

    require_golden(bundle, model.backend.precision, run)


def check_golden_batches(bundle: Bundle, model: Model, batcher: Batcher) -> None:
    """Run golden images in batches of every size that the batcher may form; raises as `check_golden`.

    A GPU has kernels, graphs and memory for each: none is first tried on a part. Where nothing shares a run, as on a
    CPU, there is nothing to do.
    """

    def run(images: list[Pixels]) -> list[Found]:
        return _results(batcher.submit_batch(model, images))

    require_golden_batches(bundle, model.backend.precision, run, batcher.largest_batch(model))


def _results(futures: list[Future[Result]]) -> list[Found]:
    return [(result.anomaly_map, result.score) for result in [future.result() for future in futures]]


def _reason(name: str, error: Exception) -> str:
    """What `error` says; for one that nobody foresaw also its type, and its traceback in the log."""
    if isinstance(error, _REFUSED):
        return str(error)
    log.error("recipe %s is refused", name, exc_info=error)
    return f"{type(error).__name__}: {error}"


def read_active(folder: Path) -> list[str]:
    """The version to serve and the one before it, as far as they are known."""
    try:
        return (folder / ACTIVE).read_text().split()[:2]
    except FileNotFoundError:
        return []


def _write_active(folder: Path, version: str, before: str | None) -> None:
    replace_file(folder / ACTIVE, "\n".join(filter(None, (version, before))) + "\n")
