"""Checkpoints: everything a run needs to go on, written whole or not at all."""

from __future__ import annotations

import io
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from vaert.atomic import write_atomic
from vaert.errors import ModelError
from vaert.trainer.config import Stage, TrainConfig
from vaert.trainer.tasks import Task, find_task

FORMAT = 1
NAME = "checkpoint.pt"


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after `step` steps; `ema` holds the weights to use."""

    kind: str  # of the task
    profile: str
    model_config: Any
    train_config: TrainConfig
    step: int
    seconds: float
    model: dict[str, Any]
    ema: dict[str, Any]
    optimizer: dict[str, Any]
    data: tuple[str, ...]  # names of the training folders
    pictures: int
    log: dict[str, Any] = field(default_factory=dict)  # figures of the steps since the last row of the log
    fitted: dict[str, torch.Tensor] = field(default_factory=dict)  # what a finished run's task has fitted

    @property
    def task(self) -> Task:
        """The task of this kind of model."""
        return find_task(self.kind)

    def save(self, path: Path) -> None:
        """Write to `path`, replacing an older checkpoint atomically. OutputError if that fails."""
        buffer = io.BytesIO()
        fields = {k: v for k, v in self.__dict__.items() if k not in ("model_config", "train_config")}
        configs = {"model_config": asdict(self.model_config), "train_config": asdict(self.train_config)}
        torch.save({"format": FORMAT, **fields, **configs}, buffer)
        write_atomic(path, buffer.getvalue(), force=True)

    @staticmethod
    def load(path: Path) -> Checkpoint:
        """Read a checkpoint; tensors only, no code is run. ModelError if it is not one."""
        try:
            with zipfile.ZipFile(path) as archive:  # torch itself does not look at the checksums
                damaged = archive.testzip()
            if damaged is not None:
                raise ModelError(f"{path} is damaged (checksum of {damaged}): go back to a copy or train again")
            raw = torch.load(path, map_location="cpu", weights_only=True)
            if raw.pop("format") != FORMAT:
                raise ModelError(f"{path} is a checkpoint of another vaert version; train again or use that version")
            train = raw.pop("train_config")
            train["stages"] = tuple(Stage(**s) for s in train["stages"])
            raw.setdefault("kind", "codec")  # there was no other when the first ones were written
            config = find_task(raw["kind"]).config_type(**raw.pop("model_config"))
            return Checkpoint(model_config=config, train_config=TrainConfig(**train), **raw)
        except ModelError:
            raise
        except Exception as error:  # torch.load raises whatever a damaged pickle stream leads to
            raise ModelError(f"{path} is damaged or not a vaert checkpoint ({type(error).__name__})") from error

    def restore(self, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put this state into a new run's objects. ModelError if it does not fit them."""
        try:
            model.load_state_dict(self.model)
            ema.load_state_dict(self.ema)
            optimizer.load_state_dict(self.optimizer)
        except (RuntimeError, ValueError, KeyError) as error:
            raise _misfit(error) from error

    def ema_model(self) -> Any:
        """The averaged model, in evaluation mode. ModelError if weights and config disagree."""
        model = self.task.model(self.model_config)
        try:
            model.load_state_dict(self.ema)
        except RuntimeError as error:
            raise _misfit(error) from error
        return model.eval()


def _misfit(error: Exception) -> ModelError:
    first = str(error).splitlines()[0]
    return ModelError(f"the checkpoint's weights do not fit its own config ({first}): it is damaged, train again")
