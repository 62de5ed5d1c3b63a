"""What an upscaler is made from before it becomes a graph, of a checkpoint or package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.export import Dim

from vaert.errors import ModelError
from vaert.export.shared_weights import read_weights, weights_file
from vaert.export.source import NothingExact, Pixels, half_weights, identity, load_weights, trained
from vaert.export.streams import inner, makers, readers
from vaert.export.trace import Network, Stream
from vaert.export.verify import made_picture
from vaert.package import UPSCALER, WEIGHTS, Package
from vaert.resample import downscale
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.trainer.checkpoint import Checkpoint
from vaert.trainer.models.upscaler import UpscaleGraph, UpscalerConfig, UpscalerVAE

GRAPH = "upscaler"
PIXEL_TOLERANCE = 1  # levels
LEVELS = 0.5  # mean squared error, in levels, that quantisation may add: 0.02 dB at 32 dB
SIZES = ((37, 50), (16, 16), (3, 1), (1, 1))  # heights and widths that the graph is checked on
BATCH = 2


@dataclass(frozen=True)
class UpscalerSource(NothingExact):
    """Everything an exported upscaler is made from. `weights` are rounded to float16, as in `CodecSource`.

    They hold the posterior as well, which no graph needs: so the KL divergence can be measured later.
    """

    kind: ClassVar[str] = UPSCALER
    license_file: ClassVar[str] = "LICENSE_PHOTOS"

    config: UpscalerConfig
    profile: str
    weights: Mapping[str, npt.NDArray[Any]]
    training: Mapping[str, Any]

    @property
    def model_id(self) -> int:
        """64-bit identity over the weights."""
        return identity(f"vaert {self.profile} 1", self.weights)

    @property
    def geometry(self) -> dict[str, Any]:
        """See `vaert.package.Manifest`."""
        c = self.config
        return {"size_multiple": 1, "scale": c.scale, "latents": c.latents, "halo": c.halo}

    def model(self) -> UpscalerVAE:
        """The torch model of these weights, in evaluation mode. ModelError if they do not fit."""
        model = UpscalerVAE(self.config)
        load_weights(model, self.weights, profile=self.profile)
        return model.eval()

    def networks(self) -> dict[str, Network]:
        """`upscaler`, see `UpscaleGraph`; batch, height and width vary."""
        sizes = {0: Dim("batch"), 1: Dim("height"), 2: Dim("width")}
        example = torch.zeros(2, 6, 7, 3, dtype=torch.uint8), torch.zeros(2, 6, 7, self.config.latents)
        graph = UpscaleGraph(self.model())
        return {
            GRAPH: Network(
                graph,
                example,
                (sizes, sizes),
                ["pixels", "noise"],
                ["large"],
                LEVELS,
                graph.levels,
                _streams(self.config),
            )
        }

    def samples(self, pictures: Sequence[Pixels]) -> dict[str, list[tuple[Tensor, ...]]]:
        """The pictures made smaller, every other one with z drawn from the prior."""
        generator, inputs = torch.Generator().manual_seed(7), list[tuple[Tensor, ...]]()
        for i, picture in enumerate(pictures):
            pixels = torch.from_numpy(downscale(picture, self.config.scale))[None]
            noise = torch.randn(*pixels.shape[:3], self.config.latents, generator=generator)
            inputs.append((pixels, (i % 2) * noise))
        return {GRAPH: inputs}

    def files(self) -> dict[str, bytes]:
        """The weights."""
        return {WEIGHTS: weights_file(self.weights)}

    def verify(self, package: Package) -> dict[str, Any]:
        """Compare the graph with torch on made pictures, at the prior mean and with drawn z."""
        runner, reference = OnnxRuntimeCpu().load(package, GRAPH), UpscaleGraph(self.model()).eval()
        rng = np.random.default_rng(7)
        largest, different, samples = 0, 0, 0
        for height, width in SIZES:
            pixels = np.stack([made_picture(height, width), rng.integers(0, 256, (height, width, 3), np.uint8)])
            drawn = rng.standard_normal((BATCH, height, width, self.config.latents)).astype(np.float32)
            for noise in (np.zeros_like(drawn), drawn):
                found = runner.run({"pixels": pixels, "noise": noise})["large"]
                with torch.no_grad():
                    expected = reference(torch.from_numpy(pixels), torch.from_numpy(noise)).numpy()
                difference = np.abs(found.astype(int) - expected)
                largest, different = max(largest, int(difference.max())), different + int(np.count_nonzero(difference))
                samples += difference.size
        if largest > PIXEL_TOLERANCE:
            raise ModelError(
                f"the exported graph disagrees with torch by {largest} levels, expected at most {PIXEL_TOLERANCE}: "
                "a fault of the export, nothing was written"
            )
        return {
            "against": "torch",
            "pictures": BATCH * len(SIZES),
            "samples_compared": samples,
            "samples_different": different,
            "largest_pixel_difference": largest,
        }


def _streams(c: UpscalerConfig) -> tuple[Stream, ...]:
    """See `vaert.export.equalise`."""
    body, ends = [f"model.body.{i}" for i in range(c.blocks)], ("model.moments", "model.mix", "model.tail")
    features = (
        ("model.head", *makers(body, "residual"), "model.mix", "model.inject"),
        (*readers(body, "residual"), *ends),
    )
    return Stream("features", *features), *inner(body, "residual")


def from_checkpoint(checkpoint: Checkpoint, path: Path) -> UpscalerSource:
    """The averaged weights of a training checkpoint, read from `path`, finished or not. ModelError if not finite."""
    weights = half_weights(checkpoint.ema_model().state_dict(), path)
    return UpscalerSource(checkpoint.model_config, checkpoint.profile, weights, trained(checkpoint))


def from_package(package: Package) -> UpscalerSource:
    """The source that a package carries in `weights.safetensors`. ModelError if it has none."""
    manifest = package.manifest
    weights = read_weights(package)
    return UpscalerSource(UpscalerConfig(**manifest.config), manifest.profile, weights, dict(manifest.training))
