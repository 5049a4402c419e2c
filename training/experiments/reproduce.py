"""The paper's tables 1 and 2 (Zavrtanik et al. 2021) beside what this code gives on the same data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from training.data.folders import DataError
from training.data.labels import labelled_images
from training.experiments.published import AVERAGE, OTHERS, PAPER, Figures
from training.experiments.results import Row, mean_minutes, mean_percent

_COLUMNS = ("image_auroc", "pixel_auroc", "pixel_ap")
_NOTHING = ("", "", "")


def find_categories(dataset: str, root: Path, chosen: Sequence[str] | None) -> list[str]:
    """Categories of the table that are folders in MVTec layout below `root`: all of them or those chosen."""
    known = categories_of(dataset)
    found = [category for category in known if (root / category / "train" / "good").is_dir()]
    for category in chosen or ():
        if category not in known:
            raise DataError(f"{category}: not in the table: choose {', '.join(known)}")
        if category not in found:
            raise DataError(f"{root / category / 'train' / 'good'}: no such folder")
    if not found:
        raise DataError(f"{root}: none of {', '.join(known)} has a folder train/good here")
    wanted = [category for category in found if not chosen or category in chosen]
    for category in wanted:
        labelled_images(root / category)  # what is missing should be known before hours of training
    return wanted


def categories_of(dataset: str) -> list[str]:
    """A data set that has no table of the paper is one category, of its name."""
    return list(next(iter(PAPER[dataset].values()))) or [dataset]


def tabulate(dataset: str, rows: Mapping[str, Row]) -> str:
    """Markdown of rows by `method/category/seed`, a table a method of the paper's or of the rows, a line a category.

    Blank where not run. Ours are means over seeds, with the standard deviation where there are several. Our average
    needs every category.
    """
    run = (key.split("/")[0] for key in rows)
    tables = [_table(dataset, method, rows) for method in dict.fromkeys([*PAPER[dataset], *run])]
    if others := OTHERS.get(dataset):
        told = ", ".join(f"{name} {figure}" for name, figure in others.items())
        tables.append(f"image AUROC as quoted in the literature, not verified: {told}")
    return "\n\n\n".join(tables)


def _table(dataset: str, method: str, rows: Mapping[str, Row]) -> str:
    heads = ("image AUROC", "pixel AUROC", "pixel AP")
    columns = ["category", *(f"{head}, {whose}" for head in heads for whose in ("paper", "ours")), "seeds", "min"]
    lines = [f"{method}\n", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    means: list[Row] = []
    categories = categories_of(dataset)
    for category in categories:
        runs = [row for key, row in rows.items() if key.rsplit("/", 1)[0] == f"{method}/{category}"]
        paper = PAPER[dataset].get(method, {}).get(category, _NOTHING)
        lines.append(_line(category, paper, [mean_percent(runs, column) for column in _COLUMNS], runs))
        if runs:
            means.append({column: _mean(runs, column) for column in _COLUMNS})
    if average := AVERAGE.get(dataset):
        complete = len(means) == len(categories)
        ours = [mean_percent([{column: _mean(means, column)}], column) if complete else "" for column in _COLUMNS]
        lines.append(_line("average", average.get(method, _NOTHING), ours, []))
    return "\n".join(lines)


def _line(name: str, paper: Figures | tuple[str, str, str], ours: Sequence[str], runs: Sequence[Row]) -> str:
    pairs = [cell for figure, own in zip(paper, ours, strict=True) for cell in (str(figure), own)]
    return f"| {' | '.join([name, *pairs, str(len(runs)) if runs else '', mean_minutes(runs)])} |"


def _mean(runs: Sequence[Row], column: str) -> float:
    return sum(float(str(run[column])) for run in runs) / len(runs)
