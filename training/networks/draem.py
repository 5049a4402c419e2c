"""The two sub-networks of DRÆM and their composition (Zavrtanik et al. 2021, sec. 3.1 and 3.3).

Attribute names follow the authors' released state dicts, so their checkpoints load by key:
`encoder.block1.0.weight`, `decoder_segment.up_b.1.weight`, ... Every stage width is a multiple of one base width
(authors: 128 reconstructive, 64 discriminative). No skip connections in the reconstructive network: it must in-paint
what it has not learned. Inputs are RGB in [0, 1]; height and width must be divisible by 32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def double_conv(c_in: int, c_mid: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_mid, 3, padding=1),
        nn.BatchNorm2d(c_mid),
        nn.ReLU(inplace=True),
        nn.Conv2d(c_mid, c_out, 3, padding=1),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )


def up(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.Conv2d(c_in, c_out, 3, padding=1),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )


class _ReconstructiveEncoder(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.block1 = double_conv(3, w, w)
        self.block2 = double_conv(w, 2 * w, 2 * w)
        self.block3 = double_conv(2 * w, 4 * w, 4 * w)
        self.block4 = double_conv(4 * w, 8 * w, 8 * w)
        self.block5 = double_conv(8 * w, 8 * w, 8 * w)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block1(x)  # (N, w, H, W)
        x = self.block2(self.pool(x))  # (N, 2w, H/2, W/2)
        x = self.block3(self.pool(x))  # (N, 4w, H/4, W/4)
        x = self.block4(self.pool(x))  # (N, 8w, H/8, W/8)
        out: Tensor = self.block5(self.pool(x))  # (N, 8w, H/16, W/16)
        return out


class _ReconstructiveDecoder(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.up1 = up(8 * w, 8 * w)
        self.db1 = double_conv(8 * w, 8 * w, 4 * w)
        self.up2 = up(4 * w, 4 * w)
        self.db2 = double_conv(4 * w, 4 * w, 2 * w)
        self.up3 = up(2 * w, 2 * w)
        self.db3 = double_conv(2 * w, 2 * w, w)
        self.up4 = up(w, w)
        self.db4 = double_conv(w, w, w)
        self.fin_out = nn.Sequential(nn.Conv2d(w, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.db1(self.up1(x))
        x = self.db2(self.up2(x))
        x = self.db3(self.up3(x))
        x = self.db4(self.up4(x))
        out: Tensor = self.fin_out(x)
        return out


class ReconstructiveNetwork(nn.Module):
    """(N, 3, H, W) in [0, 1] -> (N, 3, H, W), linear output: values may leave [0, 1], as in the authors' code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = _ReconstructiveEncoder(width)
        self.decoder = _ReconstructiveDecoder(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.encoder(x))
        return out


class _DiscriminativeEncoder(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.block1 = double_conv(6, w, w)
        self.block2 = double_conv(w, 2 * w, 2 * w)
        self.block3 = double_conv(2 * w, 4 * w, 4 * w)
        self.block4 = double_conv(4 * w, 8 * w, 8 * w)
        self.block5 = double_conv(8 * w, 8 * w, 8 * w)
        self.block6 = double_conv(8 * w, 8 * w, 8 * w)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> list[Tensor]:
        b1 = self.block1(x)  # (N, w, H, W)
        b2 = self.block2(self.pool(b1))  # (N, 2w, H/2, W/2)
        b3 = self.block3(self.pool(b2))  # (N, 4w, H/4, W/4)
        b4 = self.block4(self.pool(b3))  # (N, 8w, H/8, W/8)
        b5 = self.block5(self.pool(b4))  # (N, 8w, H/16, W/16)
        b6 = self.block6(self.pool(b5))  # (N, 8w, H/32, W/32)
        return [b1, b2, b3, b4, b5, b6]


class _DiscriminativeDecoder(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.up_b = up(8 * w, 8 * w)
        self.db_b = double_conv(16 * w, 8 * w, 8 * w)
        self.up1 = up(8 * w, 4 * w)
        self.db1 = double_conv(12 * w, 4 * w, 4 * w)
        self.up2 = up(4 * w, 2 * w)
        self.db2 = double_conv(6 * w, 2 * w, 2 * w)
        self.up3 = up(2 * w, w)
        self.db3 = double_conv(3 * w, w, w)
        self.up4 = up(w, w)
        self.db4 = double_conv(2 * w, w, w)
        self.fin_out = nn.Sequential(nn.Conv2d(w, 2, 3, padding=1))

    def forward(self, stages: list[Tensor]) -> Tensor:
        b1, b2, b3, b4, b5, x = stages
        x = self.db_b(torch.cat((self.up_b(x), b5), dim=1))
        x = self.db1(torch.cat((self.up1(x), b4), dim=1))
        x = self.db2(torch.cat((self.up2(x), b3), dim=1))
        x = self.db3(torch.cat((self.up3(x), b2), dim=1))
        x = self.db4(torch.cat((self.up4(x), b1), dim=1))
        out: Tensor = self.fin_out(x)
        return out


class DiscriminativeNetwork(nn.Module):
    """(N, 6, H, W) reconstruction and image -> (N, 2, H, W) logits; channel 1 is the anomaly."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder_segment = _DiscriminativeEncoder(width)
        self.decoder_segment = _DiscriminativeDecoder(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder_segment(self.encoder_segment(x))
        return out


class Draem(nn.Module):
    """Both sub-networks: (N, 3, H, W) RGB in [0, 1] -> reconstruction (N, 3, H, W) and logits (N, 2, H, W)."""

    def __init__(self, reconstructive_width: int, discriminative_width: int) -> None:
        super().__init__()
        self.reconstructive = ReconstructiveNetwork(reconstructive_width)
        self.discriminative = DiscriminativeNetwork(discriminative_width)
        self.apply(init_weights)

    @property
    def last_layer(self) -> nn.Conv2d:
        """Gives the logits: channel 0 the normal ones, 1 the anomalous ones."""
        last = self.discriminative.decoder_segment.fin_out[-1]
        assert isinstance(last, nn.Conv2d)  # noqa: S101
        return last

    def reconstruct(self, x: Tensor) -> Tensor:
        out: Tensor = self.reconstructive(x)
        return out

    def discriminate(self, reconstruction: Tensor, x: Tensor) -> Tensor:
        # The order matters to every released checkpoint: reconstruction first (anomalib has it the other way round).
        out: Tensor = self.discriminative(torch.cat((reconstruction, x), dim=1))
        return out

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        reconstruction = self.reconstruct(x)
        return reconstruction, self.discriminate(reconstruction, x)


def init_weights(module: nn.Module) -> None:
    """The authors' start: conv weights N(0, 0.02), BatchNorm weights N(1, 0.02), BatchNorm biases 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
