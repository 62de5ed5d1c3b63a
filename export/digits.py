"""What a VAE of digits is made from before it becomes graphs, of a checkpoint or package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn as nn
from torch import Tensor
from torch.export import Dim

from vaert.digit_tables import DigitTables
from vaert.errors import ModelError
from vaert.export.shared_weights import read_weights, weights_file
from vaert.export.source import NothingExact, Pixels, half_weights, identity, load_weights, trained
from vaert.export.trace import Network
from vaert.package import DIGITS, WEIGHTS, Package
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.trainer.checkpoint import Checkpoint
from vaert.trainer.models.digits import SIDE, DigitConfig, DigitVAE
from vaert.trainer.tasks import find_task

TOLERANCE = 1e-3  # latents, log-variances and logits
MADE = 16  # digits that the graphs are checked on
LATENTS, LEVELS = 1e-3, 4.0  # mean squared errors that quantisation may add: of latents, of pixels in levels


class EncoderGraph(nn.Module):
    """`pixels` uint8 (N, 28, 28, 1) -> `mean` and `log_variance` float32 (N, latents)."""

    def __init__(self, model: DigitVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes as above."""
        mean, log_variance = self.model.encode(pixels.float().permute(0, 3, 1, 2) / 255)
        return mean.float(), log_variance.float()


class DecoderGraph(nn.Module):
    """`latents` float32 (N, latents) -> `pixels` uint8 and `logits` float32, both (N, 28, 28, 1).

    Pixels are 255 times the sigmoid of the logits, rounded: the mean of p(x | z).
    """

    def __init__(self, model: DigitVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes as above."""
        logits = self.model.decode(latents).float().permute(0, 2, 3, 1)
        return torch.round(torch.sigmoid(logits) * 255).to(torch.uint8), logits

    def levels(self, latents: Tensor) -> Tensor:
        """Pixels before rounding, (N, 28, 28, 1)."""
        return torch.sigmoid(self.forward(latents)[1]) * 255


@dataclass(frozen=True)
class DigitSource(NothingExact):
    """Everything an exported VAE of digits is made from. `weights` are rounded to float16, as in `CodecSource`."""

    kind: ClassVar[str] = DIGITS
    license_file: ClassVar[str] = "LICENSE_DIGITS"

    config: DigitConfig
    profile: str
    weights: dict[str, npt.NDArray[Any]]
    tables: DigitTables
    training: dict[str, Any]

    @property
    def model_id(self) -> int:
        """64-bit identity over tables and weights."""
        return identity(f"vaert {self.profile} 1", {**self.tables.arrays(), **self.weights})

    @property
    def geometry(self) -> dict[str, Any]:
        """See `vaert.package.Manifest`."""
        return {"height": SIDE, "width": SIDE, "latents": self.config.latents}

    def model(self) -> DigitVAE:
        """The torch model of these weights, in evaluation mode. ModelError if they do not fit."""
        model: DigitVAE = find_task(self.profile).model(self.config)  # type: ignore[assignment]
        load_weights(model, self.weights, profile=self.profile)
        return model.eval()

    def networks(self) -> dict[str, Network]:
        """`encoder` and `decoder`."""
        batch = ({0: Dim("batch")},)
        pixels = torch.zeros(2, SIDE, SIDE, 1, dtype=torch.uint8)
        latents = torch.zeros(2, self.config.latents)
        encoder, decoder = EncoderGraph(self.model()), DecoderGraph(self.model())
        moments = ["mean", "log_variance"]
        return {
            "encoder": Network(encoder, (pixels,), batch, ["pixels"], moments, LATENTS, lambda x: encoder(x)[0]),
            "decoder": Network(decoder, (latents,), batch, ["latents"], ["pixels", "logits"], LEVELS, decoder.levels),
        }

    def samples(self, pictures: Sequence[Pixels]) -> dict[str, list[tuple[Tensor, ...]]]:
        """The digits, and the means of their latents."""
        pixels = torch.from_numpy(np.stack(pictures))
        with torch.no_grad():
            mean, _ = self.networks()["encoder"].module(pixels)
        return {"encoder": [(pixels,)], "decoder": [(mean,)]}

    def files(self) -> dict[str, bytes]:
        """Tables and weights."""
        return {"tables.npz": self.tables.to_bytes(), WEIGHTS: weights_file(self.weights)}

    def verify(self, package: Package) -> dict[str, Any]:
        """Compare both graphs with torch on made digits."""
        digits = np.random.default_rng(7).integers(0, 256, (MADE, SIDE, SIDE, 1), dtype=np.uint8)
        backend, model = OnnxRuntimeCpu(), self.model()
        encoded = backend.load(package, "encoder").run({"pixels": digits})
        decoded = backend.load(package, "decoder").run({"latents": encoded["mean"]})
        with torch.no_grad():
            mean, log_variance = model.encode(torch.from_numpy(digits).permute(0, 3, 1, 2).float() / 255)
            logits = model.decode(torch.from_numpy(encoded["mean"])).permute(0, 2, 3, 1)
        pixels = torch.round(torch.sigmoid(logits) * 255).numpy()
        figures = {
            "largest_mean_difference": float(np.abs(encoded["mean"] - mean.numpy()).max()),
            "largest_log_variance_difference": float(np.abs(encoded["log_variance"] - log_variance.numpy()).max()),
            "largest_logit_difference": float(np.abs(decoded["logits"] - logits.numpy()).max()),
            "largest_pixel_difference": float(np.abs(decoded["pixels"].astype(int) - pixels).max()),
        }
        if max(list(figures.values())[:3]) > TOLERANCE or figures["largest_pixel_difference"] > 1:
            raise ModelError(
                f"the exported graphs disagree with torch ({figures}): a fault of the export, nothing was written"
            )
        return {"against": "torch", "digits": MADE, **{name: float(f"{value:.2g}") for name, value in figures.items()}}


def from_checkpoint(checkpoint: Checkpoint, path: Path) -> DigitSource:
    """The averaged weights of a training checkpoint, read from `path`. ModelError if the training is not finished."""
    if not checkpoint.fitted:
        done = f"{checkpoint.step} of {checkpoint.train_config.steps} steps"
        raise ModelError(f"{path} has no entropy tables yet ({done}); let the training finish, then export")
    weights = half_weights(checkpoint.ema_model().state_dict(), path)
    tables = DigitTables.from_arrays({name: tensor.numpy() for name, tensor in checkpoint.fitted.items()})
    return DigitSource(checkpoint.model_config, checkpoint.profile, weights, tables, trained(checkpoint))


def from_package(package: Package) -> DigitSource:
    """The source that a package carries in `weights.safetensors`. ModelError if it has none."""
    manifest = package.manifest
    return DigitSource(
        config=find_task(manifest.profile).config_type(**manifest.config),
        profile=manifest.profile,
        weights=read_weights(package),
        tables=DigitTables.from_bytes(package.read("tables.npz")),
        training=dict(manifest.training),
    )
