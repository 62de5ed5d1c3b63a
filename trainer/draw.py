"""What one step of a run is fed."""

from __future__ import annotations

import numpy as np
import torch

from vaert.trainer.config import Stage
from vaert.trainer.tasks import Data


def draw(
    data: Data, stage: Stage, key: tuple[int, int, int], device: torch.device
) -> tuple[torch.Tensor, torch.Generator]:
    """Batch, uint8 (batch, crop, crop, ...), and noise of a step, both functions of key = (seed, step, rank) alone."""
    rng = np.random.default_rng(key)
    batch = torch.from_numpy(np.ascontiguousarray(data.batch(rng, stage.batch, stage.crop)))
    generator = torch.Generator(device)
    generator.manual_seed(int(rng.integers(2**62)))
    return batch.to(device, non_blocking=True), generator
