"""`python -m service activate | rollback | verify | shadow | default | collect`: which version serves, which recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from service.commands.connection import Connection, change_recipe
from service.flags import POSITIONAL


class Activate(Connection):
    """Serve a version of a recipe, after its golden images passed. The version before serves until then."""

    recipe: Annotated[str, POSITIONAL, Field(description="name of the recipe")]
    version: Annotated[str, POSITIONAL, Field(description="version to serve")]


class Rollback(Connection):
    """Serve the version again that served before this one."""

    recipe: Annotated[str, POSITIONAL, Field(description="name of the recipe")]


class Verify(Connection):
    """Run the golden images of the version in service now."""

    recipe: Annotated[str, POSITIONAL, Field(description="name of the recipe")]


class Shadow(Connection):
    """Let a version see every image without a say; without --version the shadow ends."""

    recipe: Annotated[str, POSITIONAL, Field(description="name of the recipe")]
    version: Annotated[str | None, Field(description="version that looks on")] = None


class Default(Connection):
    """Let requests that name no recipe be for this one, whatever recipes come beside it."""

    recipe: Annotated[str, POSITIONAL, Field(description="name of the recipe")]


class Collect(Connection):
    """Let a recipe without a model gather photos from the line for its first training; nothing is judged meanwhile."""

    recipe: Annotated[str, POSITIONAL, Field(description="name of the recipe that is to be trained")]
    end: Annotated[bool, Field(description="gather no more")] = False


def run_collect(request: Collect) -> int:
    return change_recipe(request, "POST", f"{request.recipe}/collect{'/end' if request.end else ''}")


def run_activate(request: Activate) -> int:
    return change_recipe(request, "POST", f"{request.recipe}/activate", params={"version": request.version})


def run_rollback(request: Rollback) -> int:
    return change_recipe(request, "POST", f"{request.recipe}/rollback")


def run_verify(request: Verify) -> int:
    return change_recipe(request, "POST", f"{request.recipe}/verify")


def run_shadow(request: Shadow) -> int:
    params = {"version": request.version} if request.version else {}
    return change_recipe(request, "POST", f"{request.recipe}/shadow", params=params)


def run_default(request: Default) -> int:
    return change_recipe(request, "POST", f"{request.recipe}/default")
