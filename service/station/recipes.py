"""Recipes in service: one version of each, and the changes of which that is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from service.backends.base import Backend, BackendError
from service.backends.golden import GoldenError
from service.bundle.folder import Bundle
from service.bundle.versions import Shelf
from service.station.batching import Batcher, ClosedError
from service.station.choosing import Choice, chosen_version, read_active, write_active
from service.station.collecting import CollectingRecipes, why_collecting
from service.station.decisions import DecisionError, Decisions
from service.station.defaults import DefaultRecipe
from service.station.following import ModelsFolder
from service.station.limits import Limits, LimitsChange, change_limits, reset_limits
from service.station.loading import Loader, Recipe, let_rest, reason

# Failed runs in a row, golden checks every few seconds among them, after which no more is hoped for in this process.
_LOST_AFTER = 10

log = logging.getLogger("draem_inspect")


class UnknownRecipeError(Exception):
    """There is no recipe of this name; the message lists those there are."""


class RecipeNotReadyError(Exception):
    """The recipe exists but cannot inspect; the message says why."""


class ActivationError(Exception):
    """The version was not activated, the one before goes on serving; the message says why."""


class RecipeStore:
    """Every recipe below `models_dir`: ready in one version, or failed with a reason.

    Which version, service.station.choosing says. A swap replaces one entry of `ready`: requests that began with the old
    version finish with it. `on_refused` is told the name of a recipe that failed its golden images where it serves, or
    was to, `on_endless` the bundle whose model computed for ever.
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
        on_endless: Callable[[Bundle], None] = lambda bundle: None,
        decisions: Decisions | None = None,
        forbid_older: bool = False,
        serve_unfit: bool = False,
    ) -> None:
        self._models_dir = models_dir
        self._batcher = batcher
        self._on_refused = on_refused
        self._on_endless = on_endless
        self.decisions = decisions or Decisions()
        self._forbid_older = forbid_older
        self.folder = ModelsFolder(models_dir)
        self._default = DefaultRecipe(default, models_dir, self.decisions)
        self._loader = Loader(
            batcher, open_model, check_bundle, self.decisions, self.folder.tell, serve_unfit=serve_unfit
        )
        self._changing = threading.Lock()
        self.collecting = CollectingRecipes(models_dir, self.decisions)
        self.ready: dict[str, Recipe] = {}
        self.failed: dict[str, str] = {}
        self.shadows: dict[str, Recipe] = {}
        # Recipes that serve, and why their golden check could not be made.
        self.unchecked: dict[str, str] = {}
        self.loaded = False

    def load(self) -> None:
        """Load one version of every recipe; a recipe that cannot be loaded is kept in `failed`, never raised."""
        try:
            self._default.read()
            self.collecting.look()
            shelves = self.folder.look()
            for name, shelf in shelves.items():
                try:
                    self._try(name, shelf)
                except ClosedError:
                    # Shutting down: nobody needs the others.
                    return
                self._let_rest(name, shelves)
            self.folder.tidy()
            self._after_a_look()
        finally:
            self.loaded = True

    def follow(self) -> list[str]:
        """Look at the folder again: try what is new or was repaired, forget what failed and is gone.

        Gives the recipes that were tried. Raises OSError where the folder cannot be read, and then changes nothing.
        """
        with self._changing:
            shelves = self.folder.look()
            self.collecting.look()
            for name in [name for name in self.failed if name not in shelves]:
                del self.failed[name]
            due = self.folder.due(self.ready, self.failed)
            for name in shelves.keys() - self.ready.keys() - self.failed.keys():
                self.failed[name] = "it appeared after the start, and is tried once its files stand still"
            for name in due:
                self._try(name, shelves[name])
            self._after_a_look()
            return due

    def activate(self, name: str, version: str, by: str = "this machine") -> Recipe:
        """Load a version beside the one in service, check it, then serve it; ActivationError leaves all as it was."""
        with self._changing:
            self._require_version(name, version)
            before = self.ready.get(name)
            folder = self._models_dir / name
            self._require_not_older(name, version)
            try:
                recipe = self._loader.open(folder / version)
            except Exception as error:
                raise ActivationError(reason(name, error)) from error
            last = before.version if before and before.version != version else None
            try:
                active = self._active(folder)
                if active is None or active.name != version:
                    active = write_active(folder, version, last, by, self.decisions)
            except (DecisionError, OSError) as error:
                self._loader.close(recipe.model)
                raise ActivationError(str(error)) from error
            recipe = replace(recipe, why=str(active))
            self.ready[name] = recipe
            self.failed.pop(name, None)
            if before:
                self._batcher.retire(before.model)
            return recipe

    def make_default(self, name: str, by: str) -> Recipe:
        """Let requests without a name be for this recipe from now on, also after a restart; raises ActivationError."""
        with self._changing:
            recipe = self.get(name)
            try:
                self._default.choose(name, by)
            except (DecisionError, OSError) as error:
                raise ActivationError(str(error)) from error
            return recipe

    def shadow(self, name: str, version: str | None) -> None:
        """Let a version see what recipe `name` sees, without a say; None ends that. Raises ActivationError."""
        with self._changing:
            self.get(name)
            if version is None:
                self._end_shadow(name)
                return
            self._require_version(name, version)
            try:
                shadow = self._loader.open(self._models_dir / name / version)
            except Exception as error:
                raise ActivationError(reason(name, error)) from error
            self._end_shadow(name)
            self.shadows[name] = shadow

    def rollback(self, name: str, by: str = "this machine") -> Recipe:
        """Activate the version that served before the present one, also where that one could not be loaded."""
        self._require_known(name)
        try:
            active = read_active(self._models_dir / name, self.decisions)
        except (DecisionError, OSError) as error:
            raise ActivationError(str(error)) from error
        if active is None or active.before is None:
            known = self.folder.shelf(name).names
            raise ActivationError(
                f"recipe {name!r}: no version served before this one: activate one of {', '.join(known)}"
            )
        return self.activate(name, active.before, by)

    def verify(self, name: str) -> Recipe:
        """Run the golden gate on the version in service.

        A recipe that gives other numbers, or cannot be checked, stops serving, and what it is still asked for gets no
        verdict: GoldenError. One whose backend does not run at all stays, not ready, and may recover, as one whose
        files are out of reach stays: BackendError.
        """
        with self._changing:
            recipe = self.get(name)
            try:
                self._loader.check(recipe)
            except (BackendError, ClosedError):
                raise
            except Exception as error:
                # Too many open files, a share that is away: says nothing about what is in memory.
                if isinstance(error, OSError):
                    away = f"the golden images cannot be read now: {error}"
                    if name not in self.unchecked:
                        log.error("recipe %s serves on, unchecked: %s", name, away)
                    self.unchecked[name] = away
                    raise BackendError(away) from error
                recipe.model.refused = True
                self._on_refused(name)
                del self.ready[name]
                self.failed[name] = reason(name, error)
                self._batcher.retire(recipe.model)
                raise GoldenError(self.failed[name]) from error
            if self.unchecked.pop(name, None):
                log.warning("recipe %s: its golden images can be read again", name)
            self.ready[name] = replace(recipe, checked=datetime.now(UTC), checked_at=time.monotonic())
            return self.ready[name]

    def take_out_endless(self) -> None:
        """Take every recipe out of service that has a run which never came back."""
        with self._changing:
            for name, recipe in list(self.ready.items()):
                if recipe.model.endless:
                    self.failed[name] = f"{recipe.bundle.path}: an image never came back from its model"
                    del self.ready[name]
                    self._on_refused(name)
                    if recipe.model.computes_for_ever:
                        self._on_endless(recipe.bundle)
                    log.error("recipe %s is out of service: %s", name, self.failed[name])
            for name, shadow in list(self.shadows.items()):
                if shadow.model.endless:
                    self._end_shadow(name)

    def change_limits(self, name: str, change: LimitsChange, by: str) -> Recipe:
        """Judge the images of a recipe's version in service by other limits from now on; raises LimitsError."""
        with self._changing:
            recipe = self.get(name)
            limits = change_limits(self._models_dir / name, recipe.bundle.manifest, change, by, self.decisions)
            self.ready[name] = replace(recipe, limits=limits)
            return self.ready[name]

    def reset_limits(self, name: str, by: str = "this machine") -> Recipe:
        """Go back to the limits of the manifest, also where the changed ones cannot be read; raises ActivationError."""
        with self._changing:
            self._require_known(name)
            recipe, folder = self.ready.get(name), self._models_dir / name
            try:
                version = (
                    recipe.version if recipe else chosen_version(folder, self.folder.shelf(name), self.decisions)[0]
                )
                reset_limits(folder, version, by, self.decisions)
                if recipe:
                    self.ready[name] = replace(recipe, limits=Limits.of(recipe.bundle.manifest))
            except Exception as error:
                raise ActivationError(reason(name, error)) from error
            if recipe is None:
                self._try(name, self.folder.shelf(name))
                if name in self.failed:
                    raise ActivationError(self.failed[name])
            return self.ready[name]

    def get(self, name: str | None) -> Recipe:
        """The recipe of this name, or the default one; raises UnknownRecipeError or RecipeNotReadyError."""
        name = name or self.default_name()
        if name in self.ready:
            return self.ready[name]
        if name in self.failed:
            raise RecipeNotReadyError(f"recipe {name!r} could not be loaded: {self.failed[name]}")
        if name in self.collecting.names:
            raise RecipeNotReadyError(why_collecting(name))
        raise self._unknown(name)

    def default_name(self) -> str:
        """The recipe of requests that name none: the one that was set, or chosen, or the only one beside the demo."""
        try:
            return self._default.name([*self.ready, *self.failed])
        except DecisionError as error:
            raise UnknownRecipeError(f"the request names no recipe and {error}: {self._choice()}") from error

    def why_not_ready(self) -> str | None:
        """None when the station can inspect: everything was tried and the default, or any recipe, is ready."""
        if not self.loaded:
            return "recipes are being loaded and checked"
        if not self.ready and not self.failed:
            if self.collecting.names:
                return "; ".join(map(why_collecting, self.collecting.names))
            return f"no recipe in {self._models_dir}: put a bundle at {self._models_dir}/<recipe>/<version>"
        if not self.ready or (self._default.setting and self._default.setting not in self.ready):
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
            self._loader.close(recipe.model)

    def _failing(self, times: int) -> list[str]:
        # A copy: another thread may activate a recipe meanwhile.
        return sorted(name for name, recipe in list(self.ready.items()) if recipe.model.failures >= times)

    def _end_shadow(self, name: str) -> None:
        # Not closed: images of requests under way may still be sent to it.
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

    def _require_version(self, name: str, version: str) -> None:
        known = self.folder.shelf(name).names
        if not known:
            raise self._unknown(name)
        if version not in known:
            raise ActivationError(f"recipe {name!r} has no version {version!r}: choose {', '.join(known)}")

    def _require_not_older(self, name: str, version: str) -> None:
        if not self._forbid_older:
            return
        shelf, recipe, active = self.folder.shelf(name), self.ready.get(name), self._active(self._models_dir / name)
        serving = recipe.version if recipe else active.name if active else None
        if serving not in (None, version) and version not in shelf.newer_than(str(serving)):
            raise ActivationError(
                f"version {version!r} is not newer than {serving!r}, as INSPECT_FORBID_OLDER wants it"
            )

    def _active(self, folder: Path) -> Choice | None:
        """The choice that is written down, if it can be believed."""
        try:
            return read_active(folder, self.decisions)
        except (DecisionError, OSError):
            return None

    def _try(self, name: str, shelf: Shelf) -> None:
        """Load the version that is meant; raises ClosedError alone, every other reason goes to `failed`."""
        folder = self._models_dir / name
        self.folder.trying(name)
        try:
            version, active = chosen_version(folder, shelf, self.decisions)
            recipe = self._loader.open(folder / version)
        except ClosedError:
            raise
        except Exception as error:
            self.failed[name] = reason(name, error)
            if isinstance(error, GoldenError):
                self._on_refused(name)
            return
        why = str(active) if active else self._remember(folder, version)
        self.failed.pop(name, None)
        self.ready[name] = replace(recipe, why=why)

    def _let_rest(self, name: str, beside: Collection[str]) -> None:
        """Of many recipes a line begins with one: none but the default keeps memory for runs until it has an image."""
        begins_with = None
        with suppress(DecisionError):
            begins_with = self._default.name(beside)
        recipe = self.ready.get(name)
        if recipe and len(beside) > 1 and name != begins_with:
            let_rest(recipe)

    def _remember(self, folder: Path, version: str) -> str:
        """Write down what was served first: a version that is damaged, or appears, later must not change it."""
        try:
            return str(write_active(folder, version, None, "the first start, as the newest", self.decisions))
        except (DecisionError, OSError) as error:
            return f"the newest; not kept, so that the next start decides again: {error}"

    def _after_a_look(self) -> None:
        """Keep the default that follows from the folder now, and say which versions are newer than those that serve."""
        self.folder.tell_newer({name: recipe.version for name, recipe in self.ready.items()})
        if fact := self._default.keep(self.ready, self.failed):
            self.folder.tell(fact)
