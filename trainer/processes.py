"""One process or several (`torchrun`): device, rank, and the few collective operations the loop needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn as nn


@dataclass(frozen=True)
class Processes:
    """This process among `world` equal ones."""

    rank: int
    world: int
    device: torch.device

    def wrap(self, module: nn.Module) -> Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]]:
        """The module, with gradients averaged over all processes if there are several."""
        if self.world == 1:
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        # A parameter can go without gradient in a step, where every element of a row is clamped.
        return nn.parallel.DistributedDataParallel(module, device_ids=ids, find_unused_parameters=True)

    def largest(self, *tensors: torch.Tensor) -> None:
        """Replace each tensor by its largest value over all processes."""
        if self.world > 1:
            for tensor in tensors:
                dist.all_reduce(tensor, op=dist.ReduceOp.MAX)

    def mean(self, value: float) -> float:
        """Mean of a number over all processes."""
        if self.world == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total) / self.world


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the group that torchrun describes in the environment, or stand alone; the GPU if there is one."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world, device)
    finally:
        if world > 1:
            dist.destroy_process_group()
