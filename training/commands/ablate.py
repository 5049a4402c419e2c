"""`python -m training ablate`: what each part of a method is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from training.commands.settings import MethodFlags
from training.errors import UserError
from training.experiments.ablations import Plan, run_ablations
from training.loop import distributed
from training.methods import METHODS


class Ablate(MethodFlags):
    """Train and score the rows of the paper's ablation table; stop it when you like, the same command goes on."""

    data: Annotated[tuple[Path, ...], Field(description="folder in MVTec layout; repeatable")]
    textures: Annotated[
        Path | None, Field(description="folder of texture images, e.g. DTD; procedural ones without it")
    ] = None
    imagenet: Annotated[
        Path | None, Field(description="folder of ordinary photos: textures of the row of that name")
    ] = None
    only: Annotated[tuple[str, ...], Field(description="these rows; without it all")] = ()
    seed: Annotated[tuple[int, ...], Field(min_length=1, description="one run each")] = (0,)
    out: Annotated[Path, Field(description="JSON file of the rows; table and runs go beside it")]


def run(request: Ablate) -> int:
    method = METHODS[request.method]
    rows = request.only or list(method.ablations)
    if unknown := [name for name in rows if name not in method.ablations] or not rows:
        known = ", ".join(method.ablations) or "none"
        raise UserError(f"--only {' '.join(request.only)}: {method.name} has these rows: {known}" if unknown else "")
    plan = Plan(
        method=method,
        preset=request.settings(),
        data=request.data,
        textures=request.textures,
        other_textures=request.imagenet,
        names=rows,
        seeds=request.seed,
    )
    with distributed.joined("auto") as device:
        print(run_ablations(plan, request.out, device))
    return 0
