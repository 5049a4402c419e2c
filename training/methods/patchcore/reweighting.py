"""The image-level weight of PatchCore's distances (Roth et al. 2022, equation 7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.features.distances import NearestPatch


class ReweightedPatches(nn.Module):
    """Distances to the nearest patch `(N, h, w)`, all those of an image times one weight in [1 - 1/b, 1).

    The weight is that of the image's farthest patch: nearly 1 where the good patch that it was compared with lies
    alone, less where its `b` neighbours in the bank are as near, so that it is one of many. The paper weighs the score
    alone; here the map too, so that score and map stay one.
    """

    neighbours: Tensor

    def __init__(self, nearest: NearestPatch, neighbours: int) -> None:
        super().__init__()
        self.nearest = nearest
        bank = nearest.bank.T
        rows = [torch.cdist(part, bank).topk(neighbours, largest=False).indices for part in torch.split(bank, 1024)]
        self.register_buffer("neighbours", torch.cat(rows))  # of each patch in the bank, itself first

    def forward(self, embeddings: Tensor) -> Tensor:
        distances: Tensor = self.nearest(embeddings)
        return distances * self.weight(embeddings, distances)[:, None, None]

    def weight(self, embeddings: Tensor, distances: Tensor) -> Tensor:
        """`(N,)`"""
        farthest = distances.flatten(1).argmax(dim=1)
        patches = embeddings.flatten(1, 2)
        patch = torch.gather(patches, 1, farthest[:, None, None].expand(-1, 1, patches.shape[2]))[:, 0]
        place = patch @ self.nearest.components
        found = (place @ self.nearest.bank - self.nearest.half_squares).argmax(dim=1)
        around = self.nearest.bank.T[self.neighbours[found]]  # (N, b, components)
        apart = (around - place[:, None]).square().sum(dim=2).sqrt()
        return 1 - torch.softmax(apart, dim=1)[:, 0]
