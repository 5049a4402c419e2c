"""What an answered image is counted in."""

from __future__ import annotations

from service.station.counters import Counters
from service.station.inspection import Inspection
from service.station.monitoring import Metrics
from service.station.verdicts import Verdict


def count(inspection: Inspection, metrics: Metrics, counters: Counters) -> None:
    """Add an answered image to the metrics and to the parts by verdict."""
    recipe = inspection.recipe
    for stage, value in inspection.seconds.items():
        metrics.of_stage(recipe.name, stage).observe(value)
    metrics.of_verdict(recipe.name, inspection.verdict).inc()
    for fault in inspection.faults:
        metrics.faults.labels(recipe.name, fault.split(":")[0]).inc()
    if inspection.verdict is not Verdict.NOT_INSPECTED:
        metrics.of_scores(recipe.name).observe(inspection.score)
    counters.add(recipe.name, recipe.version, inspection.verdict, inspection.score, inspection.faults)
