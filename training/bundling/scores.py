"""Image scores: the formulas that make one number of an anomaly map, small enough to live in the exported graph.

The authors' score, the maximum of the 21x21 mean with zero padding counted, cannot pass 0.27 for a perfectly found
defect in a corner, 0.52 at an edge and 0.06 for one of 5x5 pixels. The others take these ceilings away. All are built
of AveragePool, Transpose, Div, Max and TopK of fixed shapes, which every runtime's parser takes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from service.bundle.manifest import ScoreFormula

PAPER_WINDOW = 21
# A window counts where at least this share of it is inspected: one kept pixel at the rim of a region is no mean.
_COVERED = 0.25
# Windows and what their means count: a small one finds small defects, but good parts have more small bright spots.
# Chosen on rendered defects on held-out photos, see RESULTS.md.
WINDOWS = {5: 0.8, 11: 0.9, 21: 1.0}
# Share of the image's pixels: the 100 of 256x256 of DeSTSeg (Zhang et al., CVPR 2023).
TOP_SHARE = 100 / 256**2
_TOP_MOST = 3840  # the largest k of TensorRT's TopK


class PaperScore(nn.Module):
    """Maximum of the 21x21 mean; pixels outside of the image count as 0 (Zavrtanik et al. 2021, the authors' code)."""

    def forward(self, anomaly_map: Tensor) -> Tensor:
        return _means(anomaly_map, PAPER_WINDOW, count_include_pad=True).amax(dim=(1, 2))


class WindowScore(nn.Module):
    """Maximum over windows of weight times the mean of what lies in the window, in the image and in `keep` `(H, W)`.

    A defect at the border scores like one inside. `windows`: odd side in pixels -> weight in (0, 1].
    """

    def __init__(self, windows: dict[int, float], keep: NDArray[np.bool_] | None) -> None:
        super().__init__()
        self.windows = windows
        kept = None if keep is None else torch.from_numpy(keep.astype(np.float32))[None]
        for side in windows:
            covered = None if kept is None else _means(kept, side).clamp(min=_COVERED)
            self.register_buffer(f"covered_{side}", covered)

    def forward(self, anomaly_map: Tensor) -> Tensor:
        scores = [weight * self._largest_mean(anomaly_map, side) for side, weight in self.windows.items()]
        # Rounding may put a mean of ones above 1.
        return torch.stack(scores).amax(dim=0).clamp(max=1.0)

    def _largest_mean(self, anomaly_map: Tensor, side: int) -> Tensor:
        means = _means(anomaly_map, side)
        covered: Tensor | None = getattr(self, f"covered_{side}")
        return (means if covered is None else means / covered).amax(dim=(1, 2))


class TopScore(nn.Module):
    """Mean of the largest values of the map, wherever they are: TOP_SHARE of its pixels."""

    def forward(self, anomaly_map: Tensor) -> Tensor:
        count = min(_TOP_MOST, max(1, round(TOP_SHARE * anomaly_map.shape[1] * anomaly_map.shape[2])))
        return anomaly_map.flatten(1).topk(count, dim=1).values.mean(dim=1).clamp(max=1.0)


class PeakScore(nn.Module):
    """The largest value: for maps that are smooth already, where a mean would hide a small defect."""

    def forward(self, anomaly_map: Tensor) -> Tensor:
        return anomaly_map.amax(dim=(1, 2))


def _means(maps: Tensor, side: int, *, count_include_pad: bool = False) -> Tensor:
    """`(N, H, W)` -> the mean of the square window of `side` pixels around each pixel, the same shape.

    A square's mean is the mean of its rows' means. Rows, then columns, are the channels: squares on the one channel
    of a map took OpenVINO as long as all of a narrow network (training/benchmarks/SPEED.md).
    """
    for _ in range(2):
        means = functional.avg_pool2d(
            maps.unsqueeze(2), (1, side), stride=1, padding=(0, side // 2), count_include_pad=count_include_pad
        )
        maps = means.squeeze(2).transpose(1, 2)
    return maps


_FORMULAS: dict[ScoreFormula, Callable[[NDArray[np.bool_] | None], nn.Module]] = {
    "paper": lambda keep: PaperScore(),
    "mean": lambda keep: WindowScore({PAPER_WINDOW: 1.0}, keep),
    "windows": lambda keep: WindowScore(WINDOWS, keep),
    "top": lambda keep: TopScore(),
    "peak": lambda keep: PeakScore(),
}


def build_score(formula: ScoreFormula, keep: NDArray[np.bool_] | None = None) -> nn.Module:
    """Module that takes maps `(N, H, W)` in [0, 1], 0 where `keep` `(H, W)` is False, to scores `(N,)` in [0, 1]."""
    return _FORMULAS[formula](keep)
