"""Distances of patch embeddings to those of good photos, fitted without a step of training.

A photo that is scored by distances which know it looks better than any new one will. Each distance here can leave a
photo out of what it was fitted on, at the cost of a product, so that training sees what inspection will see.
Embeddings are `(N, h, w, C)`, distances `(N, h, w)`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.features.coreset import farthest_points
from training.features.trunk import TrunkError

_RIDGE = 0.002  # of a channel's variance: what noise adds to every direction
_LEAST = 0.05  # of the denominator when a photo is left out
_FAR = -1e9
# Added to the squared distance to the nearest patch: that is a difference of large numbers, and rounding is all below.
_NEAR = 0.25
_COMPONENTS = 64  # of the embeddings in which the nearest patch is looked for
_BALANCED = 96  # where none of them drowns the others
_COMPARED = 20_000  # patches that the bank is chosen from
_PHOTOS_AT_ONCE = 16
_MOST_BYTES = 1_900_000_000


class PositionGaussian(nn.Module):
    """Mahalanobis distance to the Gaussian of each position (PaDiM, Defard et al. 2021) over a draw of channels.

    A mean is one position's, a covariance that of a square of `side` x `side` positions: with 2 a quarter of the memory
    that every image reads, and four times the samples. Where photos are few it leans on the mean covariance of all.
    """

    def __init__(self, embeddings: Tensor, channels: int, generator: torch.Generator, side: int = 2) -> None:
        super().__init__()
        self.side = side
        photos, height, width, available = embeddings.shape
        if channels > available:
            raise TrunkError(f"--channels {channels}: the trunk has {available}: choose fewer")
        if (needed := 4 * channels**2 * (height // side) * (width // side)) > _MOST_BYTES:
            raise TrunkError(
                f"--channels {channels}: the Gaussians of {height}x{width} positions take {needed / 1e9:.1f} GB, more "
                "than an ONNX file holds: choose fewer channels, --square 2, or a smaller --size"
            )
        chosen = torch.randperm(available, generator=generator)[:channels].sort().values
        self.register_buffer("chosen", chosen.to(embeddings.device))
        self.register_buffer("mean", embeddings[..., self.chosen].mean(dim=0))
        covariance = torch.zeros((height // side * (width // side), channels, channels), device=embeddings.device)
        for part in torch.split(embeddings, _PHOTOS_AT_ONCE):
            rest = self._squares(self._residuals(part))
            covariance += rest.mT @ rest
        covariance /= side**2 * max(1, photos - 1)
        shared = channels / (channels + 10 * side**2 * photos)
        covariance = torch.lerp(covariance, covariance.mean(dim=0, keepdim=True).expand_as(covariance), shared)
        covariance += _RIDGE * torch.eye(channels, device=embeddings.device)
        # x S^-1 x is the squared length of x L^-T. One by one: some batched inverses fail on some machines.
        identity = torch.eye(channels, dtype=torch.float64, device=embeddings.device)
        for i, one in enumerate(covariance):
            lower = torch.linalg.cholesky(one.double())
            covariance[i] = torch.linalg.solve_triangular(lower, identity, upper=False).T.float()
        self.register_buffer("whitening", covariance)
        # What leaving a photo out of `photos` changes: the mean by its residual over photos - 1, the covariance by this
        # share of its residuals, and by being divided by one photo less.
        self.photos = photos
        self.share = (1 - shared) * photos / (side**2 * max(1, photos - 1) ** 2)
        self.fewer = max(1, photos - 2) / max(1, photos - 1)

    mean: Tensor
    chosen: Tensor
    whitening: Tensor

    def forward(self, embeddings: Tensor) -> Tensor:
        return self._lengths(self._white(self._residuals(embeddings))).sqrt()

    def without(self, embeddings: Tensor, own: Tensor) -> Tensor:
        """Distances as if the photos with embeddings `own` had not been there, each for its own image."""
        mine = self._residuals(own)
        image = self._white(self._residuals(embeddings) + mine / max(1, self.photos - 1))
        # Woodbury 1950, for all residuals that the photo gave to the covariance of a square: neighbours are alike, so
        # a square that keeps three of four still knows the photo.
        each = self._by_photo(self._white(mine))
        strengths, axes = torch.linalg.eigh(each @ each.mT)
        rest = (1 - self.share * strengths).clamp(min=_LEAST)
        along = self._by_photo(image) @ each.mT @ axes
        known = (self.share * along.square() / rest.unsqueeze(2)).sum(dim=3)
        return (self.fewer * (self._lengths(image) + self._placed(known.flatten(1)))).sqrt()

    def _by_photo(self, white: Tensor) -> Tensor:
        """`(h/side * w/side, side^2 N, K)` -> `(h/side * w/side, N, side^2, K)`."""
        return white.view(len(white), -1, self.side**2, white.shape[2])

    def _residuals(self, embeddings: Tensor) -> Tensor:
        return embeddings.index_select(3, self.chosen) - self.mean

    def _squares(self, residuals: Tensor) -> Tensor:
        """`(N, h, w, K)` -> `(h/side * w/side, side^2 N, K)`."""
        side = self.side
        height, width, channels = residuals.shape[1:]
        cut = residuals.view(-1, height // side, side, width // side, side, channels).permute(1, 3, 0, 2, 4, 5)
        return cut.reshape(height // side * (width // side), -1, channels)

    def _white(self, residuals: Tensor) -> Tensor:
        return self._squares(residuals) @ self.whitening

    def _lengths(self, white: Tensor) -> Tensor:
        return self._placed(white.square().sum(dim=2))

    def _placed(self, sums: Tensor) -> Tensor:
        """`(h/side * w/side, side^2 N)` -> `(N, h, w)`."""
        side = self.side
        height, width = self.mean.shape[:2]
        squares = sums.view(height // side, width // side, -1, side, side)
        return squares.permute(2, 0, 3, 1, 4).reshape(-1, height, width)


class SharedGaussian(nn.Module):
    """Mahalanobis distance to one Gaussian of all patches: knows no position, so a part may lie in any direction."""

    mean: Tensor
    whitening: Tensor

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        patches = embeddings.flatten(0, 2)
        width = patches.shape[1]
        self.register_buffer("mean", patches.mean(dim=0))
        covariance = torch.zeros((width, width), dtype=torch.float64, device=embeddings.device)
        for part in torch.split(patches, 65536):
            rest = (part - self.mean).double()
            covariance += rest.T @ rest
        identity = torch.eye(width, dtype=torch.float64, device=embeddings.device)
        lower = torch.linalg.cholesky(covariance / len(patches) + _RIDGE * identity)
        self.register_buffer("whitening", torch.linalg.solve_triangular(lower, identity, upper=False).T.float())

    def forward(self, embeddings: Tensor) -> Tensor:
        return ((embeddings - self.mean) @ self.whitening).square().sum(dim=3).sqrt()


class NearestPatch(nn.Module):
    """Distance to the nearest of a bank of good patches (PatchCore, Roth et al. 2022), in their main components."""

    components: Tensor
    bank: Tensor
    half_squares: Tensor

    def __init__(self, embeddings: Tensor, chosen: Tensor, components: Tensor | None = None) -> None:
        """The bank has the patches `chosen`, numbered photo by photo and row by row; without `components` `(C, K)`
        those of the bank are taken as they are.
        """
        super().__init__()
        kept = embeddings.flatten(0, 2)[chosen]
        if components is None:
            components = _main_components(kept)[0][:, :_COMPONENTS].float().contiguous()
        self.register_buffer("components", components)
        bank = kept @ self.components
        self.register_buffer("bank", bank.T.contiguous())
        self.register_buffer("half_squares", bank.square().sum(dim=1) / 2)
        self.source = chosen // (embeddings.shape[1] * embeddings.shape[2])

    @classmethod
    def balanced(cls, embeddings: Tensor, count: int, generator: torch.Generator) -> NearestPatch:
        """With a coreset of `count` patches: of as many random ones the rare ones, which good parts have too, would be
        missing.

        A component counts by the root of its deviation: as it is, what varies most would hide the rest, and at equal
        weights noise would.
        """
        patches = embeddings.flatten(0, 2)
        drawn = torch.randperm(len(patches), generator=generator)[:_COMPARED].to(embeddings.device)
        vectors, variances = _main_components(patches[drawn])
        weighed = vectors / variances.clamp(min=_RIDGE) ** 0.25
        components = weighed[:, :_BALANCED].float().contiguous()
        kept = farthest_points(patches[drawn] @ components, count, generator)
        return cls(embeddings, drawn[kept], components)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self._distances(embeddings, None)

    def without(self, embeddings: Tensor, photos: Tensor) -> Tensor:
        """Distances to patches of other photos than `photos` `(N,)`, each for its own image."""
        same = self.source[None] == photos.to(self.source.device)[:, None]
        return self._distances(embeddings, same[:, None, None] * _FAR)

    def _distances(self, embeddings: Tensor, forbidden: Tensor | None) -> Tensor:
        places = embeddings @ self.components
        # |x - b|^2 = |x|^2 - 2 (x b - |b|^2 / 2)
        likeness = places @ self.bank - self.half_squares
        if forbidden is not None:
            likeness = likeness + forbidden
        return (_NEAR + (places.square().sum(dim=3) - 2 * likeness.amax(dim=3)).clamp(min=0)).sqrt()


def _main_components(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Main components `(C, C)` of patches `(N, C)` in float64, a column each, and their variances, largest first."""
    rest = (patches - patches.mean(dim=0)).double()
    variances, vectors = torch.linalg.eigh(rest.T @ rest / len(rest))
    return vectors.flip(1), variances.flip(0)


