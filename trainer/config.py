"""What a training run is: frozen, saved whole in its checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """From `start` (fraction of the run) on: pictures per batch and side of the crops in pixels."""

    start: float
    batch: int
    crop: int


# Many small steps first, larger batches and crops later: measured, see docs/training.md.
CODEC_STAGES = (Stage(0.0, 4, 128), Stage(0.25, 8, 128), Stage(0.8, 8, 192))


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Batches and noise depend on (seed, step) alone, so a resumed run repeats the unbroken one.
    """

    steps: int = 20_000
    seed: int = 0
    stages: tuple[Stage, ...] = CODEC_STAGES
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    warmup: int = 200  # steps
    clip: float = 1.0  # largest gradient norm
    ema: float = 0.999
    amp: bool = False  # transforms in bfloat16 where the machine has fast bfloat16; the prior always stays float32
    amp_until: float = 0.93  # fraction of the run after which everything is float32
    observe: float = 0.6  # fraction of the run from which activation ranges are recorded
    freeze: float = 0.667  # fraction at which the prior becomes integer
    checkpoint_seconds: float = 180.0
    log_every: int = 100  # steps per row of the log

    def stage(self, step: int) -> Stage:
        """The stage that `step` belongs to."""
        return [s for s in self.stages if s.start * self.steps <= step][-1]

    @property
    def long_enough(self) -> bool:
        """Whether at least one step records ranges and at least one follows with the integer prior."""
        return math.ceil(self.observe * self.steps) < self.freeze * self.steps <= self.steps - 1
