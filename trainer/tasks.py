"""What the one training loop needs to know of each kind of model: how to make it, feed it and judge it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn as nn
from torch import Tensor

from vaert.errors import ModelError
from vaert.trainer.conditional_elbo import MARGIN, Restoration, Upscaling
from vaert.trainer.config import CODEC_STAGES, Stage, TrainConfig
from vaert.trainer.damage import DamagedPictures
from vaert.trainer.data import Pictures
from vaert.trainer.digit_entropy import fit
from vaert.trainer.digits import DigitSet
from vaert.trainer.elbo import Elbo
from vaert.trainer.lossless_digits import PlainDigits
from vaert.trainer.lossless_objective import BitsBackRate
from vaert.trainer.models.codec import PROFILES, CodecVAE
from vaert.trainer.models.digits import SIDE, DigitVAE
from vaert.trainer.models.mnist_conv import ConvConfig, ConvVAE
from vaert.trainer.models.mnist_lossless import PROFILES as LOSSLESS_PROFILES
from vaert.trainer.models.mnist_lossless import LosslessVAE
from vaert.trainer.models.mnist_mlp import MlpConfig, MlpVAE
from vaert.trainer.models.restorer import PROFILES as RESTORER_PROFILES
from vaert.trainer.models.restorer import RestorerVAE
from vaert.trainer.models.upscaler import PROFILES as UPSCALER_PROFILES
from vaert.trainer.models.upscaler import UpscalerConfig, UpscalerVAE
from vaert.trainer.objective import Objective, RateDistortion
from vaert.trainer.plots import plot_digits, plot_rate_distortion, plot_restored, plot_upscaled


class Data(Protocol):
    """Training data of one process."""

    @property
    def count(self) -> int:
        """Pictures to draw from."""

    def batch(self, rng: np.random.Generator, count: int, side: int) -> npt.NDArray[np.uint8]:
        """`count` random pictures, or parts of them, of side x side pixels."""


class Exact(Protocol):
    """A part of a model that becomes integer during the run: `vaert.trainer.models.prior.ExactPrior` and the like."""

    integer: bool

    @property
    def observing(self) -> bool:
        """Whether activation ranges are being recorded."""

    def observe(self, on: bool) -> None:
        """Record activation ranges during the next forward passes, or stop."""

    def peaks(self) -> list[Tensor]:
        """The recorded ranges."""

    def freeze(self) -> None:
        """Turn the float part into integers by the recorded ranges."""


@dataclass(frozen=True)
class Task:
    """One kind of model. `exact` names the attribute of the model that becomes integer, if there is one."""

    kind: str
    profiles: Mapping[str, Any]  # configs by name
    config: TrainConfig  # of a run that asks for nothing else
    load: Callable[..., Any]  # (folders, *, shard, quiet) -> Data
    model: Callable[[Any], nn.Module]
    objective: Callable[[Any], Objective]
    finish: Callable[[Any, Any, Path], dict[str, Path]] | None = None  # (averaged model, data, folder) -> files by name
    exact: str | None = None
    complete: Callable[[Any, Any], dict[str, Tensor]] | None = None  # fits what is not learned by gradient, at the end

    @property
    def config_type(self) -> type:
        """Class of the model's config."""
        return type(next(iter(self.profiles.values())))

    def profile(self, name: str) -> Any:
        """Config of a profile by name; ModelError lists the known ones."""
        if name not in self.profiles:
            raise ModelError(f"no profile named {name!r}; there are {', '.join(sorted(self.profiles))}")
        return self.profiles[name]

    def exact_part(self, model: nn.Module) -> Exact | None:
        """The part of a model that becomes integer."""
        return None if self.exact is None else getattr(model, self.exact)

    def is_integer(self, state: Mapping[str, Any]) -> bool:
        """Whether the exact part of a stored model is integer already; True where there is none."""
        return self.exact is None or bool(state[f"{self.exact}.frozen"])


CODEC = Task(
    kind="codec",
    profiles=PROFILES,
    config=TrainConfig(steps=20_000, stages=CODEC_STAGES),
    load=Pictures.load,
    model=CodecVAE,
    objective=RateDistortion,
    finish=plot_rate_distortion,
    exact="prior",
)


def fit_tables(model: DigitVAE, data: DigitSet) -> dict[str, Tensor]:
    """The entropy model of a trained VAE's quantised latents."""
    return {name: torch.from_numpy(array) for name, array in fit(model.cpu().eval(), data.digits).items()}


def digit_task(kind: str, config: MlpConfig | ConvConfig, model: Callable[[Any], nn.Module]) -> Task:
    """Training of a VAE of digits."""
    return Task(
        kind=kind,
        profiles={kind: config},
        config=TrainConfig(steps=36_000, stages=(Stage(0.0, 100, SIDE),), clip=100.0),
        load=DigitSet.load,
        model=model,
        objective=Elbo,
        finish=plot_digits,
        complete=fit_tables,
    )


MNIST_MLP = digit_task("mnist-mlp", MlpConfig(), MlpVAE)
MNIST_CONV = digit_task("mnist-conv", ConvConfig(), ConvVAE)
MNIST_LOSSLESS = Task(
    kind="mnist-lossless",
    profiles=LOSSLESS_PROFILES,
    config=TrainConfig(steps=12_000, stages=(Stage(0.0, 100, SIDE),), learning_rate=2e-3),
    load=PlainDigits.load,
    model=LosslessVAE,
    objective=BitsBackRate,
    exact="nets",
)


def upscaler_stages(scale: int) -> tuple[Stage, ...]:
    """Batches whose small pictures have 24, later 32 and 48 pixels a side beside the margin that is cut off."""
    parts = ((0.0, 4, 24), (0.2, 8, 32), (0.8, 8, 48))
    return tuple(Stage(start, batch, scale * (small + 2 * MARGIN)) for start, batch, small in parts)


def upscale_task(profile: str, config: UpscalerConfig) -> Task:
    """Training of an upscaler; one task per scale, since crops are as large as the scale asks for."""
    return Task(
        kind=profile,
        profiles={profile: config},
        config=TrainConfig(steps=30_000, stages=upscaler_stages(config.scale)),
        load=Pictures.load,
        model=UpscalerVAE,
        objective=Upscaling,
        finish=plot_upscaled,
    )


UPSCALERS = tuple(upscale_task(name, config) for name, config in UPSCALER_PROFILES.items())
RESTORE = Task(
    kind="restore",
    profiles=RESTORER_PROFILES,
    config=TrainConfig(steps=24_000, stages=(Stage(0.0, 8, 96), Stage(0.5, 8, 128), Stage(0.85, 4, 224))),
    load=DamagedPictures.load,
    model=RestorerVAE,
    objective=Restoration,
    finish=plot_restored,
)
TASKS = {task.kind: task for task in (CODEC, MNIST_MLP, MNIST_CONV, MNIST_LOSSLESS, *UPSCALERS, RESTORE)}


def find_task(kind: str) -> Task:
    """The task of a kind; ModelError for one that this version does not know."""
    if kind not in TASKS:
        raise ModelError(f"unknown kind of model {kind!r}: it belongs to another vaert version")
    return TASKS[kind]
