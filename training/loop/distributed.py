"""Several processes that train one network together, started by `torchrun`; alone, everything here is free.

Each process simulates its share of the batch from a seed of its own, and DistributedDataParallel averages gradients, so
the batch of the settings stays the batch of a step however many processes share it. BatchNorm normalises over the
whole batch on CUDA (SyncBatchNorm); on the CPU, where torch has none, over each process's share, and the running
statistics are those of the first process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from training.errors import UserError


class DeviceError(UserError):
    """The device that was asked for is not there."""


@contextmanager
def joined(device: str) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did, and give this one's device: `auto`, `cpu` or `cuda[:N]`."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"--device {device}: not a device: choose auto, cpu or cuda") from error
    if chosen.type == "cuda":
        index = chosen.index if chosen.index is not None else local_rank
        if index >= torch.cuda.device_count():
            raise DeviceError(f"--device {device}: this machine has {torch.cuda.device_count()} CUDA devices")
        chosen = torch.device("cuda", index)
        torch.cuda.set_device(chosen)
    if not together:
        yield chosen
        return
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield chosen
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """Number of this process, 0 for the one that writes files; torchrun tells it before they join."""
    return distributed.get_rank() if distributed.is_initialized() else int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def share(network: nn.Module, device: torch.device) -> nn.Module:
    """The network as one that averages its gradients over the processes; itself where there is only one."""
    if world() == 1:
        return network
    if device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


def mean(values: Tensor) -> Tensor:
    """Mean of `values` over the processes, the same numbers in each of them."""
    if world() > 1:
        distributed.all_reduce(values)
        values /= world()
    return values


def collect(value: Any) -> list[Any]:
    """`value` of every process, by rank."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    distributed.all_gather_object(values, value)
    return values


def wait() -> None:
    """Until every process is here."""
    if world() > 1:
        distributed.barrier()
