"""8-bit rounding of weights and activations, as the graphs do it and as torch can simulate it.

Integers with a scale: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018, section 2.1; weights per output channel: Krishnamoorthi, "Quantizing deep convolutional networks
for efficient inference: A whitepaper", 2018, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn as nn
from torch import Tensor

from vaert.export.layers import is_matrix
from vaert.package import CPU_FLAVOUR, TENSORRT_FLAVOUR

Float = npt.NDArray[np.float32]
LEAST_SCALE = 1e-18  # products of two stay above 0 in float32
# CPUs without VNNI add two products of unsigned and signed bytes in 16 bits: 2 * 255 * 64 just fits, 2 * 255 * 127 does
# not. So weights of the CPU's flavour use seven of their eight bits, and every CPU computes the same.
WEIGHT_MAX = {CPU_FLAVOUR: 64, TENSORRT_FLAVOUR: 127}


@dataclass(frozen=True)
class Range:
    """Ranges of one tensor of the least squared rounding error: `low`..`high` with 0 inside, and +-`symmetric`."""

    low: float
    high: float
    symmetric: float

    def grid(self, flavour: str) -> tuple[float, int, int, int]:
        """Scale, zero point, least and largest integer: unsigned bytes for CPUs, symmetric signed ones for TensorRT."""
        if flavour == CPU_FLAVOUR:
            scale = max((self.high - self.low) / 255, 1e-8)
            return scale, round(-self.low / scale), 0, 255
        return max(self.symmetric / 127, 1e-8), 0, -128, 127


def stored_scales(scales: npt.ArrayLike, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Scales as a graph of float type `dtype` holds them, same shape: above 0, and rounded up so that nothing clips."""
    wanted = np.maximum(np.asarray(scales, np.float64), max(LEAST_SCALE, np.finfo(dtype).smallest_subnormal))
    rounded = wanted.astype(dtype)
    return np.where(rounded < wanted, np.nextafter(rounded, np.array(np.inf, dtype)), rounded)


def integer_weights(
    weight: npt.NDArray[Any], flavour: str, dtype: npt.DTypeLike = np.float32, *, least: npt.ArrayLike = 0.0
) -> tuple[npt.NDArray[np.int8], npt.NDArray[Any]]:
    """Weights (out, ...) as int8 of the same shape and one scale per output channel, (out,), of type `dtype`.

    least: what scales must not be below, one number or (out,).
    """
    limit = WEIGHT_MAX[flavour]
    largest = np.abs(weight.reshape(len(weight), -1).astype(np.float64)).max(1)
    scale = stored_scales(np.maximum(largest / limit, least), dtype)
    integers = np.rint(weight / scale.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1)))
    return np.clip(integers, -limit, limit).astype(np.int8), scale


def round_activations(x: Tensor, grid: tuple[float, int, int, int]) -> Tensor:
    """Activations as they come back from integers, same shape."""
    scale, zero, least, largest = grid
    return (torch.clamp(torch.round(x / scale) + zero, least, largest) - zero) * scale


@contextmanager
def in_int8(layer: nn.Conv2d | nn.Linear, ranges: tuple[Range, Range], flavour: str) -> Iterator[None]:
    """Let a layer of a torch network compute as an int8 layer of this flavour with these ranges of input and output.

    On CPUs all but products with one matrix round their output; see `vaert.export.quantise_cpu`.
    """
    inside, outside = (r.grid(flavour) for r in ranges)
    kept = layer.weight.detach().clone()
    integers, scale = integer_weights(kept.numpy(), flavour)
    hooks = [layer.register_forward_pre_hook(lambda _, inputs: (round_activations(inputs[0], inside),))]
    if flavour == CPU_FLAVOUR and not is_matrix(layer):
        hooks.append(layer.register_forward_hook(lambda _, inputs, y: round_activations(y, outside)))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(integers * scale.reshape(-1, *[1] * (kept.ndim - 1))))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            layer.weight.copy_(kept)
