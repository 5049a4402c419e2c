import pytest
import torch
from torch import nn

from training.losses import msgms_loss
from training.methods.riad.network import SQUARES, InpaintingNetwork, RiadMap, hidden_parts


@pytest.mark.parametrize("side", SQUARES)
def test_every_pixel_is_hidden_once_in_whole_squares(side: int) -> None:
    masks = hidden_parts(64, side, 3, torch.Generator().manual_seed(0))
    assert masks.shape == (3, 1, 64, 64)
    assert torch.equal(masks.sum(dim=0), torch.ones(1, 64, 64))
    squares = masks.unfold(2, side, side).unfold(3, side, side).flatten(4)
    assert torch.equal(squares.amin(dim=-1), squares.amax(dim=-1))
    shares = masks.mean(dim=(1, 2, 3))
    assert shares.max() - shares.min() <= side**2 / 64**2 + 1e-6


class _Copy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class _Good(nn.Module):
    """Paints a good photo whatever it sees, as a network does that knows no other."""

    def __init__(self, photo: torch.Tensor) -> None:
        super().__init__()
        self.photo = photo

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.photo.expand_as(x)


def test_the_map_is_zero_on_what_is_painted_as_it_was_and_bright_where_not() -> None:
    generator = torch.Generator().manual_seed(0)
    photo = torch.rand((1, 3, 64, 64), generator=generator)
    riad = RiadMap(_Good(photo), 64, 3, 0)
    assert riad(photo).max() < 1e-5
    spoilt = photo.clone()
    spoilt[:, :, 28:36, 28:36] = 0.5
    anomaly_map = riad(torch.cat((photo, spoilt)))
    assert anomaly_map[0].max() < 1e-5
    assert anomaly_map[1, 32, 32] > 0.02
    assert anomaly_map[1, :8, :8].max() < 0.1 * anomaly_map[1, 32, 32]


def test_nothing_of_a_hidden_square_is_seen_while_it_is_painted() -> None:
    seen: list[torch.Tensor] = []
    riad = RiadMap(_Copy(), 64, 3, 0)
    riad.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    riad(torch.full((1, 3, 64, 64), 0.7))
    assert seen[0].shape == (3 * len(SQUARES), 3, 64, 64)
    assert (seen[0] * riad.hidden).abs().max() == 0


def test_the_network_paints_colours_and_learns_from_flat_images() -> None:
    torch.manual_seed(0)
    network = InpaintingNetwork(4)
    flat = torch.full((1, 3, 64, 64), 0.5)
    painted = network(flat)
    assert painted.shape == flat.shape
    assert 0 < painted.min() < painted.max() < 1
    shown = flat.clone().requires_grad_()
    msgms_loss(shown, flat).backward()  # type: ignore[no-untyped-call]
    assert shown.grad is not None
    assert shown.grad.isfinite().all()
