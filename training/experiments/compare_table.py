"""The table and the plot of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from service.bundle.files import replace_file
from training.evaluation.ranking import auroc, defects_found, good_sorted_right, interval
from training.experiments.compare import scores_of
from training.experiments.published import PAPER
from training.experiments.results import Row, mean_minutes, mean_percent

PLACES = ("rendered", "labelled")
_FIGURES = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pro": "PRO",
    "escape_rate": "escapes",
    "pg2": "PG2",
    "pb2": "PB2",
}
_OF_SCORES = {"image_auroc": auroc, "pg2": good_sorted_right, "pb2": defects_found}


LEGEND = (
    "In percent, ± the standard deviation over seeds, in brackets bootstrap 95 % intervals. Rendered: defects drawn "
    "on photos that no method trained on; labelled: the test split, which chooses nothing. Escapes: defects that "
    "pass as OK at the bundle's own limits, set to reject 1 % of good parts. PG2: good parts that are told where 2 "
    "% of the defects may be missed; PB2: defects that are found where 2 % of the good parts may be rejected. ms "
    "and MB: ONNX Runtime in float32 on this machine. Paper: the figures of the full method, trained in full."
)


def grouped(rows: Mapping[str, Row]) -> dict[str, list[Row]]:
    """Rows by `method/seed` -> the rows of each method."""
    found: dict[str, list[Row]] = {}
    for key, row in rows.items():
        found.setdefault(key.rsplit("/", 1)[0], []).append(row)
    return found


def tabulate(
    category: str,
    titles: Mapping[str, str],
    rows: Mapping[str, Row],
    speed: Mapping[str, float],
    *,
    intervals: bool,
) -> str:
    """Markdown, one line a method of `titles`; blank where it was not run. Figures in percent, means over seeds.

    The paper's figures stand beside a category that it has.
    """
    ours = grouped(rows)
    places = [place for place in PLACES if any(place in row for row in rows.values())] or ["rendered"]
    heads = [f"{place}: {figure}" for place in places for figure in _FIGURES.values()]
    paper = ["paper: image AUROC", "paper: pixel AUROC", "paper: pixel AP"]
    columns = ["method", *heads, "ms", "MB", "min", "seeds", *paper]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, title in titles.items():
        runs = ours.get(name, [])
        cells = [f"{name}: {title}"]
        for place in places:
            cells += [_cell(runs, place, figure, intervals=intervals) for figure in _FIGURES]
        cells += [f"{speed[name]:.1f}" if name in speed else "", str(runs[0]["mb"]) if runs else ""]
        cells += [mean_minutes(runs), str(len(runs)) if runs else ""]
        cells += [str(figure) for figure in PAPER["mvtec"].get(name, {}).get(category, ("", "", ""))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(runs: Sequence[Row], place: str, figure: str, *, intervals: bool) -> str:
    there = [part for run in runs if isinstance(part := run.get(place), dict)]
    text = mean_percent(there, figure)
    if intervals and there and figure in _OF_SCORES:
        low, high = interval([scores_of(run, place) for run in runs], _OF_SCORES[figure])
        return f"{text} [{100 * low:.1f}, {100 * high:.1f}]"
    return text


def write(text: str, rows: Mapping[str, Row], speed: Mapping[str, float], out: Path) -> None:
    """The table with its recommendation, and the plot, beside the rows in `out`."""
    replace_file(out.with_suffix(".md"), text + "\n")
    plot(rows, speed, out.with_suffix(".png"))


def plot(rows: Mapping[str, Row], speed: Mapping[str, float], file: Path) -> None:
    """PNG: image AUROC and pixel AP of each method against the milliseconds that an image takes."""
    from matplotlib.figure import Figure  # not with every command

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2), ("image_auroc", "pixel_ap"), strict=True):
        for place, filled in zip(PLACES, ("#1f5fa8", "none"), strict=True):
            points = {}
            for method, runs in grouped(rows).items():
                values = [part[name] for run in runs if isinstance(part := run.get(place), dict)]
                if values and method in speed:
                    points[method] = (speed[method], 100 * float(np.mean(np.array(values, np.float64))))
            if points:
                x, y = zip(*points.values(), strict=True)
                axis.scatter(x, y, facecolors=filled, edgecolors="#1f5fa8", label=f"{place} defects")
            for method, place_at in points.items() if place == PLACES[0] else ():
                axis.annotate(method, place_at, xytext=(4, 4), textcoords="offset points", fontsize="small")
        axis.set(xscale="log", xlabel="ms an image", ylabel=f"{_FIGURES[name]}, %", title=_FIGURES[name])
        axis.grid(visible=True, alpha=0.3)
    figure.axes[0].legend(loc="lower right")
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
