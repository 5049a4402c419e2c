"""A photo cut into tiles that overlap, and the map of the photo joined from theirs: inside the graph that is served.

The network sees `size` x `size` pixels at a time, the recipe an image of all tiles. Cutting and joining are layers
like any other, so golden images, limits, INT8, engines and Triton have nothing to know of them.

Where tiles overlap the larger value counts: a defect that one tile has cut off at its rim, and its neighbour sees
whole, must not be halved by a mean. What a rim makes too hot, thresholds know of, for good photos go the same way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

MOST_TILES = 64
_PATTERN = re.compile(r"([1-9]\d?)x([1-9]\d?)")


@dataclass(frozen=True)
class Grid:
    """Rows and columns of square tiles of `size` pixels; neighbours share `overlap` of them."""

    rows: int
    columns: int
    size: int
    overlap: int

    @classmethod
    def of(cls, tiles: str, size: int, overlap: int) -> Self:
        """A grid of `tiles` such as 2x3; raises ValueError."""
        found = _PATTERN.fullmatch(tiles)
        if found is None or int(found[1]) * int(found[2]) > MOST_TILES:
            raise ValueError(f"tiles {tiles}: say ROWSxCOLUMNS, such as 2x3, at most {MOST_TILES} tiles")
        grid = cls(int(found[1]), int(found[2]), size, overlap)
        if grid.count > 1 and 2 * overlap > size:
            raise ValueError(f"overlap {overlap}: choose at most half of size {size}")
        return grid

    @property
    def count(self) -> int:
        return self.rows * self.columns

    @property
    def height(self) -> int:
        """Of the image of all tiles."""
        return self.rows * self.size - (self.rows - 1) * self.overlap

    @property
    def width(self) -> int:
        return self.columns * self.size - (self.columns - 1) * self.overlap

    def cut(self, pictures: Tensor) -> Tensor:
        """`(N, C, H, W)` -> `(N T, C, S, S)`: the tiles of an image one after the other, row by row."""
        if self.count == 1:
            return pictures
        step = self.size - self.overlap
        tiles = [
            pictures[:, :, step * row : step * row + self.size, step * column : step * column + self.size]
            for row in range(self.rows)
            for column in range(self.columns)
        ]
        return torch.stack(tiles, dim=1).flatten(0, 1)

    def join(self, maps: Tensor) -> Tensor:
        """`(N T, S, S)` -> `(N, H, W)`; the larger value where two overlap."""
        tiles = maps.view(-1, self.count, self.size, self.size).unbind(dim=1)
        rows = [
            _joined(tiles[row * self.columns : (row + 1) * self.columns], self.overlap, dim=2)
            for row in range(self.rows)
        ]
        return _joined(rows, self.overlap, dim=1)

    def over(self, network: nn.Module) -> nn.Module:
        """A network of tiles as one of whole images."""
        return network if self.count == 1 else Tiled(network, self)


class Tiled(nn.Module):
    """RGB `(N, 3, H, W)` -> map `(N, H, W)`, by a network that takes one tile to its map."""

    def __init__(self, network: nn.Module, grid: Grid) -> None:
        super().__init__()
        self.network = network
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        return self.grid.join(self.network(self.grid.cut(x)))


def _joined(maps: list[Tensor] | tuple[Tensor, ...], overlap: int, dim: int) -> Tensor:
    if overlap == 0:
        return torch.cat(list(maps), dim=dim)
    # Of two neighbours first what is the left one's alone, then what they share.
    parts, last = [], maps[0]
    for following in maps[1:]:
        length = last.shape[dim]
        parts.append(last.narrow(dim, 0, length - overlap))
        shared = torch.maximum(last.narrow(dim, length - overlap, overlap), following.narrow(dim, 0, overlap))
        last = torch.cat((shared, following.narrow(dim, overlap, following.shape[dim] - overlap)), dim=dim)
    return torch.cat([*parts, last], dim=dim)
