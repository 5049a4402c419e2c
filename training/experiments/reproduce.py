"""The paper's tables 1 and 2 (Zavrtanik et al. 2021), DRÆM's columns, beside what this code gives on the same data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from training.data.folders import DataError
from training.data.labels import labelled_images
from training.experiments.results import Row, mean_minutes, mean_percent

# Image AUROC, pixel AUROC and pixel AP in percent, by dataset and category.
PAPER: dict[str, dict[str, tuple[float, float, float]]] = {
    "mvtec": {
        "bottle": (99.2, 99.1, 86.5),
        "capsule": (98.5, 94.3, 49.4),
        "grid": (99.9, 99.7, 65.7),
        "leather": (100.0, 98.6, 75.3),
        "pill": (98.9, 97.6, 48.5),
        "tile": (99.6, 99.2, 92.3),
        "transistor": (93.1, 90.9, 50.7),
        "zipper": (100.0, 98.8, 81.5),
        "cable": (91.8, 94.7, 52.4),
        "carpet": (97.0, 95.5, 53.5),
        "hazelnut": (100.0, 99.7, 92.9),
        "metal_nut": (98.7, 99.5, 96.3),
        "screw": (93.9, 97.6, 58.2),
        "toothbrush": (100.0, 98.1, 44.7),
        "wood": (99.1, 96.4, 77.7),
    }
}
AVERAGE = {"mvtec": (98.0, 97.3, 68.4)}
_COLUMNS = ("image_auroc", "pixel_auroc", "pixel_ap")


def find_categories(dataset: str, root: Path, chosen: Sequence[str] | None) -> list[str]:
    """Categories of the paper that are folders in MVTec layout below `root`: all of them or those chosen."""
    found = [category for category in PAPER[dataset] if (root / category / "train" / "good").is_dir()]
    for category in chosen or ():
        if category not in PAPER[dataset]:
            raise DataError(f"{category}: not in the paper's table: choose {', '.join(PAPER[dataset])}")
        if category not in found:
            raise DataError(f"{root / category / 'train' / 'good'}: no such folder")
    if not found:
        raise DataError(f"{root}: none of {', '.join(PAPER[dataset])} has a folder train/good here")
    wanted = [category for category in found if not chosen or category in chosen]
    for category in wanted:
        labelled_images(root / category)  # what is missing should be known before hours of training
    return wanted


def tabulate(dataset: str, rows: Mapping[str, Row]) -> str:
    """Markdown of rows by `category/seed`, one line a category of the paper; blank where not run.

    Ours are means over seeds, with the standard deviation where there are several. Our average needs every category.
    """
    heads = ("image AUROC", "pixel AUROC", "pixel AP")
    columns = ["category", *(f"{head}, {whose}" for head in heads for whose in ("paper", "ours")), "seeds", "min"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    means: list[Row] = []
    for category, paper in PAPER[dataset].items():
        runs = [row for key, row in rows.items() if key.rsplit("/", 1)[0] == category]
        lines.append(_line(category, paper, [mean_percent(runs, column) for column in _COLUMNS], runs))
        if runs:
            means.append({column: _mean(runs, column) for column in _COLUMNS})
    complete = len(means) == len(PAPER[dataset])
    average = [mean_percent([{column: _mean(means, column)}], column) if complete else "" for column in _COLUMNS]
    lines.append(_line("average", AVERAGE[dataset], average, []))
    return "\n".join(lines)


def _line(name: str, paper: tuple[float, float, float], ours: Sequence[str], runs: Sequence[Row]) -> str:
    pairs = [cell for figure, own in zip(paper, ours, strict=True) for cell in (str(figure), own)]
    return f"| {' | '.join([name, *pairs, str(len(runs)) if runs else '', mean_minutes(runs)])} |"


def _mean(runs: Sequence[Row], column: str) -> float:
    return sum(float(str(run[column])) for run in runs) / len(runs)
