"""Channels of like size: scales moved between layers, by powers of two, so that 8 bits fit all channels of a tensor.

A channel divided by 2^k where it is made and multiplied where it is read changes nothing in float, bit for bit, since
nothing in between but sums, LeakyReLU and gates sees it. What 8 bits make of it changes: one scale serves all channels
of a tensor, and the large ones would leave the small ones a few steps. After Nagel et al., "Data-Free Quantization
Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1, with the balance between activations and
weights of Xiao et al., "SmoothQuant", ICML 2023, eq. 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn as nn
from torch import Tensor

from vaert.export.layers import layers
from vaert.export.trace import Network

Exponents = Mapping[str, Sequence[int]]
"""Per stream, by its name: k of each channel."""


@torch.no_grad()
def find_exponents(network: Network, samples: Sequence[tuple[Tensor, ...]]) -> dict[str, list[int]]:
    """k of each channel of each stream, from what the samples make of them."""
    modules, found = layers(network.module), dict[str, list[int]]()
    largest = _largest(network, samples)
    for stream in network.streams:
        activation = torch.stack([largest[name] for name in stream.readers]).amax(0)
        weight = torch.stack([_reading(modules[name]) for name in stream.readers]).amax(0)
        scale = torch.sqrt(activation.clamp_min(1e-6) / weight.clamp_min(1e-6))
        k = torch.round(torch.log2(scale))
        found[stream.name] = [int(v) for v in k - torch.round(k.median())]
    return found


@torch.no_grad()
def equalise(network: Network, exponents: Exponents) -> None:
    """Move scales within a network, in place."""
    modules = layers(network.module)
    for stream in network.streams:
        scale = torch.exp2(torch.tensor(exponents[stream.name], dtype=torch.float32))
        for name in stream.makers:
            layer = modules[name]
            down = 1 / scale.repeat_interleave(len(layer.weight) // len(scale))
            layer.weight *= down.reshape(-1, *[1] * (layer.weight.ndim - 1))
            if layer.bias is not None:
                layer.bias *= down
        for name in stream.readers:
            layer = modules[name]
            layer.weight *= scale[:, None, None, None] if _depthwise(layer) else scale[None, :, None, None]
        if stream.border:
            setattr(network.module, stream.border, nn.Parameter(scale if stream.makes_output else 1 / scale, False))


def _largest(network: Network, samples: Sequence[tuple[Tensor, ...]]) -> dict[str, Tensor]:
    """Largest absolute value of each input channel of each convolution that runs."""
    found: dict[str, Tensor] = {}

    def look(name: str, x: Tensor) -> None:
        here = x.abs().amax((0, 2, 3))
        found[name] = torch.maximum(found[name], here) if name in found else here

    hooks = [
        layer.register_forward_pre_hook(lambda _, x, name=name: look(name, x[0]))
        for name, layer in layers(network.module).items()
        if isinstance(layer, nn.Conv2d)
    ]
    for inputs in samples:
        network.smooth(*inputs)
    for hook in hooks:
        hook.remove()
    return found


def _depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups > 1


def _reading(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """Largest absolute weight of each input channel."""
    weight = layer.weight.abs()
    return weight.amax((1, 2, 3)) if _depthwise(layer) else weight.amax((0, 2, 3))
