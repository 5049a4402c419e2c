"""Groups of parts with what a network made of them: what a report shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from service.backends.base import Scored
from service.bundle.manifest import InputSpec
from service.images.cropping import cut
from service.images.decoding import Pixels, read
from training.data.labels import LabelledImage
from training.data.masks import read_mask
from training.evaluation.metrics import stacked


@dataclass(frozen=True)
class Parts:
    """N parts of one group: scores `(N,)`, maps `(N, H, W)`, names, and how to get an image or its ground truth.

    `labelled`: people said what they show. Kinds are those of the defects; good parts need neither kinds nor masks.
    """

    title: str
    defects: bool
    names: Sequence[str]
    scores: NDArray[np.float32]
    maps: NDArray[np.float32]
    picture: Callable[[int], Pixels]
    mask: Callable[[int], NDArray[np.bool_]] | None = None
    kinds: Sequence[str] = ()
    labelled: bool = False

    def masks(self) -> NDArray[np.bool_]:
        """Ground truth `(N, H, W)`; empty on good parts."""
        found = np.zeros(self.maps.shape, np.bool_)
        if self.mask:
            for index in range(len(found)):
                found[index] = self.mask(index)
        return found


@dataclass(frozen=True)
class Sheet:
    """What a method learned from: columns of images `(N, 1 or 3, H, W)` in [0, 1], and a caption that names them."""

    caption: str
    columns: Sequence[Tensor]


def labelled_parts(images: Sequence[LabelledImage], scored: Sequence[Scored], spec: InputSpec) -> list[Parts]:
    """Good and defective test parts with the maps and scores they got; nothing where there are no images."""

    def parts(title: str, defects: bool) -> Parts:
        places = [place for place, image in enumerate(images) if image.is_defect == defects]
        chosen = [images[place] for place in places]
        maps, scores = stacked([scored[place] for place in places])

        def mask(index: int) -> NDArray[np.bool_]:
            file = chosen[index].mask
            shape = spec.height, spec.width
            return read_mask(file, *shape, spec.crop) if file else np.zeros(shape, np.bool_)

        return Parts(
            title,
            defects,
            [f"{image.defect}/{image.path.name}" for image in chosen],
            scores,
            maps,
            lambda index: cut(read(chosen[index].path), spec.crop),
            mask if defects else None,
            [image.defect for image in chosen],
            labelled=True,
        )

    return [parts("good test parts", False), parts("labelled defects", True)] if images else []
