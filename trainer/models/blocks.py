"""Building blocks of the transforms. Operators are only those that ONNX Runtime and TensorRT both run fast."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class Block(nn.Module):
    """Depth-wise residual block, then a gated 1x1 feed-forward block, (N, C, H, W) -> (N, C, H, W).

    Both branches end in a layer that starts at zero, so that a new block is the identity. The gate has its own
    convolution (no Split of one wide output): the two stay in the blocked layout of CPU engines.
    """

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion // 2
        self.mix_in = nn.Conv2d(channels, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.mix_out = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, wide, 1)
        self.gate = nn.Conv2d(channels, wide, 1)
        self.project = nn.Conv2d(wide, channels, 1)
        for last in (self.mix_out, self.project):
            nn.init.zeros_(last.weight)
            if last.bias is not None:
                nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Both branches, one after the other."""
        x = x + self.mix_out(self.depthwise(F.leaky_relu(self.mix_in(x), 0.01)))
        y: Tensor = x + self.project(self.value(x) * F.hardsigmoid(self.gate(x)))
        return y


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0]


class _Floor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.floor(x)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0]


def round_st(x: Tensor) -> Tensor:
    """Round to nearest even; the gradient passes straight through."""
    y: Tensor = _Round.apply(x)  # type: ignore[no-untyped-call]
    return y


def floor_st(x: Tensor) -> Tensor:
    """Round down; the gradient passes straight through."""
    y: Tensor = _Floor.apply(x)  # type: ignore[no-untyped-call]
    return y


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.low, ctx.high = low, high
        return torch.clamp(x, low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,), (g,) = ctx.saved_tensors, grads
        inward = ~((x < ctx.low) & (g > 0) | (x > ctx.high) & (g < 0))
        return g * inward, None, None


def clamp_st(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp; outside, only gradients that pull back in pass.

    What was clamped can thus come back, but is not driven further out: with a small slope outside instead, scale
    indices of latents that are always zero ran away to -1000 and took the layers before them along.
    """
    y: Tensor = _Clamp.apply(x, low, high)  # type: ignore[no-untyped-call]
    return y
