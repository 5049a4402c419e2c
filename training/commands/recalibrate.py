"""`python -m training recalibrate`: thresholds from the parts that people reviewed, without a training."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.backends.opening import open_backend
from service.bundle.folder import read_bundle
from training.bundling.calibration import MOST_ESCAPES
from training.bundling.recalibration import recalibrate
from training.commands.evaluate import BUNDLE
from training.commands.outcome import UNFIT
from training.data.recorded import inspected_parts, reviewed_parts


class Recalibrate(BaseModel):
    """Make a version with other thresholds, from good parts that people reviewed at a station, without a training.

    Its report has old and new thresholds on the same images, and how sure they are. Too few parts are refused.
    """

    model_config = ConfigDict(frozen=True)

    bundle: Annotated[Path, Field(description=BUNDLE)]
    records: Annotated[
        Path, Field(description="folder of the station's records (INSPECT_RECORDS_DIR), or a backup of it")
    ]
    false_reject_rate: Annotated[
        float | None,
        Field(gt=0, lt=1, description="share of good parts that may be rejected; without it that of the bundle"),
    ] = None
    most_escapes: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="share of rendered defects, or of 20 and more confirmed ones, that may pass as OK; beyond it "
            "the version is unfit",
        ),
    ] = MOST_ESCAPES
    version: Annotated[str | None, Field(description="version of the bundle; without it the time")] = None
    sign: Annotated[Path | None, Field(description="PEM file of an Ed25519 private key to sign that version with")] = (
        None
    )


def run(request: Recalibrate) -> int:
    bundle = read_bundle(request.bundle)
    manifest = bundle.manifest
    parts, left_out = reviewed_parts(request.records, manifest.recipe)
    for why, count in left_out.items():
        print(f"warning: {count} reviewed parts are left out: {why}", file=sys.stderr)
    backend = open_backend(bundle, "ort-cpu", precision="fp32", threads=len(os.sched_getaffinity(0)))
    try:
        done = recalibrate(
            bundle,
            parts,
            inspected_parts(request.records, manifest.recipe),
            backend,
            false_reject_rate=request.false_reject_rate or manifest.thresholds.calibration.target_false_reject_rate,
            most_escapes=request.most_escapes,
            version=request.version or datetime.now(UTC).strftime("%Y%m%d-%H%M%S"),
            signing_key=request.sign,
        )
    finally:
        backend.close()
    old, new = manifest.thresholds, done.bundle.manifest.thresholds
    print("\n".join(done.notes))
    if done.new_escapes:
        print(f"warning: {done.new_escapes} confirmed defects pass now that did not pass before", file=sys.stderr)
    print(f"report {done.bundle.file('report.html')}")
    print(
        f"bundle {done.bundle.path}: review {new.review:.4f} (was {old.review:.4f}), reject {new.reject:.4f} (was "
        f"{old.reject:.4f})"
    )
    flags = f"{manifest.recipe} --review {new.review:.4f} --reject {new.reject:.4f}"
    print(f"to judge by them without another version: python -m service limits {flags}")
    if unfit := done.bundle.manifest.unfit:
        print(f"UNFIT: {unfit}. The service does not serve this version", file=sys.stderr)
        return UNFIT
    return 0
