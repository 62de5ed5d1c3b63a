"""What a run tells while it goes: a progress bar and a CSV log."""

from __future__ import annotations

import csv
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click
import torch
from torch import Tensor

from vaert.atomic import write_atomic
from vaert.errors import OutputError
from vaert.trainer.checkpoint import Checkpoint
from vaert.trainer.config import TrainConfig

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar  # click has no public name for it

LOG = "log.csv"
UNSHOWN = {"norm", "rate"}  # figures that the log has and the progress bar has not


class Progress:
    """Mean figures per `log_every` steps to a CSV file, and a bar with them on a terminal.

    A resumed run's log goes on as if it had never stopped: rows beyond the checkpoint are dropped, and the steps after
    the last row, which the checkpoint carries, are in the next one.
    """

    def __init__(self, path: Path, config: TrainConfig, *, saved: Checkpoint | None, quiet: bool) -> None:
        self.path, self.quiet, self.steps, self.every = path, quiet, config.steps, config.log_every
        self.done = self.first = saved.step if saved else 0
        self.before = saved.seconds if saved else 0.0
        kept = saved.log if saved else {}
        self.sums: dict[str, Tensor] = dict(kept.get("sums", {}))
        self.count = int(kept.get("count", 0))
        self.text = ""
        self.bar: ProgressBar[int] | None = None

    def __enter__(self) -> Progress:
        if not self.quiet:
            _drop_rows(self.path, beyond=self.done)
        self.open = ExitStack()
        if not self.quiet and sys.stderr.isatty():
            self.bar = self.open.enter_context(
                click.progressbar(
                    length=self.steps, label="training", file=sys.stderr, item_show_func=lambda _: self.text
                )
            )
            self.bar.update(self.done)
        self.started = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.open.close()

    @property
    def seconds(self) -> float:
        """Time spent on steps, in the runs before this one as well."""
        return self.before + time.monotonic() - self.started

    def pending(self) -> dict[str, Any]:
        """The figures that are in no row yet, for the checkpoint."""
        return {"count": self.count, "sums": self.sums}

    def update(self, step: int, figures: dict[str, Tensor]) -> None:
        """Add the figures (0-d tensors) of the step that just ended. OutputError if the log cannot be written."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, torch.zeros(())) + value.detach().cpu()
        self.count, self.done = self.count + 1, step
        if step % self.every == 0 or step == self.steps:
            self._flush()
        if self.bar is not None:
            self.bar.update(1)

    def _flush(self) -> None:
        means = {name: float(value) / self.count for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        speed = (self.done - self.first) / (time.monotonic() - self.started)
        shown = (f"{name} {value:.3f}" for name, value in means.items() if name not in UNSHOWN)
        self.text = f"{speed:.1f} it/s  {'  '.join(shown)}"
        if self.quiet:
            return
        row = {"step": self.done, "seconds": round(self.seconds, 1), **means}
        new = not self.path.exists()
        try:
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(file, list(row))
                if new:
                    writer.writeheader()
                writer.writerow(row)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error


def _drop_rows(path: Path, *, beyond: int) -> None:
    """Keep the header and the whole rows up to a step; a row is cut when the process is killed while it writes."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines[1:] if line.endswith("\n") and _step_of(line) <= beyond]
    if beyond == 0 or not lines:
        path.unlink()
    else:
        write_atomic(path, "".join([lines[0], *kept]).encode(), force=True)


def _step_of(line: str) -> float:
    first = line.split(",", 1)[0]
    return int(first) if first.isdecimal() else float("inf")
