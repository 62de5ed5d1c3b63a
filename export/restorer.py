"""What a restorer is made from before it becomes a graph, of a checkpoint or package."""

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
from vaert.package import RESTORER, WEIGHTS, Package
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.trainer.checkpoint import Checkpoint
from vaert.trainer.damage import compress, hidden
from vaert.trainer.models.restorer import RestoreGraph, RestorerConfig, RestorerVAE

GRAPH = "restorer"
TOLERANCE = 1  # levels
LEVELS = 0.5  # mean squared error, in levels, that quantisation may add: 0.02 dB at 32 dB
SIZES = ((96, 160), (320, 256))  # of the pictures that the graph is checked on, height and width


@dataclass(frozen=True)
class RestorerSource(NothingExact):
    """Everything an exported restorer is made from. `weights`, the posterior's too, are rounded to float16."""

    kind: ClassVar[str] = RESTORER
    license_file: ClassVar[str] = "LICENSE_PHOTOS"

    config: RestorerConfig
    profile: str
    weights: dict[str, npt.NDArray[Any]]
    training: dict[str, Any]

    @property
    def model_id(self) -> int:
        """64-bit identity over the weights."""
        return identity(f"vaert {self.profile} 1", self.weights)

    @property
    def geometry(self) -> dict[str, Any]:
        """See `vaert.package.Manifest`."""
        config = self.config
        return {"size_multiple": config.size_multiple, "halo": {"repair": config.repair_halo, "fill": config.halo}}

    def model(self) -> RestorerVAE:
        """The torch model of these weights, in evaluation mode. ModelError if they do not fit."""
        model = RestorerVAE(self.config)
        load_weights(model, self.weights, profile=self.profile)
        return model.eval()

    def networks(self) -> dict[str, Network]:
        """`restorer`."""
        multiple = self.config.size_multiple
        shape = {0: Dim("batch"), 1: multiple * Dim("high", min=1), 2: multiple * Dim("wide", min=1)}
        example = tuple(torch.zeros(2, 2 * multiple, 3 * multiple, n, dtype=torch.uint8) for n in (3, 1))
        graph = RestoreGraph(self.model())
        return {
            GRAPH: Network(
                graph,
                example,
                (shape, shape),
                ["pixels", "mask"],
                ["restored"],
                LEVELS,
                graph.levels,
                _streams(self.config),
            )
        }

    def samples(self, pictures: Sequence[Pixels]) -> dict[str, list[tuple[Tensor, ...]]]:
        """The pictures damaged by compression, every other one with a hole."""
        rng, inputs = np.random.default_rng(7), list[tuple[Tensor, ...]]()
        for i, picture in enumerate(pictures):
            mask = (i % 2) * hidden(picture.shape[0], rng)[None, :, :, None]
            inputs.append((torch.from_numpy(compress(picture, rng).copy())[None], torch.from_numpy(mask)))
        return {GRAPH: inputs}

    def files(self) -> dict[str, bytes]:
        """Weights."""
        return {WEIGHTS: weights_file(self.weights)}

    def verify(self, package: Package) -> dict[str, Any]:
        """Compare the graph with torch on made pictures, with and without a hole."""
        runner, graph, differences = OnnxRuntimeCpu().load(package, GRAPH), RestoreGraph(self.model()), []
        for height, width in SIZES:
            pixels = made_picture(height, width)[None]
            for mask in (np.zeros((1, height, width, 1), np.uint8), _made_mask(height, width)):
                found = runner.run({"pixels": pixels, "mask": mask})["restored"]
                with torch.no_grad():
                    expected = graph(torch.from_numpy(pixels), torch.from_numpy(mask)).numpy()
                differences.append(int(np.abs(found.astype(int) - expected).max()))
        if max(differences) > TOLERANCE:
            raise ModelError(
                f"the exported graph disagrees with torch by {max(differences)} levels, expected at most {TOLERANCE}: "
                "a fault of the export, nothing was written"
            )
        return {"against": "torch", "pictures": len(differences), "largest_pixel_difference": max(differences)}


def _streams(c: RestorerConfig) -> tuple[Stream, ...]:
    """One at each scale, which joins the ways down and up, and those within blocks; see `vaert.export.equalise`."""
    ends = [f"model.{side}.{i}" for side, n in (("before", c.before), ("after", c.after)) for i in range(n)]
    last = ("model.moments", "model.mix", "model.tail")
    top = Stream(
        "scale0",
        ("model.head", "model.up.0", *makers(ends, "residual"), "model.mix", "model.inject"),
        ("model.down.0", *readers(ends, "residual"), *last),
    )
    streams, everything = [top, *inner(ends, "residual")], list[str]()
    for k, count in enumerate(c.blocks):
        deepest = k + 1 == len(c.blocks)
        sides = ("left",) if deepest else ("left", "right")
        blocks = [f"model.{side}.{k}.{i}" for side in sides for i in range(count)]
        above = () if deepest else (f"model.up.{k + 1}",)
        below = () if deepest else (f"model.down.{k + 1}",)
        streams.append(
            Stream(
                f"scale{k + 1}",
                (f"model.down.{k}", *above, *makers(blocks)),
                (f"model.up.{k}", *below, *readers(blocks)),
            )
        )
        everything += blocks
    return *streams, *inner(everything)


def _made_mask(height: int, width: int) -> Pixels:
    """A hole of a sixth of the picture and a thin stroke, uint8 (1, height, width, 1) of 0 and 1."""
    mask = np.zeros((1, height, width, 1), np.uint8)
    mask[:, height // 4 : height // 2, width // 5 : width - width // 7] = 1
    mask[:, :, width // 9 : width // 9 + 3] = 1
    return mask


def from_checkpoint(checkpoint: Checkpoint, path: Path) -> RestorerSource:
    """The averaged weights of a training checkpoint, read from `path`, finished or not."""
    weights = half_weights(checkpoint.ema_model().state_dict(), path)
    return RestorerSource(_config(checkpoint.model_config.__dict__), checkpoint.profile, weights, trained(checkpoint))


def from_package(package: Package) -> RestorerSource:
    """The source that a package carries in `weights.safetensors`. ModelError if it has none."""
    manifest = package.manifest
    weights = read_weights(package)
    return RestorerSource(_config(manifest.config), manifest.profile, weights, dict(manifest.training))


def _config(fields: Mapping[str, Any]) -> RestorerConfig:
    """The config of fields as JSON or a checkpoint keep them, whose tuples may have become lists."""
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    return RestorerConfig(**values)
