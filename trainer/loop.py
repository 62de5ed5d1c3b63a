"""The training loop. It reads from top to bottom: data, model, optimiser, steps, checkpoint."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn

from vaert.errors import DataError
from vaert.trainer.checkpoint import NAME, Checkpoint, profile_config
from vaert.trainer.config import TrainConfig
from vaert.trainer.data import Pictures
from vaert.trainer.models.codec import CodecVAE
from vaert.trainer.objective import RateDistortion
from vaert.trainer.processes import Processes, processes
from vaert.trainer.report import Progress, write_plot

MEASURED_STEPS = 30  # for --minutes


@dataclass(frozen=True)
class Run:
    """What `vaert train codec` was asked for."""

    profile: str
    data: tuple[str, ...]
    out: Path
    config: TrainConfig
    minutes: float | None = None
    resume: bool = False


def train(run: Run) -> Path:
    """Train a codec and return the path of its last checkpoint.

    Raises DataError (no pictures, an unfinished run in the way), ModelError (profile, checkpoint).
    """
    with processes() as group:
        path = run.out / NAME
        saved = _resume(run, path)
        config, step, seconds = (saved.train_config, saved.step, saved.seconds) if saved else (run.config, 0, 0.0)

        # Every process draws its own crops from its own share of the pictures.
        pictures = Pictures.load(run.data, shard=(group.rank, group.world), quiet=group.rank > 0)

        torch.manual_seed(config.seed)
        model_config = saved.model_config if saved else profile_config(run.profile)
        model = CodecVAE(model_config).to(group.device, memory_format=torch.channels_last)
        ema = copy.deepcopy(model).requires_grad_(False)
        optimizer = torch.optim.Adam(_parameter_groups(model), lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
        if saved:
            model.load_state_dict(saved.model)
            ema.load_state_dict(saved.ema)
            optimizer.load_state_dict(saved.optimizer)
        elif run.minutes is not None:
            config = _fit_steps(config, run.minutes, model, pictures, group)

        objective = RateDistortion(model)
        wrapped = group.wrap(objective)
        run.out.mkdir(parents=True, exist_ok=True)
        started, kept_at = time.monotonic() - seconds, time.monotonic()

        def checkpoint() -> None:
            state = (model.state_dict(), ema.state_dict(), optimizer.state_dict())
            names = tuple(Path(folder).resolve().name for folder in run.data)
            Checkpoint(
                saved.profile if saved else run.profile, model_config, config, step, time.monotonic() - started,
                *state, names, len(pictures.items),
            ).save(path)  # fmt: skip

        with Progress(run.out / "log.csv", config.steps, step, quiet=group.rank > 0) as progress:
            while step < config.steps:
                _enter(step, config, model, ema, group)
                rate = _learning_rate(step, config)
                for param_group in optimizer.param_groups:
                    param_group["lr"] = rate
                objective.amp = config.amp and step < config.amp_until * config.steps
                loss, metrics = wrapped(*_batch(pictures, config, step, group))
                optimizer.zero_grad()
                loss.backward()
                norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
                optimizer.step()
                _average(model, ema, min(config.ema, (1 + step) / (10 + step)))
                step += 1
                progress.update(step, {"loss": loss.detach(), "norm": norm, "rate": torch.tensor(rate), **metrics})
                if group.rank == 0 and time.monotonic() - kept_at > config.checkpoint_seconds:
                    checkpoint()
                    kept_at = time.monotonic()
        if group.rank == 0:
            checkpoint()
            write_plot(ema, pictures.held_out, run.out / "rd.png")
        return path


def _resume(run: Run, path: Path) -> Checkpoint | None:
    if not path.exists():
        return None
    if not run.resume:
        raise DataError(f"{path} exists; continue it with --resume or choose another --out")
    return Checkpoint.load(path)


def _parameter_groups(model: CodecVAE) -> list[dict[str, Any]]:
    return [{"params": list(model.parameters())}]


def _batch(
    pictures: Pictures, config: TrainConfig, step: int, group: Processes
) -> tuple[torch.Tensor, torch.Generator]:
    """Crops and noise source of one step: functions of seed, step and rank alone."""
    stage = config.stage(step)
    rng = np.random.default_rng((config.seed, step, group.rank))
    crops = torch.from_numpy(np.ascontiguousarray(pictures.batch(rng, stage.batch, stage.crop)))
    generator = torch.Generator(group.device)
    generator.manual_seed(int(rng.integers(2**62)))
    return crops.to(group.device, non_blocking=True), generator


def _learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then cosine decay (Loshchilov & Hutter, "SGDR", ICLR 2017, eq. 5)."""
    t = step / max(1, config.steps)
    cosine = 0.5 * (1 + math.cos(math.pi * t))
    decayed = config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine
    return decayed * min(1.0, (step + 1) / config.warmup)


def _enter(step: int, config: TrainConfig, model: CodecVAE, ema: CodecVAE, group: Processes) -> None:
    """Begin to record activation ranges, or make the prior integer, when the run gets there."""
    if model.prior.integer:
        return
    if step >= config.freeze * config.steps:
        model.prior.observe(False)
        group.largest(*model.prior.peaks())
        _copy_buffers(model, ema)
        model.prior.freeze()
        ema.prior.freeze()
    elif step >= config.observe * config.steps:
        model.prior.observe(True)


@torch.no_grad()
def _average(model: CodecVAE, ema: CodecVAE, decay: float) -> None:
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
    _copy_buffers(model, ema)


@torch.no_grad()
def _copy_buffers(model: CodecVAE, ema: CodecVAE) -> None:
    for target, source in zip(ema.buffers(), model.buffers(), strict=True):
        target.copy_(source)


def _fit_steps(
    config: TrainConfig, minutes: float, model: CodecVAE, pictures: Pictures, group: Processes
) -> TrainConfig:
    """Measure a few steps of the first stage and choose the step count that fills the time."""
    objective = RateDistortion(copy.deepcopy(model))
    objective.amp = config.amp
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-6)
    taken = []
    for step in range(MEASURED_STEPS):
        start = time.perf_counter()
        loss, _ = objective(*_batch(pictures, config, step, group))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the device
        taken.append(time.perf_counter() - start)
    seconds = group.mean(sorted(taken)[len(taken) // 2])
    first = config.stages[0]
    cost = 0.0  # of a mean step, in steps of the first stage: time goes with pixels
    for stage, end in zip(config.stages, [s.start for s in config.stages[1:]] + [1.0], strict=True):
        cost += (end - stage.start) * stage.batch * stage.crop**2 / (first.batch * first.crop**2)
    return replace(config, steps=max(MEASURED_STEPS, round(60 * minutes / (seconds * cost))))
