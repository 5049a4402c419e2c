"""Plots of a report, each an SVG in a data URL, so that the report needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from service.bundle.manifest import Thresholds
from training.evaluation.parts import Parts

_POINTS = 300  # points a curve


def histogram(groups: Sequence[Parts], thresholds: Thresholds) -> str:
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


def rate_curves(labelled: Sequence[Parts]) -> str:
    scores = np.concatenate([group.scores for group in labelled])
    is_defect = np.concatenate([np.full(len(group.scores), group.defects) for group in labelled])
    masks = np.concatenate([group.masks() for group in labelled])
    maps = np.concatenate([group.maps for group in labelled])
    figure = Figure(figsize=(9, 4), layout="constrained")
    roc, precision_recall = figure.subplots(1, 2)
    for name, labels, values in (("parts", is_defect, scores), ("pixels", masks.ravel(), maps.ravel())):
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


def training_curves(stats: Sequence[dict[str, float]]) -> str:
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


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue().encode()).decode()
