"""DRÆM on blocks of 2x2 pixels: its networks without the stage of full resolution, which costs most and holds least.

Both networks take the four pixels of a block as channels and answer for all four (Shi et al. 2016, sub-pixel
convolution), so images, maps and their resolution stay; from the second stage on they are the paper's (Zavrtanik et al.
2021, sec. 3.1 and 3.3). Widths are those of the first stage that is left out: the same number means the same layers
below. The discriminative network reads the reconstruction in blocks, as it is made.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.networks.draem import double_conv, init_weights, up

BLOCK = 2


class _Reconstructive(nn.Module):
    """(N, 12, H/2, W/2) -> the same, linear output."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.block2 = double_conv(3 * BLOCK**2, 2 * w, 2 * w)
        self.block3 = double_conv(2 * w, 4 * w, 4 * w)
        self.block4 = double_conv(4 * w, 8 * w, 8 * w)
        self.block5 = double_conv(8 * w, 8 * w, 8 * w)
        self.pool = nn.MaxPool2d(2)
        self.up1 = up(8 * w, 8 * w)
        self.db1 = double_conv(8 * w, 8 * w, 4 * w)
        self.up2 = up(4 * w, 4 * w)
        self.db2 = double_conv(4 * w, 4 * w, 2 * w)
        self.up3 = up(2 * w, 2 * w)
        self.db3 = double_conv(2 * w, 2 * w, 2 * w)
        self.fin_out = nn.Conv2d(2 * w, 3 * BLOCK**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(x)  # (N, 2w, H/2, W/2)
        x = self.block3(self.pool(x))  # (N, 4w, H/4, W/4)
        x = self.block4(self.pool(x))  # (N, 8w, H/8, W/8)
        x = self.block5(self.pool(x))  # (N, 8w, H/16, W/16)
        x = self.db1(self.up1(x))
        x = self.db2(self.up2(x))
        x = self.db3(self.up3(x))
        out: Tensor = self.fin_out(x)
        return out


class _Discriminative(nn.Module):
    """(N, 24, H/2, W/2) reconstruction and image -> (N, 8, H/2, W/2): both logits of four pixels."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.block2 = double_conv(6 * BLOCK**2, 2 * w, 2 * w)
        self.block3 = double_conv(2 * w, 4 * w, 4 * w)
        self.block4 = double_conv(4 * w, 8 * w, 8 * w)
        self.block5 = double_conv(8 * w, 8 * w, 8 * w)
        self.block6 = double_conv(8 * w, 8 * w, 8 * w)
        self.pool = nn.MaxPool2d(2)
        self.up_b = up(8 * w, 8 * w)
        self.db_b = double_conv(16 * w, 8 * w, 8 * w)
        self.up1 = up(8 * w, 4 * w)
        self.db1 = double_conv(12 * w, 4 * w, 4 * w)
        self.up2 = up(4 * w, 2 * w)
        self.db2 = double_conv(6 * w, 2 * w, 2 * w)
        self.up3 = up(2 * w, 2 * w)
        self.db3 = double_conv(4 * w, 2 * w, 2 * w)
        self.fin_out = nn.Conv2d(2 * w, 2 * BLOCK**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        b2 = self.block2(x)  # (N, 2w, H/2, W/2)
        b3 = self.block3(self.pool(b2))  # (N, 4w, H/4, W/4)
        b4 = self.block4(self.pool(b3))  # (N, 8w, H/8, W/8)
        b5 = self.block5(self.pool(b4))  # (N, 8w, H/16, W/16)
        x = self.block6(self.pool(b5))  # (N, 8w, H/32, W/32)
        x = self.db_b(torch.cat((self.up_b(x), b5), dim=1))
        x = self.db1(torch.cat((self.up1(x), b4), dim=1))
        x = self.db2(torch.cat((self.up2(x), b3), dim=1))
        x = self.db3(torch.cat((self.up3(x), b2), dim=1))
        out: Tensor = self.fin_out(x)
        return out


class CompactDraem(nn.Module):
    """Used like `Draem`: (N, 3, H, W) RGB in [0, 1] -> reconstruction (N, 3, H, W) and logits (N, 2, H, W)."""

    def __init__(self, reconstructive_width: int, discriminative_width: int) -> None:
        super().__init__()
        self.reconstructive = _Reconstructive(reconstructive_width)
        self.discriminative = _Discriminative(discriminative_width)
        self.apply(init_weights)

    @property
    def last_layer(self) -> nn.Conv2d:
        """Gives the logits: channels 0 to 3 the normal ones of a block's pixels, 4 to 7 the anomalous ones."""
        return self.discriminative.fin_out

    def reconstruct(self, x: Tensor) -> Tensor:
        return functional.pixel_shuffle(self.reconstructive(functional.pixel_unshuffle(x, BLOCK)), BLOCK)

    def discriminate(self, reconstruction: Tensor, x: Tensor) -> Tensor:
        both = torch.cat([functional.pixel_unshuffle(image, BLOCK) for image in (reconstruction, x)], dim=1)
        return functional.pixel_shuffle(self.discriminative(both), BLOCK)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # Not by way of the two methods: the reconstruction need not leave its blocks to be looked at.
        image = functional.pixel_unshuffle(x, BLOCK)
        reconstruction = self.reconstructive(image)
        logits = self.discriminative(torch.cat((reconstruction, image), dim=1))
        return functional.pixel_shuffle(reconstruction, BLOCK), functional.pixel_shuffle(logits, BLOCK)
