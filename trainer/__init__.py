"""Training of the codec VAE: `cli_entry` is what `vaert train codec` calls; the loop is in `vaert.trainer.loop`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["cli_entry"]


def cli_entry(  # noqa: PLR0913 - one argument per option of the command
    *,
    profile: str,
    data: tuple[Path, ...],
    out: Path,
    steps: int | None,
    minutes: float | None,
    resume: bool,
    seed: int,
    batch: int | None,
) -> None:
    """Train a codec and say on standard output where checkpoint, log and plot are.

    Without `steps` and `minutes` a run has 20,000 steps. On a GPU the transforms run in bfloat16 for most of the run.

    Raises:
        OptionError: `steps` is too small, or `seed` is not that of the run to resume.
        DataError: no pictures, or an unfinished run in `out` without `resume`.
        ModelError: unknown profile, or a damaged or foreign checkpoint.
        OutputError: `out` cannot be written.
        VaertError: the loss stopped being a number, or the GPU's memory is too small.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM, after a checkpoint was written.
    """
    import click
    import torch

    from vaert.errors import VaertError
    from vaert.trainer.config import TrainConfig
    from vaert.trainer.loop import train
    from vaert.trainer.processes import is_first
    from vaert.trainer.run import Run

    config = TrainConfig(seed=seed, amp=torch.cuda.is_available())
    folders = tuple(map(str, data))
    run = Run(profile, folders, out, config=config, minutes=minutes, resume=resume, steps=steps, batch=batch)
    try:
        files = train(run)
    except torch.OutOfMemoryError as error:
        raise VaertError("the GPU ran out of memory: use a smaller --batch or --profile") from error
    if is_first():
        for name, path in files.items():
            click.echo(f"{name + ':':<12}{path}")
