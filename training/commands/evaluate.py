"""`python -m training evaluate`: a bundle's figures on labelled images."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import httpx2
from pydantic import BaseModel, ConfigDict, Field

from service.backends.opening import open_backend
from service.bundle.folder import read_bundle
from training.data.labels import labelled_images
from training.data.places import require_results_file
from training.evaluation.evaluate import evaluate, markdown, score_over_http, score_with

BUNDLE = "models/RECIPE/VERSION"


class Evaluate(BaseModel):
    """Score the labelled test split with a bundle, in process or through a running service."""

    model_config = ConfigDict(frozen=True)

    bundle: Annotated[Path, Field(description=BUNDLE)]
    data: Annotated[Path, Field(description="folder in MVTec layout")]
    url: Annotated[
        str | None, Field(description="score through the service at this address instead of in this process")
    ] = None
    out: Annotated[Path | None, Field(description="JSON file for the figures")] = None


def run(request: Evaluate) -> int:
    if request.out:
        require_results_file(request.out)
    bundle = read_bundle(request.bundle)
    manifest = bundle.manifest
    images = labelled_images(request.data)
    if request.url:
        with httpx2.Client(base_url=request.url, timeout=60) as client:
            scored = (score_over_http(client, manifest.recipe, manifest.input, image.path) for image in images)
            results = evaluate(images, scored, manifest.thresholds, manifest.input.crop)
        results["through"] = "http"
    else:
        backend = open_backend(bundle, "ort-cpu", precision="fp32", threads=len(os.sched_getaffinity(0)))
        scored = (score_with(backend, manifest.input, image.path) for image in images)
        results = evaluate(images, scored, manifest.thresholds, manifest.input.crop)
        results["through"] = f"{backend.name} {backend.precision}"
        backend.close()
    print(markdown({manifest.recipe: results}))
    if request.out:
        request.out.parent.mkdir(parents=True, exist_ok=True)
        request.out.write_text(json.dumps(results, indent=2) + "\n")
    return 0
