"""The exact prior: from hyper-latents and already decoded latents to a mean and a scale index per latent, in integers.

Each layer is a 1x1 layer. It is trained in float first; `ExactPrior.freeze` then fixes scales and shifts from the
ranges seen so far, and from there on the forward pass simulates the integers with straight-through gradients: what was
trained is what ships. Carried in float32 the integers are exact on every engine because no sum can reach 2^24
(`vaert.export.bounds` proves it from the weights). After Balle, Johnston & Minnen, "Integer Networks for Data
Compression with Latent-Variable Models", ICLR 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from vaert.trainer.models.blocks import clamp_st, floor_st, round_st

SCALES = 64  # scale indices; index 0 is "not coded"
SCALE_MIN, SCALE_MAX = 0.11, 200.0  # standard deviations, in latent units
LOG_STEP = math.log(SCALE_MAX / SCALE_MIN) / (SCALES - 1)
SIXTEENTHS = 16.0  # means are given in sixteenths of a latent unit
FLOAT_MAX = 10.0  # float activations are kept in a range that 8 bits resolve; unbounded, some layers reached 56
HIDDEN_MAX, WEIGHT_MAX, CONTEXT_MAX, MEAN_MAX = 255, 127, 127, 1 << 15
BIAS_MAX = 1 << 22  # leaves the products 3/4 of the 2^24 that float32 holds exactly
SHIFT_MAX = 14
START_INDEX = 20 / SIXTEENTHS  # a float prior starts at scale index 20: a standard deviation of 1.2


def scale_of(index: Tensor) -> Tensor:
    """Standard deviation of a (possibly fractional) scale index, same shape."""
    return SCALE_MIN * torch.exp(index * LOG_STEP)


@dataclass(frozen=True)
class IntegerLayer:
    """One layer as it ships: floor((weight @ a + bias) * 2^-shift), clamped."""

    weight: npt.NDArray[np.int8]  # (out, in)
    bias: npt.NDArray[np.int32]  # (out,)
    shift: npt.NDArray[np.uint8]  # (out,)


class PriorLayer(nn.Module):
    """A 1x1 layer, (N, in, H, W) -> (N, out, H, W), in float until `freeze`, in simulated integers after it."""

    weight_scale: Tensor
    bias_scale: Tensor
    shift: Tensor
    peak: Tensor

    def __init__(self, inputs: int, outputs: int, *, hidden: bool) -> None:
        super().__init__()
        reference = nn.Conv2d(inputs, outputs, 1)  # its default initialisation
        self.weight = nn.Parameter(reference.weight.detach().clone())
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.hidden, self.integer, self.observing = hidden, False, False
        self.register_buffer("peak", torch.zeros(()))  # largest activation expected, float units
        self.register_buffer("weight_scale", torch.ones(()))  # integer weight = weight * weight_scale * 2^shift
        self.register_buffer("bias_scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(outputs))

    def freeze(self, scale_in: Tensor, scale_out: Tensor) -> None:
        """Fix the integer scales; an integer activation is a float one times its scale."""
        self.weight_scale.copy_(scale_out / scale_in)
        self.bias_scale.copy_(scale_out)
        widest = (self.weight.detach() * self.weight_scale).abs().amax((1, 2, 3)).clamp_min(1e-6)
        offset = (self.bias.detach() * self.bias_scale).abs().clamp_min(1e-6)
        # One bit of headroom for weights and bias, so that fine-tuning is not stopped by the clamps at once.
        room = torch.minimum(0.9 * WEIGHT_MAX / widest, 0.5 * BIAS_MAX / offset)
        self.shift.copy_(torch.floor(torch.log2(room)).clamp(0, SHIFT_MAX))

    def _integers(self) -> tuple[Tensor, Tensor]:
        k = torch.exp2(self.shift)
        weight = round_st(self.weight * (self.weight_scale * k)[:, None, None, None])
        bias = round_st(self.bias * self.bias_scale * k)
        return clamp_st(weight, -WEIGHT_MAX, WEIGHT_MAX), clamp_st(bias, -BIAS_MAX, BIAS_MAX)

    def forward(self, a: Tensor) -> Tensor:
        """Float or integer activations, as `integer` says."""
        if not self.integer:
            y = F.conv2d(a, self.weight, self.bias)
            y = clamp_st(F.relu(y), 0, FLOAT_MAX) if self.hidden else y
            if self.observing:
                sample = y.detach().flatten()[::7][:200_000]
                self.peak.copy_(torch.maximum(self.peak * 0.99, torch.quantile(sample, 0.9995)))
            return y
        weight, bias = self._integers()
        y = floor_st(F.conv2d(a, weight, bias) * torch.exp2(-self.shift)[None, :, None, None])
        return clamp_st(F.relu(y), 0, HIDDEN_MAX) if self.hidden else y

    def export(self) -> IntegerLayer:
        """The integers of this layer."""
        with torch.no_grad():
            weight, bias = self._integers()
        return IntegerLayer(
            weight[:, :, 0, 0].cpu().numpy().astype(np.int8),
            bias.cpu().numpy().astype(np.int32),
            self.shift.cpu().numpy().astype(np.uint8),
        )


@dataclass(frozen=True)
class Moments:
    """What the prior says of one checkerboard half, each (N, M, H, W / 2)."""

    mean: Tensor  # latent units; whole sixteenths once frozen
    index: Tensor  # 0..63; whole once frozen


def pack(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split (N, C, H, W) by absolute position into anchors, (row + column) even, and the rest: (N, C, H, W / 2) each.

    Column j of the anchors of row y is x = 2 j + y % 2.
    """
    n, c, h, w = x.shape
    even, odd = x[:, :, 0::2], x[:, :, 1::2]
    anchors = torch.stack([even[..., 0::2], odd[..., 1::2]], 3)
    rest = torch.stack([even[..., 1::2], odd[..., 0::2]], 3)
    return anchors.reshape(n, c, h, w // 2), rest.reshape(n, c, h, w // 2)


def unpack(anchors: Tensor, rest: Tensor) -> Tensor:
    """Inverse of `pack`: two (N, C, H, W / 2) -> (N, C, H, W)."""
    n, c, h, w = anchors.shape
    even = torch.stack([anchors[:, :, 0::2], rest[:, :, 0::2]], 4).reshape(n, c, h // 2, 2 * w)
    odd = torch.stack([rest[:, :, 1::2], anchors[:, :, 1::2]], 4).reshape(n, c, h // 2, 2 * w)
    return torch.stack([even, odd], 3).reshape(n, c, h, 2 * w)


def neighbours(anchors: Tensor) -> Tensor:
    """Anchors above, below, left, right of each of the rest, zero outside: (N, C, H, W / 2) -> (N, 4 C, H, W / 2)."""
    n, c, h, w = anchors.shape
    p = F.pad(anchors, (1, 1, 1, 1))
    above, below = p[:, :, :-2, 1:-1], p[:, :, 2:, 1:-1]
    before, after = p[:, :, 1:-1, :-2], p[:, :, 1:-1, 2:]
    left = torch.stack([anchors[:, :, 0::2], before[:, :, 1::2]], 3).reshape(n, c, h, w)
    right = torch.stack([after[:, :, 0::2], anchors[:, :, 1::2]], 3).reshape(n, c, h, w)
    return torch.cat([above, below, left, right], 1)


class ExactLayers(nn.Module):
    """Layers that become integers together: in float until `freeze` of the subclass, in simulated integers after it."""

    frozen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.integer = False
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool))
        self.register_load_state_dict_post_hook(lambda module, _: module._sync())  # type: ignore[no-untyped-call]

    def layers(self) -> dict[str, PriorLayer]:
        """The layers by name, in order of evaluation."""
        return {name: layer for name, layer in self.named_children() if isinstance(layer, PriorLayer)}

    def _sync(self) -> None:
        self.integer = bool(self.frozen)
        for layer in self.layers().values():
            layer.integer = self.integer

    def observe(self, on: bool) -> None:
        """Record activation ranges during the next forward passes, or stop."""
        for layer in self.layers().values():
            layer.observing = on

    @property
    def observing(self) -> bool:
        """Whether ranges are being recorded."""
        return any(layer.observing for layer in self.layers().values())

    def peaks(self) -> list[Tensor]:
        """The recorded ranges, for processes that each saw their own pictures."""
        return [layer.peak for layer in self.layers().values()]


class ExactPrior(ExactLayers):
    """p(y | z) in two checkerboard steps. Layers carry the letters of DESIGN: h hyper-decoder, a hidden, o output."""

    context_shift: Tensor
    context_peak: Tensor

    def __init__(self, *, latents: int, hyper: int, hidden: int, mix: int) -> None:
        super().__init__()
        m, e = latents, hidden
        self.latents = m
        self.h1, self.h2 = PriorLayer(hyper, 4 * e, hidden=True), PriorLayer(e, 4 * e, hidden=True)
        self.a0, self.o0 = PriorLayer(e, mix, hidden=True), PriorLayer(mix, 2 * m, hidden=False)
        self.near = PriorLayer(4 * m, e, hidden=True)
        self.a1, self.o1 = PriorLayer(2 * e, mix, hidden=True), PriorLayer(mix, 2 * m, hidden=False)
        for out in (self.o0, self.o1):
            nn.init.normal_(out.weight, std=0.01)
        self.register_buffer("context_shift", torch.full((m,), 4.0))  # bits dropped from sixteenths before the context
        self.register_buffer("context_peak", torch.zeros(m))  # latent units

    def peaks(self) -> list[Tensor]:
        """See `ExactLayers.peaks`; with that of what the context sees."""
        return [self.context_peak, *super().peaks()]

    @torch.no_grad()
    def freeze(self) -> None:
        """Turn the trained float prior into integers; ranges must have been observed."""
        scale = {
            n: HIDDEN_MAX / (1.1 * layer.peak.clamp_min(1e-3)) for n, layer in self.layers().items() if layer.hidden
        }
        scale["h2"] = scale["near"] = torch.minimum(scale["h2"], scale["near"])  # concatenated: one scale
        extra = torch.ceil(torch.log2(self.context_peak.clamp_min(1) / CONTEXT_MAX)).clamp_min(0)
        self.context_shift.copy_(4 + extra)
        self.near.weight.mul_(torch.exp2(extra).repeat(4)[None, :, None, None])
        one, sixteen = torch.ones_like(scale["h1"]), torch.full_like(scale["h1"], SIXTEENTHS)
        for out in (self.o0, self.o1):
            out.bias[self.latents :] += START_INDEX
        for layer, scale_in, scale_out in (
            (self.h1, one, scale["h1"]),
            (self.h2, scale["h1"], scale["h2"]),
            (self.a0, scale["h2"], scale["a0"]),
            (self.o0, scale["a0"], sixteen),
            (self.near, one, scale["near"]),
            (self.a1, scale["near"], scale["a1"]),
            (self.o1, scale["a1"], sixteen),
        ):
            layer.freeze(scale_in, scale_out)
        self.frozen.fill_(True)
        self._sync()

    def _moments(self, out: Tensor) -> Moments:
        mean, index = out.chunk(2, 1)
        if self.integer:
            return Moments(clamp_st(mean, -MEAN_MAX, MEAN_MAX) / SIXTEENTHS, clamp_st(index, 0, SCALES - 1))
        return Moments(mean, clamp_st((index + START_INDEX) * SIXTEENTHS, 0, SCALES - 1))

    def hyper_features(self, z: Tensor) -> Tensor:
        """Hyper-decoder: integers z, (N, hyper, H / 4, W / 4) -> features, (N, hidden, H, W)."""
        return F.pixel_shuffle(self.h2(F.pixel_shuffle(self.h1(z), 2)), 2)

    def anchor_moments(self, features: Tensor) -> Moments:
        """Step 0 from the packed features of the anchors, (N, hidden, H, W / 2)."""
        return self._moments(self.o0(self.a0(features)))

    def context_moments(self, features: Tensor, anchors: Tensor) -> Moments:
        """Step 1 from packed features and the reconstructed anchors in latent units, (N, M, H, W / 2)."""
        if self.integer:
            keep = torch.exp2(4 - self.context_shift)[None, :, None, None]
            anchors = clamp_st(floor_st(anchors * keep + 0.5), -CONTEXT_MAX, CONTEXT_MAX)
        elif self.near.observing:
            self.context_peak.copy_(torch.maximum(self.context_peak, anchors.detach().abs().amax((0, 2, 3))))
        return self._moments(self.o1(self.a1(torch.cat([features, self.near(neighbours(anchors))], 1))))
