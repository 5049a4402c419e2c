"""`python -m service limits`: what a recipe judges by; shown, changed, or set back to its manifest."""

from __future__ import annotations

import json
from typing import Annotated, Any

import httpx2
from pydantic import BeforeValidator, Field

from service.commands.connection import Connection, change_recipe, connect
from service.flags import POSITIONAL


def _named_values(values: object) -> object:
    if not isinstance(values, list):
        return values
    named = [str(value).partition("=") for value in values]
    if not all(separator for _, separator, _ in named):
        raise ValueError("is not of the form name=figure, such as sharpness_min=12.5")
    return [(name, figure) for name, _, figure in named]


class Limits(Connection):
    """Show what the version in service judges by; with values change it, with --reset go back to the manifest."""

    recipe: Annotated[str, POSITIONAL, Field(description="name of the recipe")]
    review: Annotated[float | None, Field(ge=0, le=1, description="score from which a part is REVIEW")] = None
    reject: Annotated[float | None, Field(ge=0, le=1, description="score from which a part is NG")] = None
    pixel: Annotated[float | None, Field(ge=0, le=1, description="value of the anomaly map that cuts regions")] = None
    min_area: Annotated[
        int | None, Field(ge=0, description="pixels, at the network's size, below which no region is reported")
    ] = None
    quality: Annotated[
        tuple[tuple[str, float], ...],
        BeforeValidator(_named_values),
        Field(description="limits of the image itself, such as sharpness_min=12.5"),
    ] = ()
    reset: Annotated[bool, Field(description="go back to all limits of the manifest")] = False


def run(request: Limits) -> int:
    names = ("review", "reject", "pixel", "min_area")
    change: dict[str, Any] = {name: value for name in names if (value := getattr(request, name)) is not None}
    if request.quality:
        change["quality"] = dict(request.quality)
    if change and request.reset:
        raise ValueError("--reset goes back to all limits of the manifest: name limits to change, or --reset, not both")
    if request.reset:
        return change_recipe(request, "POST", f"{request.recipe}/limits/reset")
    if change:
        return change_recipe(request, "PATCH", f"{request.recipe}/limits", json=change)
    return _show(request)


def _show(request: Limits) -> int:
    with connect(request, timeout_s=60) as client:
        response = client.get("/recipes")
    if response.status_code != httpx2.codes.OK:
        print(json.dumps(response.json()))
        return 1
    recipes = {recipe["recipe"]: recipe for recipe in response.json()}
    if request.recipe not in recipes:
        raise ValueError(f"no recipe {request.recipe!r}: the service has {', '.join(recipes) or 'none'}")
    found = recipes[request.recipe]
    print(json.dumps({name: found.get(name) for name in ("recipe", "version", "thresholds", "quality", "limits")}))
    return 0
