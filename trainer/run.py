"""What was asked for, against what a run that is to be resumed already is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from vaert.atomic import check_output
from vaert.errors import DataError, ModelError, OptionError, OutputError
from vaert.trainer.checkpoint import NAME, Checkpoint
from vaert.trainer.config import TrainConfig
from vaert.trainer.tasks import CODEC, Task


@dataclass(frozen=True)
class Run:
    """What `vaert train` was asked for.

    `config` and `model_config` are for a new run; a resumed one keeps its own. `steps` and `batch` change either.
    """

    profile: str
    data: tuple[str, ...]
    out: Path
    task: Task = CODEC
    config: TrainConfig = field(default_factory=lambda: CODEC.config)
    minutes: float | None = None  # instead of steps, for a new run
    epochs: int | None = None  # instead of steps, for a new run: passes over the training data
    resume: bool = False
    steps: int | None = None
    batch: int | None = None  # pictures per step in every stage
    model_config: Any = None  # instead of the profile's

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the training folders, without the paths to them."""
        return tuple(Path(folder).resolve().name for folder in self.data)

    def stored(self) -> Checkpoint | None:
        """The checkpoint to go on from, or None for a new run. DataError if there is one but `resume` is not set."""
        path = self.out / NAME
        if not path.exists():
            return None
        if not self.resume:
            raise DataError(f"{path} exists already: continue it with --resume or choose another --out")
        saved = Checkpoint.load(path)
        if (saved.kind, saved.profile) != (self.task.kind, self.profile):
            raise ModelError(f"{path} has profile {saved.profile}, not {self.profile}: resume with its own profile")
        if self.model_config not in (None, saved.model_config):
            raise OptionError(f"{path} was begun with {saved.model_config}: resume it with the same options")
        if self.config.seed not in (0, saved.train_config.seed):  # 0 is what is there when no seed is given
            raise OptionError(f"{path} was begun with seed {saved.train_config.seed}: leave --seed out to resume it")
        return saved

    def plan(self, saved: Checkpoint | None) -> tuple[TrainConfig, Any]:
        """Configs of the new or resumed run. ModelError: unknown profile; OptionError: too few steps."""
        config = saved.train_config if saved else self.config
        if self.steps is not None:
            config = replace(config, steps=self.steps)
        if self.batch is not None:
            config = replace(config, stages=tuple(replace(stage, batch=self.batch) for stage in config.stages))
        if saved is None:
            if self.task.exact and not config.long_enough:
                raise OptionError(f"{config.steps} steps are too few for a {self.task.kind}: train for 8 or more")
            return config, self.model_config or self.task.profile(self.profile)
        least = saved.step
        if not self.task.is_integer(saved.model) and config.steps != saved.train_config.steps:
            # The prior may not become integer before its ranges were recorded over their whole part of the run.
            least = max(8, math.ceil(saved.step / config.observe))
        if config.steps < least:
            raise OptionError(f"the run is at step {saved.step}, so it cannot end at {config.steps}: --steps {least}")
        return config, saved.model_config

    def prepare(self, saved: Checkpoint | None) -> None:
        """Make the run's folder; say what is unexpected about a resumed run. OutputError if nothing can be written."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.out}: cannot be made a folder: {error.strerror}: choose another --out") from error
        check_output(self.out / NAME, force=True)
        if self.resume and saved is None:
            _note(f"no {NAME} in {self.out}: starting from the beginning")
        if saved is not None and self.minutes is not None:
            _note(f"the run keeps its {saved.train_config.steps} steps: --minutes counts when it begins, --steps later")
        if saved is not None and self.epochs is not None:
            _note(f"the run keeps its {saved.train_config.steps} steps: --epochs counts when it begins, --steps later")


def check_pictures(saved: Checkpoint, pictures: int, *, quiet: bool) -> None:
    """Warn if a resumed run sees other pictures than before."""
    if not quiet and saved.pictures != pictures:
        _note(f"the run had {saved.pictures} pictures and now has {pictures}: it will not repeat an unbroken run")


def _note(text: str) -> None:
    click.echo(f"vaert: warning: {text}", err=True)
