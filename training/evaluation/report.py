"""The report of a training for those who must trust it: one HTML file that needs nothing else, images included.

It shows the user's own parts, so it stays where the user's bundle is.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from pydantic import JsonValue
from torch import Tensor

from service.bundle.manifest import Calibration, ScoreFormula, Thresholds, TrainingRecord
from service.images.decoding import Pixels
from service.images.heatmap import draw_overlay, hot_from
from service.images.resizing import resize
from training.evaluation import breakdown
from training.evaluation.evaluate import percent
from training.evaluation.metrics import METRICS, in_bands
from training.evaluation.parts import Parts, Sheet

_SIDE = 160  # pixels of an image in the report
_SHOWN = 6  # images a gallery


REPORT = "report.html"  # in the bundle


@dataclass(frozen=True)
class Training:
    """What the training leaves to show: the record, the lines of stats.jsonl and what was learned from."""

    record: TrainingRecord
    stats: Sequence[dict[str, float]] = ()
    samples: Sheet | None = None


def render(
    recipe: str,
    version: str,
    score: ScoreFormula,
    thresholds: Thresholds,
    groups: Sequence[Parts],
    metrics: dict[str, JsonValue] | None,
    training: Training,
) -> bytes:
    """The report as UTF-8 HTML; `groups` in the order shown, `metrics` as `evaluate` gives them."""
    # Matplotlib takes most of a second to load, and every command starts with this module.
    from training.evaluation.plots import histogram, rate_curves, training_curves

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(Path(__file__).with_name("report_template.html").read_text(encoding="utf-8"))
    labelled = [group for group in groups if group.labelled]
    metrics = metrics or {}
    html = template.render(
        recipe=recipe,
        version=version,
        minutes=training.record.minutes,
        score=score,
        thresholds=thresholds,
        groups=[
            {
                **vars(group),
                "verdicts": list(in_bands(group.scores, thresholds).values()),
                "wrong": 0 if group.defects else 2,
            }
            for group in groups
        ],
        sentences=[
            *_retried(training.record),
            *_calibration_sentences(thresholds.calibration, training.record.calibrated_on_training_photos),
            *_test_sentences(metrics),
        ],
        histogram=histogram(groups, thresholds),
        figures={metric.title: percent(metrics.get(name)) for name, metric in METRICS.items()},
        held_out_tables=_tables(_held_out_tables(groups, thresholds)),
        tables=_tables(metrics),
        rates=rate_curves(labelled) if labelled else None,
        galleries=_galleries(labelled or groups, thresholds),
        suspects=_suspects(training.record),
        samples=_strips(training.samples.columns) if training.samples else [],
        caption=training.samples.caption if training.samples else None,
        curves=training_curves(training.stats) if training.stats else None,
        settings=_flat(training.record.model_dump(mode="json", exclude_defaults=True)),
    )
    return html.encode()


def _calibration_sentences(calibration: Calibration, trained_on: bool) -> list[str]:
    low, high = calibration.false_reject_interval
    target = _share(calibration.target_false_reject_rate)
    sentences = [
        f"Promised: at most {target} of good parts rejected. Of {calibration.good_images} held-out good photos, never "
        f"trained on, {calibration.false_rejects} would be rejected; the 95 % interval of that rate is {_share(low)} "
        f"to {_share(high)}. The same photos set the thresholds, so only new parts can confirm it; more photos "
        "narrow the interval."
    ]
    if trained_on:
        sentences = [
            f"Nothing is promised about good parts: the {calibration.good_images} photos that set the thresholds for "
            f"{target} false rejects are photos that the network was trained on, which score lower than new ones."
        ]
    if calibration.defect_images:
        low, high = calibration.escape_interval
        kind = "Rendered defects, not real ones" if calibration.defect_source == "simulated" else "Labelled defects"
        sentences.append(
            f"{kind}: {calibration.escapes} of {calibration.defect_images} would pass as OK, with 95 % confidence "
            f"{_share(low)} to {_share(high)} of such defects. They chose no threshold."
        )
    return sentences


def _retried(record: TrainingRecord) -> list[str]:
    return [
        f"Trained again with another seed: version {one.version} (seed {one.seed}) is unfit for service, {one.unfit}."
        for one in record.after or []
    ]


def _test_sentences(metrics: dict[str, JsonValue]) -> list[str]:
    what = {"false_reject": "good test parts would be rejected", "escape": "labelled defects would pass as OK"}
    sentences = []
    for name, words in what.items():
        rate, interval = metrics.get(f"{name}_rate"), metrics.get(f"{name}_interval")
        if isinstance(rate, float) and isinstance(interval, list):
            low, high = (float(str(bound)) for bound in interval)
            confidence = f"with 95 % confidence {_share(low)} to {_share(high)}"
            sentences.append(f"Test parts: {_share(rate)} of the {words}, {confidence} of such parts.")
    return sentences


def _share(rate: float) -> str:
    return f"{100 * rate:.3g} %"


def _held_out_tables(groups: Sequence[Parts], thresholds: Thresholds) -> dict[str, JsonValue]:
    """The rendered defects by kind, size and place, where there are any, against the held-out good photos."""
    held_out = [group for group in groups if not group.labelled and len(group.scores)]
    if [group.defects for group in held_out] != [False, True]:
        return {}
    good, defects = held_out
    described = list(map(breakdown.describe, defects.kinds, defects.masks()))
    return breakdown.tables(described, defects.scores, good.scores, thresholds)


def _tables(metrics: dict[str, JsonValue]) -> dict[str, dict[str, Any]]:
    """Every metric that is a table of rows, such as `per_defect`: rates in percent, counts as they are."""
    tables = {}
    for name, rows in metrics.items():
        if isinstance(rows, dict) and rows and all(isinstance(row, dict) for row in rows.values()):
            cells = {key: row for key, row in rows.items() if isinstance(row, dict)}
            columns = list(dict.fromkeys(column for row in cells.values() for column in row))
            tables[name.replace("_", " ")] = {
                "columns": [_title(column) for column in columns],
                "rows": {key: [_cell(row.get(column)) for column in columns] for key, row in cells.items()},
            }
    return tables


def _title(column: str) -> str:
    return METRICS[column].title if column in METRICS else column.replace("_", " ")


def _cell(value: JsonValue) -> str:
    """A rate or an interval of a rate in percent, a count as it is."""
    if isinstance(value, list):
        return " to ".join(percent(bound) for bound in value)
    return percent(value) if isinstance(value, float) else "" if value is None else str(value)


def _galleries(groups: Sequence[Parts], thresholds: Thresholds) -> dict[str, list[dict[str, Any]]]:
    galleries = {}
    for group in groups:
        rising = np.argsort(group.scores, kind="stable")
        choices = {f"{group.title}: highest scores": rising[::-1][:_SHOWN]}
        choices[f"{group.title}: lowest scores"] = rising[:_SHOWN]
        # The doubtful end first: defects that score low, good parts that score high.
        for title, chosen in sorted(choices.items(), key=lambda item: ("lowest" in item[0]) != group.defects):
            galleries[title] = [_figure(group, int(index), thresholds) for index in chosen]
    return galleries


def _figure(group: Parts, index: int, thresholds: Thresholds) -> dict[str, Any]:
    picture = resize(group.picture(index), _SIDE, _SIDE)
    score = float(group.scores[index])
    hot = hot_from(group.maps[index], thresholds.band(score), thresholds.pixel)
    strip = [picture, draw_overlay(picture, group.maps[index], hot)]
    if group.mask:
        mask = cv2.resize(group.mask(index).astype(np.uint8) * 255, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        strip.append(np.repeat(mask.astype(np.uint8)[..., None], 3, axis=2))
    return {
        "source": _jpeg(np.hstack(strip)),
        "name": group.names[index],
        "score": score,
        "verdict": thresholds.band(score),
    }


def _suspects(record: TrainingRecord) -> list[str] | None:
    """A sentence for each good photo that the checks before and after the training named; None where none was made."""
    if record.unusual_photos is None:
        return None
    unusual = [
        f"{one.photo}: {one.deviations} deviations from the other good photos, most at {_share(one.x)} of the width "
        f"and {_share(one.y)} of the height"
        for one in record.unusual_photos
    ]
    outlying = record.outlying_scores or []
    return unusual + [
        f"{one.photo}: scores {one.score:.4f}, far above the others that were trained on or held out like it"
        for one in outlying
    ]


def _strips(columns: Sequence[Tensor]) -> list[str]:
    strips = []
    for row in zip(*columns, strict=True):
        pictures = [(255 * image.expand(3, -1, -1).permute(1, 2, 0)).byte().cpu().numpy() for image in row]
        strips.append(_jpeg(np.hstack([resize(picture, _SIDE, _SIDE) for picture in pictures])))
    return strips


def _jpeg(pixels: Pixels) -> str:
    _, data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _flat(record: dict[str, JsonValue], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.dumps(value)
    return flat
