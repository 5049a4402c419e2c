"""Muon: steps whose directions are orthogonal matrices, so that few steps go far (Jordan et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Muon for the kernels of convolutions, seen as matrices (out, in * height * width), AdamW for everything else.

    The step of a kernel is scaled to the root mean square of an AdamW step (Liu et al. 2025, eq. 4), so one learning
    rate and one weight decay serve both.
    """

    def __init__(self, network: nn.Module, lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        kernels = [p for p in network.parameters() if p.ndim == 4]
        others = [p for p in network.parameters() if p.ndim != 4]
        groups: list[dict[str, Any]] = [
            {"params": kernels, "orthogonal": True},
            {"params": others, "orthogonal": False},
        ]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": (0.9, 0.999)})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                direction = _orthogonal if group["orthogonal"] else _adam
                parameter.sub_(direction(parameter.grad, self.state[parameter], group), alpha=group["lr"])


def _orthogonal(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    if not state:
        state["momentum"] = torch.zeros_like(gradient)
    momentum: Tensor = state["momentum"]
    momentum.lerp_(gradient, 1 - group["momentum"])
    matrix = gradient.lerp(momentum, group["momentum"]).flatten(1)  # Nesterov
    step: Tensor = 0.2 * max(matrix.shape) ** 0.5 * orthogonalised(matrix)
    return step.view(gradient.shape)


def _adam(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    if not state:
        state.update(step=0, mean=torch.zeros_like(gradient), square=torch.zeros_like(gradient))
    state["step"] += 1
    first, second = group["betas"]
    mean: Tensor = state["mean"]
    square: Tensor = state["square"]
    mean.lerp_(gradient, 1 - first)
    square.lerp_(gradient.square(), 1 - second)
    unbiased_mean: Tensor = mean / (1 - first ** state["step"])
    unbiased_square: Tensor = square / (1 - second ** state["step"])
    return unbiased_mean / unbiased_square.sqrt().add(1e-8)


def orthogonalised(matrix: Tensor) -> Tensor:
    """(M, N) -> nearly U V^T of its singular value decomposition: five Newton-Schulz steps of the fifth order.

    Each step is a polynomial of the smaller Gram matrix times what it is applied to, so all of them are multiplied
    there and applied once: a third of the arithmetic where N is 9 M.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = len(matrix) > matrix.shape[1]
    gram = matrix.T @ matrix if tall else matrix @ matrix.T
    square = gram.trace() + 1e-14
    gram = gram / square
    steps = torch.eye(len(gram), device=matrix.device)
    for _ in range(5):
        polynomial = b * gram + c * (gram @ gram)
        polynomial.diagonal().add_(a)
        steps = polynomial @ steps
        gram = polynomial @ gram @ polynomial
    return (matrix @ steps if tall else steps @ matrix) / square.sqrt()
