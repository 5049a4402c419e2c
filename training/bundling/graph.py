"""The graph that is served: pixels in, map and score out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.backends.base import Scored
from service.bundle.manifest import ScoreFormula
from service.images.decoding import Pixels, encode
from training.bundling.scores import build_score

KEEP = "keep.png"  # in the bundle


class InspectionGraph(nn.Module):
    """uint8 RGB `(N, H, W, 3)` -> anomaly_map float32 `(N, H, W)` in [0, 1] and score float32 `(N,)`.

    Where `keep` `(H, W)` is False the map is 0.

    Everything between decoded pixels and the two numbers that count is inside, so that no client can get it wrong:
    scaling, layout, the method's network and the image score.
    """

    keep: Tensor | None

    def __init__(
        self, network: nn.Module, keep: NDArray[np.bool_] | None = None, score: ScoreFormula = "paper"
    ) -> None:
        super().__init__()
        self.network = network
        self.score = build_score(score, keep)
        self.register_buffer("keep", None if keep is None else torch.from_numpy(keep.astype(np.float32)))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        # Cast first: TensorRT's parser takes no layer but Cast on uint8.
        x = image.float().permute(0, 3, 1, 2) / 255
        anomaly_map: Tensor = self.network(x)  # (N, H, W)
        if self.keep is not None:
            anomaly_map = anomaly_map * self.keep
        return anomaly_map, self.score(anomaly_map)


def keep_file(keep: NDArray[np.bool_] | None) -> dict[str, bytes]:
    """The image of where anomalies count, for people to see; none where they count everywhere."""
    return {} if keep is None else {KEEP: encode(np.where(keep, 255, 0).astype(np.uint8), ".png")}


def score_with_torch(graph: InspectionGraph, images: Sequence[Pixels]) -> list[Scored]:
    """What the graph makes of images through torch, on its own device: on the CPU the reference for golden values."""
    device = next((tensor.device for tensor in [*graph.parameters(), *graph.buffers()]), None)
    found = []
    with torch.inference_mode():
        for image in images:
            maps, scores = graph(torch.from_numpy(np.ascontiguousarray(image))[None].to(device))
            found.append(Scored(maps[0].cpu().numpy(), float(scores[0])))
    return found
