"""How many steps a number of minutes, or of passes over the data, makes."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import replace

import torch

from vaert.trainer.config import Stage, TrainConfig
from vaert.trainer.draw import draw
from vaert.trainer.objective import Objective
from vaert.trainer.processes import Processes
from vaert.trainer.run import Run
from vaert.trainer.tasks import Data

MEASURED_STEPS = 12  # per stage
SHORTEST = 30  # steps


def fit(config: TrainConfig, run: Run, *, objective: Objective, data: Data, group: Processes) -> TrainConfig:
    """The run's config with the steps that its minutes or epochs make, if it has any."""
    if run.minutes is not None:
        return fit_steps(config, run.minutes, objective=objective, data=data, group=group)
    if run.epochs is not None:
        return fit_epochs(config, run.epochs, count=group.total(data.count), world=group.world)
    return config


def fit_steps(
    config: TrainConfig, minutes: float, *, objective: Objective, data: Data, group: Processes
) -> TrainConfig:
    """Measure a few steps of every stage, on a copy of the model, and choose the step count that fills the time."""
    objective = copy.deepcopy(objective)
    objective.amp = config.amp
    step_of = group.wrap(objective)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-6, fused=True)

    def measure(stage: Stage) -> float:
        taken = []
        for step in range(MEASURED_STEPS):
            start = time.perf_counter()
            loss, _ = step_of(*draw(data, stage, (config.seed, step, group.rank), group.device))
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


def fit_epochs(config: TrainConfig, epochs: int, *, count: int, world: int) -> TrainConfig:
    """Steps that see as many pictures as `epochs` passes over `count` of them, in all processes together."""
    ends = [stage.start for stage in config.stages[1:]] + [1.0]
    batch = world * sum((end - stage.start) * stage.batch for stage, end in zip(config.stages, ends, strict=True))
    return replace(config, steps=math.ceil(epochs * count / batch))
