"""Small networks of every kind of layer, the transforms of small models, and a source of them for calibration."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
import torch.nn as nn
import torch.nn.functional as F
from restorer_package import make_source as make_restorer
from torch import Tensor
from torch.export import Dim
from upscaler_package import make_source as make_upscaler

from vaert.export.source import Source
from vaert.export.trace import Network
from vaert.export.transforms import transforms
from vaert.export.verify import made_picture
from vaert.trainer.models.codec import CodecConfig, CodecVAE

Arrays = Mapping[str, Any]
Samples = dict[str, list[tuple[Tensor, ...]]]

CODEC = CodecConfig(
    channels=20, latents=36, hyper=8, hidden=16, mix=24, encoder_blocks=1, decoder_blocks=2, expansion=2, anchors=3
)


class Layers(nn.Module):
    """Pixels NHWC through each kind of layer, all channels last in an int8 graph; latents NHWC and their sums."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 12, 3, padding=1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.mix = nn.Conv2d(12, 12, 1)
        self.grouped = nn.Conv2d(12, 12, 3, padding=1, groups=3, bias=False)
        self.strided = nn.Conv2d(12, 10, 3, 2, 1)
        self.pick = nn.Conv2d(10, 10, 1, 2)
        self.narrow = nn.Conv2d(10, 7, 1, bias=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes as above."""
        x = self.wide(pixels.float().permute(0, 3, 1, 2) / 255)
        x = x + self.mix(self.depthwise(F.leaky_relu(x, 0.01)))
        x = self.strided(self.grouped(x))
        y = self.narrow(self.pick(F.leaky_relu(x, 0.1))).permute(0, 2, 3, 1).float()
        return y, y.sum((1, 2))


class Rows(nn.Module):
    """Rows through linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(11, 9), nn.Linear(9, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 11) -> (N, 5)."""
        y: Tensor = self.second(F.leaky_relu(self.first(x), 0.1)).float()
        return y


class Loud(nn.Module):
    """Values beyond float16 between two layers, in `grow` and `shrink`, and none before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.grow = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.shrink, self.after = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.grow.weight *= 40_000
            self.shrink.weight /= 40_000

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) -> float32 (N, H, W, 4)."""
        x = self.before(pixels.float().permute(0, 3, 1, 2) / 16)
        y: Tensor = self.after(self.shrink(self.grow(x)))
        return y.permute(0, 2, 3, 1).float()


def made_pixels(count: int, height: int, width: int) -> Tensor:
    """uint8 (count, height, width, 3)."""
    pictures = [made_picture(height + i, width)[i:] for i in range(count)]
    return torch.from_numpy(np.stack(pictures))


def seeded(make: type[nn.Module]) -> nn.Module:
    """A module of this class, always with the same weights."""
    torch.manual_seed(11)
    return make().eval()


def layers_network() -> Network:
    """`Layers`; any size."""
    module = seeded(Layers)
    shape = {0: Dim("batch"), 1: Dim("height", min=8), 2: Dim("width", min=8)}
    example = torch.zeros(2, 9, 10, 3, dtype=torch.uint8)
    return Network(module, (example,), (shape,), ["pixels"], ["latents", "sums"], 1.0, lambda x: module(x)[0])


def rows_network() -> Network:
    """`Rows`; any count."""
    module = seeded(Rows)
    return Network(module, (torch.zeros(2, 11),), ({0: Dim("batch")},), ["rows"], ["found"], 1.0, module)


def loud_network() -> Network:
    """`Loud`; any size."""
    module = seeded(Loud)
    shape = {0: Dim("batch"), 1: Dim("height"), 2: Dim("width")}
    return Network(module, (made_pixels(2, 6, 7),), (shape,), ["pixels"], ["found"], 1.0, module)


class _MadeSource:
    """What calibration and conversion ask of a source."""

    profile = "made"

    def __init__(self, networks: Mapping[str, Network], samples: Samples) -> None:
        self._networks, self._samples = networks, samples

    def networks(self) -> dict[str, Network]:
        return {name: _copied(network) for name, network in self._networks.items()}

    def samples(self, pictures: Sequence[Any]) -> Samples:
        return self._samples

    def exact_graphs(self) -> dict[str, onnx.ModelProto]:
        return {}


def _copied(network: Network) -> Network:
    module = copy.deepcopy(network.module)
    tupled = network.smooth is not network.module
    return replace(network, module=module, smooth=(lambda *x: module(*x)[0]) if tupled else module)


def made_source(networks: Mapping[str, Network], samples: Samples) -> Source:
    """A source of networks whose first output is what counts, with the inputs to calibrate them on."""
    return cast(Source, _MadeSource(networks, samples))


def awake_codec(config: CodecConfig = CODEC) -> CodecVAE:
    """A codec whose branches are not zero, as after training."""
    torch.manual_seed(3)
    model = CodecVAE(config).eval()
    with torch.no_grad():
        for parameter in (*model.analysis.parameters(), *model.synthesis.parameters()):
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def model_networks() -> dict[str, Network]:
    """The networks of small models by name, fresh ones."""
    return {
        **transforms(awake_codec()),
        **make_upscaler(2, blocks=2).networks(),
        **make_restorer().networks(),
    }


def model_inputs() -> dict[str, tuple[Tensor, ...]]:
    """Inputs of `model_networks`."""
    generator = torch.Generator().manual_seed(5)
    latents = 40 * torch.randn(2, 4, 8, CODEC.latents, generator=generator)
    gain = torch.rand(CODEC.latents, generator=generator) + 0.5
    mask = (torch.rand(1, 64, 96, 1, generator=generator) < 0.2).to(torch.uint8)
    return {
        "encoder": (made_pixels(2, 64, 128),),
        "hyper_encoder": (latents, gain),
        "decoder": ((16 * latents).to(torch.int32), gain / 16),
        "upscaler": (made_pixels(2, 13, 18), torch.randn(2, 13, 18, 3, generator=generator)),
        "restorer": (made_pixels(1, 64, 96), mask),
    }


def run_graph(
    graph: onnx.ModelProto, inputs: Sequence[Tensor], *, optimised: bool = True, threads: int = 1
) -> list[npt.NDArray[Any]]:
    """The outputs of a graph by ONNX Runtime."""
    levels, options = onnxruntime.GraphOptimizationLevel, onnxruntime.SessionOptions()
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    named = {given.name: x.numpy() for given, x in zip(session.get_inputs(), inputs, strict=True)}
    return [np.asarray(y) for y in session.run(None, named)]
