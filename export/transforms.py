"""The transforms as ONNX: uint8 NHWC pixels in and out, latents NHWC, so that the host only moves bytes."""

from __future__ import annotations

import onnx
import torch
import torch.nn as nn
from torch import Tensor
from torch.export import Dim

from vaert.export.trace import trace
from vaert.trainer.models.codec import HYPER_MAX, PIXEL_MAX, CodecVAE


class EncoderGraph(nn.Module):
    """`pixels` uint8 (N, H, W, 3) -> `latents` float32 (N, H / 16, W / 16, M), before the gain."""

    def __init__(self, model: CodecVAE) -> None:
        super().__init__()
        self.analysis = model.analysis
        embed = self.analysis.embed
        assert embed.bias is not None
        with torch.no_grad():  # x = pixel / 255 - 1/2, folded into the patch embedding, which has no padding
            embed.bias -= 0.5 * embed.weight.sum((1, 2, 3))
            embed.weight /= PIXEL_MAX

    def forward(self, pixels: Tensor) -> Tensor:
        """Shapes as above."""
        y: Tensor = self.analysis(pixels.permute(0, 3, 1, 2).float())
        return y.permute(0, 2, 3, 1)


class HyperEncoderGraph(nn.Module):
    """`latents` float32 (N, h, w, M) and `gain` float32 (M,) -> `z` int32 (N, h / 4, w / 4, hyper)."""

    def __init__(self, model: CodecVAE) -> None:
        super().__init__()
        self.hyper_analysis = model.hyper_analysis

    def forward(self, latents: Tensor, gain: Tensor) -> Tensor:
        """Shapes as above."""
        z = self.hyper_analysis((latents * gain).permute(0, 3, 1, 2))
        return torch.clamp(torch.round(z), -float(HYPER_MAX), float(HYPER_MAX)).permute(0, 2, 3, 1).to(torch.int32)


class DecoderGraph(nn.Module):
    """`latents` int32 sixteenths (N, h, w, M) and `scale` float32 (M,) -> `pixels` uint8 (N, H, W, 3).

    scale is the inverse gain / 16.
    """

    def __init__(self, model: CodecVAE) -> None:
        super().__init__()
        self.synthesis = model.synthesis
        last = self.synthesis.unembed
        assert last.bias is not None
        with torch.no_grad():  # pixel = 255 (x + 1/2), folded into the last layer
            last.bias.add_(0.5).mul_(PIXEL_MAX)
            last.weight *= PIXEL_MAX

    def forward(self, latents: Tensor, scale: Tensor) -> Tensor:
        """Shapes as above."""
        x = self.synthesis((latents.float() * scale).permute(0, 3, 1, 2))
        return torch.clamp(torch.round(x), 0.0, PIXEL_MAX).to(torch.uint8).permute(0, 2, 3, 1)


def transform_graphs(model: CodecVAE) -> dict[str, onnx.ModelProto]:
    """encoder, hyper_encoder and decoder of a model as ONNX; takes the model apart, give it one of its own."""
    config = model.config
    batch, high, wide = Dim("batch"), Dim("high", min=1), Dim("wide", min=1)
    pixels, latents = torch.zeros(2, 128, 192, 3, dtype=torch.uint8), torch.zeros(2, 8, 12, config.latents)
    picture = ({0: batch, 1: 64 * high, 2: 64 * wide},)
    latent = ({0: batch, 1: 4 * high, 2: 4 * wide}, None)
    row = torch.ones(config.latents)
    return {
        "encoder": trace(EncoderGraph(model), (pixels,), picture, names=(["pixels"], ["latents"])),
        "hyper_encoder": trace(HyperEncoderGraph(model), (latents, row), latent, names=(["latents", "gain"], ["z"])),
        "decoder": trace(
            DecoderGraph(model), (latents.to(torch.int32), row), latent, names=(["latents", "scale"], ["pixels"])
        ),
    }