class Distances(nn.Module):
    """All three, `(N, 3, h, w)`; about 1 where good photos left out lie."""

    scale: Tensor

    def __init__(self, embeddings: Tensor, *, channels: int, bank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.position = PositionGaussian(embeddings, channels, generator)
        self.shared = SharedGaussian(embeddings)
        self.nearest = NearestPatch.balanced(embeddings, bank, generator)
        self.register_buffer("scale", torch.ones((1, 3, 1, 1), device=embeddings.device))
        photos = torch.arange(min(64, len(embeddings)))
        typical = self.without(embeddings[photos], embeddings, photos).mean(dim=(0, 2, 3), keepdim=True)
        self.scale.copy_(1 / typical.clamp(min=1e-6))

    def forward(self, embeddings: Tensor) -> Tensor:
        found = (self.position(embeddings), self.shared(embeddings), self.nearest(embeddings))
        return torch.stack(found, dim=1) * self.scale

    def without(self, embeddings: Tensor, good: Tensor, photos: Tensor) -> Tensor:
        """The same, for each image without the good photo that it was made of: `photos` `(N,)` of `good`."""
        found = []
        for part, own in zip(
            torch.split(embeddings, _PHOTOS_AT_ONCE), torch.split(photos, _PHOTOS_AT_ONCE), strict=True
        ):
            each = (
                self.position.without(part, good[own]),
                self.shared(part),  # one photo of many hardly moves it
                self.nearest.without(part, own),
            )
            found.append(torch.stack(each, dim=1) * self.scale)
        return torch.cat(found)
