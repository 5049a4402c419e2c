"""Photos and textures decoded once and kept as uint8 tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from service.bundle.manifest import InputSpec
from service.images.decoding import Pixels, read
from service.images.headers import ImageError
from service.images.resizing import fit, resize
from training.data.folders import DataError


def load_photos(paths: list[Path], spec: InputSpec, what: str) -> Tensor:
    """What a recipe inspects of photos, uint8 `(N, 3, H, W)` RGB, with a progress bar; DataError names all unreadable
    files.
    """
    out, problems = _load(paths, (spec.height, spec.width), lambda pixels: fit(pixels, spec), what)
    _raise_for(problems, len(paths), what)
    return out


def load_images(paths: list[Path], size: int, what: str, *, all_needed: bool = True) -> Tensor:
    """The same of whole images, `(N, 3, size, size)`.

    Where not `all_needed`, unreadable ones are left out with a warning as long as others are there.
    """
    out, problems = _load(paths, (size, size), lambda pixels: resize(pixels, size, size), what)
    if problems and not all_needed and len(problems) < len(paths):
        first = next(iter(problems.values()))
        tqdm.write(
            f"warning: {len(problems)} of {len(paths)} {what} cannot be read and are left out: {first}", file=sys.stderr
        )
        return out[[index not in problems for index in range(len(paths))]]
    _raise_for(problems, len(paths), what)
    return out


def _load(
    paths: list[Path], shape: tuple[int, int], prepare: Callable[[Pixels], Pixels], what: str
) -> tuple[Tensor, dict[int, str]]:
    out = torch.empty((len(paths), 3, *shape), dtype=torch.uint8)

    def keep(index: int) -> None:
        out[index] = torch.from_numpy(np.ascontiguousarray(prepare(read(paths[index])).transpose(2, 0, 1)))

    return out, _attempt(keep, len(paths), f"reading {what}")


def require_readable(paths: list[Path], what: str) -> None:
    """DataError that names all files which are no readable images; nothing of them is kept."""
    _raise_for(_attempt(lambda index: read(paths[index]), len(paths), f"checking {what}"), len(paths), what)


def _attempt(do: Callable[[int], object], count: int, title: str) -> dict[int, str]:
    """Do it for every index, several at once, with a progress bar; what went wrong by index."""

    def problem_of(index: int) -> str | None:
        try:
            do(index)
        except (ImageError, OSError) as error:
            return str(error)
        return None

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(tqdm(pool.map(problem_of, range(count)), title, count, leave=False, unit="img"))
    return {index: problem for index, problem in enumerate(outcomes) if problem}


def _raise_for(problems: dict[int, str], count: int, what: str) -> None:
    if not problems:
        return
    told = list(problems.values())
    raise DataError(
        f"{len(told)} of {count} {what} cannot be read: replace or remove them, then run the same command again\n  "
        + "\n  ".join(told[:20])
        + ("\n  …" if len(told) > 20 else "")
    )
