"""The layers of a network that precision concerns: convolutions and linear layers, by the names of their weights."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch.nn as nn
from torch import Tensor

WEIGHTED = (nn.Conv2d, nn.Linear)
LARGEST_HALF = 65504.0  # float16
HALF_MARGIN = 8.0  # how much larger than on the calibration pictures values may be on others


def layers(module: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """The convolutions and linear layers of a network by name, in the order they were made."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, WEIGHTED)}


def is_matrix(layer: nn.Conv2d | nn.Linear) -> bool:
    """Whether a layer multiplies the channels of each position by one matrix: linear, or a plain 1x1 convolution."""
    if isinstance(layer, nn.Linear):
        return True
    padded = layer.padding not in ((0, 0), "valid")
    return layer.kernel_size == layer.stride == (1, 1) and layer.groups == 1 and not padded


class TypedLayer(nn.Module):
    """A layer that takes any float type and computes and answers in that of its weights."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        y: Tensor = self.layer(x.to(self.layer.weight.dtype))
        return y


def halved(module: nn.Module, *, keep: Collection[str]) -> nn.Module:
    """A copy of a network in float16, but for the layers to `keep` in float32.

    A layer kept gives float32, and sums with it are float32 as well, so a residual stream stays wide from there on.
    """
    half = copy.deepcopy(module)
    for name, layer in layers(half).items():
        parent, _, last = name.rpartition(".")
        setattr(half.get_submodule(parent), last, TypedLayer(layer if name in keep else layer.half()))
    return half.eval()


def source_name(weight: str) -> str:
    """The name of the layer whose weights are called `weight` in a graph, whatever precision made of it."""
    return weight.removesuffix(".weight").removesuffix(".layer")
