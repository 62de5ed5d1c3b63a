"""How many steps fit in a number of minutes."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import torch

from vaert.trainer.config import Stage, TrainConfig
from vaert.trainer.data import Pictures, draw
from vaert.trainer.models.codec import CodecVAE
from vaert.trainer.objective import RateDistortion
from vaert.trainer.processes import Processes

MEASURED_STEPS = 12  # per stage
SHORTEST = 30  # steps


def fit_steps(
    config: TrainConfig, minutes: float, *, model: CodecVAE, pictures: Pictures, group: Processes
) -> TrainConfig:
    """Measure a few steps of every stage, on a copy of the model, and choose the step count that fills the time."""
    objective = RateDistortion(copy.deepcopy(model))
    objective.amp = config.amp
    step_of = group.wrap(objective)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-6, fused=True)

    def measure(stage: Stage) -> float:
        taken = []
        for step in range(MEASURED_STEPS):
            start = time.perf_counter()
            loss, _ = step_of(*draw(pictures, stage, (config.seed, step, group.rank), group.device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss.item()  # waits for the device
            taken.append(time.perf_counter() - start)
        return sorted(taken)[MEASURED_STEPS // 2]

    ends = [stage.start for stage in config.stages[1:]] + [1.0]
    seconds = sum((end - stage.start) * measure(stage) for stage, end in zip(config.stages, ends, strict=True))
    # The mean over the processes, so that all choose the same count.
    return replace(config, steps=max(SHORTEST, round(60 * minutes / group.mean(seconds))))
