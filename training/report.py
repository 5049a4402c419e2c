"""The report of a training for those who must trust it: one HTML file that needs nothing else, pictures included.

It shows the user's own parts, so it stays where the user's bundle is.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import JsonValue
from sklearn.metrics import precision_recall_curve, roc_curve

from service.bundle import Calibration, Thresholds
from service.heatmap import draw_overlay
from service.images import Pixels, read, resize
from training.anomalies import Batch
from training.data import LabelledImage, read_mask
from training.evaluate import PAPER_COLUMNS, percent

_SIDE = 160  # pixels of a picture in the report
_SHOWN = 6  # pictures a gallery
_POINTS = 300  # points a curve
_NAMES = {"image_auroc": "image AUROC", "image_ap": "image AP", "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP"}


@dataclass(frozen=True)
class Parts:
    """N parts of one kind: scores `(N,)`, maps `(N, H, W)`, names, and how to get a picture or its ground truth."""

    title: str
    defects: bool
    names: Sequence[str]
    scores: NDArray[np.float32]
    maps: NDArray[np.float32]
    picture: Callable[[int], Pixels]
    mask: Callable[[int], NDArray[np.bool_]] | None = None  # only for labelled parts


@dataclass(frozen=True)
class Training:
    """What the training leaves to show: the record, the lines of stats.jsonl and a simulated batch, where there are."""

    record: dict[str, JsonValue]
    stats: Sequence[dict[str, float]] = ()
    samples: Batch | None = None


def labelled_parts(
    images: Sequence[LabelledImage], scored: Mapping[Path, tuple[NDArray[np.float32], float]], size: int
) -> list[Parts]:
    """Good and defective test parts with the maps and scores they got; nothing where there are no images."""

    def parts(title: str, defects: bool) -> Parts:
        chosen = [image for image in images if image.is_defect == defects]

        def mask(index: int) -> NDArray[np.bool_]:
            file = chosen[index].mask
            return read_mask(file, size) if file else np.zeros((size, size), np.bool_)

        return Parts(
            title,
            defects,
            [f"{image.defect}/{image.path.name}" for image in chosen],
            np.array([scored[image.path][1] for image in chosen], np.float32),
            np.stack([scored[image.path][0] for image in chosen]),
            lambda index: read(chosen[index].path),
            mask,
        )

    return [parts("good test parts", False), parts("labelled defects", True)] if images else []


def render(
    recipe: str,
    version: str,
    thresholds: Thresholds,
    groups: Sequence[Parts],
    metrics: dict[str, JsonValue] | None,
    training: Training,
) -> bytes:
    """The report as UTF-8 HTML; `groups` in the order shown, `metrics` as `training.evaluate.evaluate` gives them."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(Path(__file__).with_name("report_template.html").read_text(encoding="utf-8"))
    labelled = [group for group in groups if group.mask]
    metrics = metrics or {}
    html = template.render(
        recipe=recipe,
        version=version,
        minutes=training.record.get("minutes"),
        thresholds=thresholds,
        groups=[
            {**vars(group), "verdicts": _verdicts(group.scores, thresholds), "wrong": 0 if group.defects else 2}
            for group in groups
        ],
        sentences=[*_calibration_sentences(thresholds.calibration), *_test_sentences(metrics)],
        histogram=_histogram(groups, thresholds),
        figures={_NAMES.get(name, "PRO"): percent(metrics.get(name)) for name in PAPER_COLUMNS},
        tables=_tables(metrics),
        rates=_rate_curves(labelled) if labelled else None,
        galleries=_galleries(labelled or groups, thresholds),
        samples=_samples(training.samples) if training.samples else [],
        curves=_training_curves(training.stats) if training.stats else None,
        settings=_flat(training.record),
    )
    return html.encode()


def _verdicts(scores: NDArray[np.float32], thresholds: Thresholds) -> list[int]:
    review, reject = int((scores >= thresholds.review).sum()), int((scores >= thresholds.reject).sum())
    return [len(scores) - review, review - reject, reject]


def _calibration_sentences(calibration: Calibration) -> list[str]:
    low, high = calibration.false_reject_interval
    sentences = [
        f"Promised: at most {_share(calibration.target_false_reject_rate)} of good parts rejected. Of "
        f"{calibration.good_images} held-out good photos, never trained on, {calibration.false_rejects} would be "
        f"rejected; the 95 % interval of that rate is {_share(low)} to {_share(high)}. The same photos set the "
        "thresholds, so only new parts can confirm it; more held-out photos narrow the interval."
    ]
    if calibration.defect_images:
        low, high = calibration.escape_interval
        kind = "Rendered defects, not real ones" if calibration.defect_source == "simulated" else "Labelled defects"
        sentences.append(
            f"{kind}: {calibration.escapes} of {calibration.defect_images} would pass as OK, with 95 % confidence "
            f"{_share(low)} to {_share(high)} of such defects. They chose no threshold."
        )
    return sentences


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


