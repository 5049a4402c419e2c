"""The routes of Quality: how scores, verdicts and images change, and what other thresholds would have done."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from service.http.context import choose_recipe, station_of
from service.http.problems import openapi_responses
from service.http.records.looking import look
from service.http.times import Time
from service.station.problem import ProblemError
from service.station.recipes import RecipeNotReadyError, UnknownRecipeError
from service.station.tallies import (
    By,
    Group,
    Selection,
    bin_edges,
    grouped,
    histogram,
    p_chart,
    scores,
    what_if,
)
from service.station.verdicts import Verdict

router = APIRouter(tags=["quality"], responses=openapi_responses())

_DAY_S = 86_400.0
# Hours that a page can show, and that are looked through at once.
_MOST_S = 400 * _DAY_S
_CHARTED = (Verdict.REVIEW, Verdict.NG, Verdict.NOT_INSPECTED)
Threshold = Annotated[float | None, Query(ge=0, le=1, description="left out: the one in force")]


@router.get("/statistics")
async def statistics(
    request: Request,
    recipe: str | None = None,
    camera: str | None = None,
    version: str | None = None,
    after: Time = None,
    before: Time = None,
    by: By = "hour",
) -> dict[str, Any]:
    """Counts and means by hour, camera or recipe, p-charts of the verdicts, and a histogram of one recipe's scores.

    Without times the last 24 hours; figures by group are of whole quarters of an hour.
    """
    selection = _selection(recipe, camera, version, after, before, _DAY_S)
    groups = await look(request, lambda records: records.ask(partial(grouped, selection=selection, by=by)))
    return {
        "after": selection.after,
        "before": selection.before,
        "by": by,
        "groups": [_shown(group) for group in groups],
        "p_chart": {str(verdict): p_chart(groups, verdict) for verdict in _CHARTED},
        "histogram": None if recipe is None else await _histogram(request, recipe, selection),
    }


@router.get("/recipes/{recipe}/what-if")
async def what_if_thresholds(
    request: Request,
    recipe: str,
    review: Threshold = None,
    reject: Threshold = None,
    version: Annotated[str | None, Query(description="left out: the one in service")] = None,
    after: Time = None,
    before: Time = None,
) -> dict[str, Any]:
    """What other thresholds would have said of the scores on record, the newest 100,000 at most, by score alone."""
    station = station_of(request)
    station.access.require(request, "inspect")
    limits = choose_recipe(station, recipe).limits.thresholds
    chosen = version or choose_recipe(station, recipe).version
    now = limits.review, limits.reject
    then = limits.review if review is None else review, limits.reject if reject is None else reject
    if then[0] > then[1]:
        raise ProblemError("invalid_request", f"review {then[0]:g} is above reject {then[1]:g}: send both")
    selection = _selection(recipe, None, chosen, after, before, _MOST_S)
    found = await look(request, lambda records: what_if(records.ask(partial(scores, selection=selection)), now, then))
    return {
        "recipe": recipe,
        "version": chosen,
        "thresholds": {"review": now[0], "reject": now[1]},
        "wanted": {"review": then[0], "reject": then[1]},
        **found,
    }


def _selection(
    recipe: str | None,
    camera: str | None,
    version: str | None,
    after: float | None,
    before: float | None,
    span_s: float,
) -> Selection:
    # A clock that was ahead left rows of times that are to come.
    now = time.time() + 1
    until = now if before is None else min(before, now)
    since = until - span_s if after is None else after
    if not 0 < until - since <= _MOST_S:
        raise ProblemError("invalid_request", "before: it must be after `after`, by 400 days at most, and `after` past")
    return Selection(recipe, camera, version, since, until, now)


async def _histogram(request: Request, recipe: str, selection: Selection) -> dict[str, Any] | None:
    """Scores of one version, beside the thresholds where it is the one in service; None for an unknown recipe."""
    try:
        serving = station_of(request).recipes.get(recipe)
    except (UnknownRecipeError, RecipeNotReadyError):
        return None
    limits = serving.limits.thresholds
    chosen = Selection(
        recipe, selection.camera, selection.version or serving.version, selection.after, selection.before
    )
    values, _ = await look(request, lambda records: records.ask(partial(scores, selection=chosen)))
    edges = bin_edges(values, limits.review, limits.reject)
    of_serving = chosen.version == serving.version
    return {
        "version": chosen.version,
        "edges": edges.tolist(),
        "counts": histogram(values, edges),
        "thresholds": {"review": limits.review, "reject": limits.reject} if of_serving else None,
        "of": len(values),
    }


def _shown(group: Group) -> dict[str, Any]:
    return {
        "group": group.group,
        "time": group.time,
        "total": group.total,
        **{str(verdict): group.counts.get(verdict, 0) for verdict in Verdict},
        "score": group.score,
        "brightness": group.brightness,
        "sharpness": group.sharpness,
    }
