"""The training loop. It reads from top to bottom: data, model, optimiser, steps, checkpoint."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path

import click
import torch
import torch.nn as nn

from vaert.errors import DataError, VaertError
from vaert.trainer.checkpoint import NAME, Checkpoint
from vaert.trainer.config import TrainConfig
from vaert.trainer.data import Pictures, draw
from vaert.trainer.interrupt import StopRequest
from vaert.trainer.models.codec import CodecConfig, CodecVAE
from vaert.trainer.objective import RateDistortion
from vaert.trainer.pace import fit_steps
from vaert.trainer.processes import Processes, processes
from vaert.trainer.report import LOG, PLOT, Progress, write_plot
from vaert.trainer.run import Run, check_pictures


def train(run: Run) -> dict[str, Path]:
    """Train a codec and return the run's files by name: checkpoint, log and, where matplotlib is installed, plot.

    Raises what `vaert.trainer.cli_entry` lists.
    """
    with processes() as group:
        path = run.out / NAME
        saved, config, model_config = _begin(run, group)

        # Every process draws its own crops from its own share of the pictures.
        pictures = Pictures.load(run.data, shard=(group.rank, group.world), quiet=group.rank > 0)
        count = group.total(len(pictures.items))

        model = _new_model(model_config, config.seed, group.device)
        ema = copy.deepcopy(model).requires_grad_(False)
        optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
        step, kept_at = 0, time.monotonic()
        if saved is not None:
            saved.restore(model, ema, optimizer)
            check_pictures(saved, count, quiet=group.rank > 0)
            step = saved.step
        elif run.minutes is not None:
            config = fit_steps(config, run.minutes, model=model, pictures=pictures, group=group)
        objective = RateDistortion(model)
        wrapped = group.wrap(objective)

        def checkpoint() -> None:
            if group.rank == 0:
                now = (step, progress.seconds, model.state_dict(), ema.state_dict(), optimizer.state_dict())
                Checkpoint(run.profile, model_config, config, *now, run.names, count, progress.pending()).save(path)

        progress = Progress(run.out / LOG, config, saved=saved, quiet=group.rank > 0)
        with progress, StopRequest() as stop:
            while step < config.steps and not group.any(stop.asked):
                _enter(step, config, model, ema)
                rate = _learning_rate(step, config)
                for param_group in optimizer.param_groups:
                    param_group["lr"] = rate
                objective.amp = config.amp and step < config.amp_until * config.steps
                key = (config.seed, step, group.rank)
                loss, metrics = wrapped(*draw(pictures, config.stage(step), key, group.device))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
                _check_finite(loss, norm, step, path)
                optimizer.step()
                if model.prior.observing:
                    group.largest(*model.prior.peaks())
                _average(model, ema, min(config.ema, (1 + step) / (10 + step)))
                step += 1
                progress.update(step, {"loss": loss.detach(), "norm": norm, "rate": torch.tensor(rate), **metrics})
                if time.monotonic() - kept_at > config.checkpoint_seconds:
                    checkpoint()
                    kept_at = time.monotonic()
            checkpoint()
        if step < config.steps:
            raise _stopped(path, quiet=group.rank > 0)
        return _finish(run, ema, pictures) if group.rank == 0 else {}


def _begin(run: Run, group: Processes) -> tuple[Checkpoint | None, TrainConfig, CodecConfig]:
    saved = run.stored()
    config, model_config = run.plan(saved)
    step = saved.step if saved is not None else -1
    if group.any(group.mean(step) != step):
        raise DataError(f"the processes do not see the same checkpoint in {run.out}: expected one folder shared by all")
    if group.rank == 0:
        run.prepare(saved)
    return saved, config, model_config


def _new_model(config: CodecConfig, seed: int, device: torch.device) -> CodecVAE:
    torch.manual_seed(seed)
    model = CodecVAE(config).to(device)
    # channels_last is missing in torch's types of `to`.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _stopped(path: Path, *, quiet: bool) -> KeyboardInterrupt:
    if not quiet:
        click.echo(f"vaert: stopped: {path} is written, the same command with --resume goes on from it", err=True)
    return KeyboardInterrupt()


def _finish(run: Run, ema: CodecVAE, pictures: Pictures) -> dict[str, Path]:
    files = {"checkpoint": run.out / NAME, "log": run.out / LOG}
    if write_plot(ema, pictures.held_out, run.out / PLOT):
        files["plot"] = run.out / PLOT
    return files


def _check_finite(loss: torch.Tensor, norm: torch.Tensor, step: int, path: Path) -> None:
    """Stop before a step that would spoil the weights. The norm is that of all processes, so all of them stop."""
    if bool(torch.isfinite(loss + norm)):
        return
    kept = f"{path} holds step {Checkpoint.load(path).step}" if path.exists() else "there is no checkpoint yet"
    raise VaertError(
        f"step {step} gave a loss of {loss.item():g} with gradient norm {norm.item():g}, expected finite numbers: "
        f"{kept}; begin again with another --seed, or go on from a checkpoint with --resume and another --batch"
    )


def _learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then cosine decay (Loshchilov & Hutter, "SGDR", ICLR 2017, eq. 5)."""
    t = step / max(1, config.steps)
    cosine = 0.5 * (1 + math.cos(math.pi * t))
    decayed = config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine
    return decayed * min(1.0, (step + 1) / config.warmup)


def _enter(step: int, config: TrainConfig, model: CodecVAE, ema: CodecVAE) -> None:
    """Begin to record activation ranges, or make the prior integer, when the run gets there."""
    if model.prior.integer:
        return
    if step >= config.freeze * config.steps:
        model.prior.observe(False)
        _copy_buffers(model, ema)
        model.prior.freeze()
        ema.prior.freeze()
    else:
        model.prior.observe(step >= config.observe * config.steps)


@torch.no_grad()
def _average(model: CodecVAE, ema: CodecVAE, decay: float) -> None:
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
    _copy_buffers(model, ema)


@torch.no_grad()
def _copy_buffers(model: CodecVAE, ema: CodecVAE) -> None:
    for target, source in zip(ema.buffers(), model.buffers(), strict=True):
        target.copy_(source)