def _tables(metrics: dict[str, JsonValue]) -> dict[str, dict[str, Any]]:
    """Every metric that is a table of rows, such as `per_defect`: rates in percent, counts as they are."""
    tables = {}
    for name, rows in metrics.items():
        if isinstance(rows, dict) and rows and all(isinstance(row, dict) for row in rows.values()):
            cells = {key: row for key, row in rows.items() if isinstance(row, dict)}
            columns = list(dict.fromkeys(column for row in cells.values() for column in row))
            tables[name.replace("_", " ")] = {
                "columns": [_NAMES.get(column, column.replace("_", " ")) for column in columns],
                "rows": {key: [_cell(row.get(column)) for column in columns] for key, row in cells.items()},
            }
    return tables


def _cell(value: JsonValue) -> str:
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
    strip = [picture, draw_overlay(picture, group.maps[index], thresholds.pixel)]
    if group.mask:
        mask = cv2.resize(group.mask(index).astype(np.uint8) * 255, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        strip.append(np.repeat(mask.astype(np.uint8)[..., None], 3, axis=2))
    score = float(group.scores[index])
    verdict = "OK" if score < thresholds.review else "REVIEW" if score < thresholds.reject else "NG"
    return {"source": _jpeg(np.hstack(strip)), "name": group.names[index], "score": score, "verdict": verdict}


def _samples(batch: Batch) -> list[str]:
    strips = []
    for clean, augmented, mask in zip(batch.clean, batch.augmented, batch.mask, strict=True):
        pictures = [
            (255 * image.expand(3, -1, -1).permute(1, 2, 0)).byte().cpu().numpy() for image in (clean, augmented, mask)
        ]
        strips.append(_jpeg(np.hstack([resize(picture, _SIDE, _SIDE) for picture in pictures])))
    return strips


def _jpeg(pixels: Pixels) -> str:
    _, data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue().encode()).decode()


def _histogram(groups: Sequence[Parts], thresholds: Thresholds) -> str:
    figure = Figure(figsize=(9, 1.2 + 1.1 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    edges = np.linspace(0, max(1e-6, thresholds.reject, *(float(group.scores.max()) for group in groups)) * 1.02, 61)
    for axis, group in zip(axes, groups, strict=True):
        axis.hist(group.scores, edges, color="#b42318" if group.defects else "#2e7d32")
        axis.set_title(group.title, loc="left", fontsize="medium")
        axis.axvline(thresholds.review, color="#d97706", linestyle="--", label="review")
        axis.axvline(thresholds.reject, color="black", label="reject")
        axis.yaxis.get_major_locator().set_params(integer=True)
    axes[0].legend()
    axes[-1].set_xlabel("score")
    return _svg(figure)


def _rate_curves(labelled: Sequence[Parts]) -> str:
    scores = np.concatenate([group.scores for group in labelled])
    is_defect = np.concatenate([np.full(len(group.scores), group.defects) for group in labelled])
    masks = [group.mask(i) for group in labelled if group.mask for i in range(len(group.scores))]
    maps = np.concatenate([group.maps for group in labelled])
    figure = Figure(figsize=(9, 4), layout="constrained")
    roc, precision_recall = figure.subplots(1, 2)
    for name, labels, values in (("parts", is_defect, scores), ("pixels", np.stack(masks).ravel(), maps.ravel())):
        false_positives, true_positives, _ = roc_curve(labels, values)
        precision, recall, _ = precision_recall_curve(labels, values)
        roc.plot(*_thinned(false_positives, true_positives), label=name)
        precision_recall.plot(*_thinned(recall, precision), label=name)
    roc.set(title="ROC", xlabel="good taken for defects", ylabel="defects found")
    precision_recall.set(title="Precision and recall", xlabel="defects found", ylabel="share of finds that are defects")
    for axis in (roc, precision_recall):
        axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axis.legend()
    return _svg(figure)


def _training_curves(stats: Sequence[dict[str, float]]) -> str:
    """Losses averaged over stretches of the run: single steps are too noisy to read."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    losses, rate = figure.subplots(1, 2, width_ratios=(2, 1))
    stretches = np.array_split(np.arange(len(stats)), min(_POINTS, len(stats)))
    steps = [float(stretch.mean()) for stretch in stretches]
    for name in stats[0].keys() - {"step", "lr"}:
        losses.plot(steps, [np.mean([stats[i][name] for i in stretch]) for stretch in stretches], label=name)
    losses.set(yscale="log", title="losses", xlabel="step")
    losses.legend()
    rate.plot(steps, [stats[stretch[0]]["lr"] for stretch in stretches])
    rate.set(title="learning rate", xlabel="step")
    return _svg(figure)


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most _POINTS points, evenly along the curve's length, ends included."""
    if len(x) <= _POINTS:
        return x, y
    length = np.concatenate(([0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))))
    chosen = np.searchsorted(length, np.linspace(0, length[-1], _POINTS)).clip(0, len(x) - 1)
    return x[chosen], y[chosen]


def _flat(record: dict[str, JsonValue], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.dumps(value)
    return flat
