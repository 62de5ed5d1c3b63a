"""The training loop. It reads from top to bottom: data, model, optimiser, steps, checkpoint."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn as nn

from vaert.errors import DataError, VaertError
from vaert.trainer.checkpoint import NAME, Checkpoint
from vaert.trainer.config import TrainConfig
from vaert.trainer.draw import draw
from vaert.trainer.interrupt import StopRequest
from vaert.trainer.objective import Objective
from vaert.trainer.pace import fit
from vaert.trainer.processes import Processes, processes
from vaert.trainer.report import LOG, Progress
from vaert.trainer.run import Run, check_pictures
from vaert.trainer.tasks import Data, Exact


def train(run: Run) -> dict[str, Path]:
    """Train a model and return the run's files by name: checkpoint, log and, where matplotlib is installed, a plot.

    Raises what `vaert.trainer.cli_entry` lists.
    """
    with processes() as group:
        path = run.out / NAME
        saved, config, model_config = _begin(run, group)

        # Every process draws its own batches from its own share of the pictures.
        data = run.task.load(run.data, shard=(group.rank, group.world), quiet=group.rank > 0)
        count = group.total(data.count)

        model = _new_model(run, model_config, config.seed, group.device)
        ema = copy.deepcopy(model).requires_grad_(False)
        objective, fitted = run.task.objective(model), dict[str, torch.Tensor]()
        optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
        step, kept_at = 0, time.monotonic()
        if saved is not None:
            saved.restore(model, ema, optimizer)
            check_pictures(saved, count, quiet=group.rank > 0)
            step = saved.step
        else:
            config = fit(config, run, objective=objective, data=data, group=group)
        wrapped = group.wrap(objective)

        def checkpoint() -> None:
            if group.rank == 0:
                now = (step, progress.seconds, model.state_dict(), ema.state_dict(), optimizer.state_dict())
                kept = (run.names, count, progress.pending(), fitted)
                Checkpoint(run.task.kind, run.profile, model_config, config, *now, *kept).save(path)

        progress = Progress(run.out / LOG, config, saved=saved, quiet=group.rank > 0)
        with progress, StopRequest() as stop:
            while step < config.steps and not group.any(stop.asked):
                _enter(step, config, *(run.task.exact_part(m) for m in (model, ema)))
                rate = _schedule(step, config, objective, optimizer)
                key = (config.seed, step, group.rank)
                loss, metrics = wrapped(*draw(data, config.stage(step), key, group.device))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
                _check_finite(loss, norm, step, path)
                optimizer.step()
                if (exact := run.task.exact_part(model)) and exact.observing:
                    group.largest(*exact.peaks())
                step += 1
                _average(model, ema, min(config.ema, step / (9 + step)))
                progress.update(step, {"loss": loss.detach(), "norm": norm, "rate": torch.tensor(rate), **metrics})
                if time.monotonic() - kept_at > config.checkpoint_seconds:
                    checkpoint()
                    kept_at = time.monotonic()
            if step == config.steps and run.task.complete is not None and group.rank == 0:
                fitted = run.task.complete(ema, data)
            checkpoint()
        if step < config.steps:
            raise _stopped(path, quiet=group.rank > 0)
        return _finish(run, ema, data, path) if group.rank == 0 else {}


def _begin(run: Run, group: Processes) -> tuple[Checkpoint | None, TrainConfig, Any]:
    saved = run.stored()
    config, model_config = run.plan(saved)
    step = saved.step if saved is not None else -1
    if group.any(group.mean(step) != step):
        raise DataError(f"the processes do not see the same checkpoint in {run.out}: expected one folder shared by all")
    if group.rank == 0:
        run.prepare(saved)
    return saved, config, model_config


def _new_model(run: Run, config: Any, seed: int, device: torch.device) -> nn.Module:
    torch.manual_seed(seed)
    model = run.task.model(config).to(device)
    # channels_last is missing in torch's types of `to`.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _finish(run: Run, ema: nn.Module, data: Data, path: Path) -> dict[str, Path]:
    pictures = run.task.finish(ema, data, run.out) if run.task.finish else {}
    return {"checkpoint": path, "log": run.out / LOG, **pictures}


def _stopped(path: Path, *, quiet: bool) -> KeyboardInterrupt:
    if not quiet:
        click.echo(f"vaert: stopped: {path} is written, the same command with --resume goes on from it", err=True)
    return KeyboardInterrupt()


def _check_finite(loss: torch.Tensor, norm: torch.Tensor, step: int, path: Path) -> None:
    """Stop before a step that would spoil the weights. The norm is that of all processes, so all of them stop."""
    if bool(torch.isfinite(loss + norm)):
        return
    kept = f"{path} holds step {Checkpoint.load(path).step}" if path.exists() else "there is no checkpoint yet"
    raise VaertError(
        f"step {step} gave a loss of {loss.item():g} with gradient norm {norm.item():g}, expected finite numbers: "
        f"{kept}; begin again with another --seed, or go on from a checkpoint with --resume and another --batch"
    )


def _schedule(step: int, config: TrainConfig, objective: Objective, optimizer: torch.optim.Optimizer) -> float:
    """Set what changes over the run; returns the learning rate."""
    rate = _learning_rate(step, config)
    for param_group in optimizer.param_groups:
        param_group["lr"] = rate
    objective.amp = config.amp and step < config.amp_until * config.steps
    objective.progress = step / config.steps
    return rate


def _learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then cosine decay (Loshchilov & Hutter, "SGDR", ICLR 2017, eq. 5)."""
    t = step / max(1, config.steps)
    cosine = 0.5 * (1 + math.cos(math.pi * t))
    decayed = config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine
    return decayed * min(1.0, (step + 1) / config.warmup)


def _enter(step: int, config: TrainConfig, model: Exact | None, ema: Exact | None) -> None:
    """Begin to record activation ranges, or make the exact part integer, when the run gets there."""
    if model is None or ema is None or model.integer:
        return
    if step >= config.freeze * config.steps:
        model.observe(False)
        _copy_buffers(model, ema)
        model.freeze()
        ema.freeze()
    else:
        model.observe(step >= config.observe * config.steps)


@torch.no_grad()
def _average(model: nn.Module, ema: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
    _copy_buffers(model, ema)


@torch.no_grad()
def _copy_buffers(model: Any, ema: Any) -> None:
    for target, source in zip(ema.buffers(), model.buffers(), strict=True):
        target.copy_(source)
