import pytest
import torch
from torch import Tensor, nn

from training.loop.muon import Muon, orthogonalised


def _matrix(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(16, 144), (64, 27)])
def test_singular_values_become_nearly_one_and_directions_stay(shape: tuple[int, int]) -> None:
    matrix = _matrix(*shape)
    result = orthogonalised(matrix)
    assert torch.linalg.svdvals(result).sub(1).abs().max() < 0.35
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.cosine_similarity(result.flatten(), (u @ vt).flatten(), dim=0) > 0.97


def test_no_gradient_is_no_step() -> None:
    assert orthogonalised(torch.zeros(4, 9)).eq(0).all()


def test_kernels_step_as_far_as_adamw_would() -> None:
    layer = nn.Conv2d(8, 16, 3, bias=False)
    before = layer.weight.detach().clone()
    layer.weight.grad = 1e-4 * _matrix(16, 72).view(16, 8, 3, 3)  # its size does not matter
    Muon(layer, lr=0.01, weight_decay=0.0).step()
    step = (layer.weight.detach() - before).square().mean().sqrt()
    assert step.item() == pytest.approx(0.2 * 0.01, rel=0.2)


def test_all_else_steps_as_with_adamw() -> None:
    ours, theirs = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    optimizers = (
        Muon(ours, lr=0.01, weight_decay=0.1),
        torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1),
    )
    for step in range(5):
        for layer, optimizer in zip((ours, theirs), optimizers, strict=True):
            layer.weight.grad = _matrix(5, 4)[step].clone()
            layer.bias.grad = _matrix(5, 4)[step] ** 2
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
