"""Training of the VAEs: `cli_entry` is what `vaert train` calls; the loop is in `vaert.trainer.loop`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["cli_entry"]


def cli_entry(  # noqa: PLR0913 - one argument per option of the command
    *,
    kind: str,
    profile: str,
    data: tuple[Path, ...],
    out: Path,
    steps: int | None,
    minutes: float | None,
    resume: bool,
    seed: int,
    batch: int | None,
    epochs: int | None = None,
    model: dict[str, Any] | None = None,
    bf16: bool = False,
) -> None:
    """Train a model and say on standard output where checkpoint, log and plot are.

    kind: a name in `vaert.trainer.tasks.TASKS`. model: fields of the profile's config to change. Without `steps`,
    `epochs` and `minutes` a run has the steps of its task. With `bf16`, and always on a GPU, all but what must be exact
    runs in bfloat16.

    Raises:
        OptionError: `steps` is too small, or `seed` is not that of the run to resume.
        DataError: no training data, or an unfinished run in `out` without `resume`.
        ModelError: unknown profile, or a damaged or foreign checkpoint.
        OutputError: `out` cannot be written.
        VaertError: the loss stopped being a number, or the GPU's memory is too small.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM, after a checkpoint was written.
    """
    from dataclasses import replace

    import click
    import torch

    from vaert.errors import VaertError
    from vaert.trainer.loop import train
    from vaert.trainer.run import Run
    from vaert.trainer.tasks import find_task

    task = find_task(kind)
    run = Run(
        profile,
        tuple(map(str, data)),
        out,
        task=task,
        config=replace(task.config, seed=seed, amp=bf16 or torch.cuda.is_available()),
        minutes=minutes,
        epochs=epochs,
        resume=resume,
        steps=steps,
        batch=batch,
        model_config=replace(task.profile(profile), **model) if model else None,
    )
    try:
        files = train(run)
    except torch.OutOfMemoryError as error:
        raise VaertError("the GPU ran out of memory: use a smaller --batch or --profile") from error
    for name, path in files.items():
        click.echo(f"{name + ':':<12}{path}")
