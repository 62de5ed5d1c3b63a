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
        # torch notes that no parameter goes unused; but with this flag it never lays its buckets out anew, so that a
        # resumed run sums gradients in the same order as an unbroken one.
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

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process."""
        return self.mean(float(flag)) > 0

    def total(self, count: int) -> int:
        """Sum of a count over all processes."""
        return round(self.mean(count) * self.world)


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the group that torchrun describes in the environment, or stand alone; the GPU if there is one.

    A group that the caller has joined already is used and left open.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    joined = world > 1 and not dist.is_initialized()
    if joined:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world, device)
    finally:
        if joined:
            dist.destroy_process_group()
