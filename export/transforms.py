"""The transforms as ONNX: uint8 NHWC pixels in and out, latents NHWC, so that the host only moves bytes."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor
from torch.export import Dim

from vaert.export.streams import inner, makers, readers
from vaert.export.trace import Network, Stream
from vaert.trainer.models.codec import HYPER_MAX, PIXEL_MAX, CodecConfig, CodecVAE

LATENT_STRIDE = 16
LEVELS = 0.3  # mean squared error, in levels, that quantisation may add: 0.25 dB at 41 dB, 0.01 dB at 28 dB


class EncoderGraph(nn.Module):
    """`pixels` uint8 (N, H, W, 3) -> `latents` float32 (N, H / 16, W / 16, M), before the gain."""

    def __init__(self, model: CodecVAE) -> None:
        super().__init__()
        self.analysis = model.analysis
        self.latent_scale: Tensor | None = None  # see `Stream.border`
        embed = self.analysis.embed
        assert embed.bias is not None
        with torch.no_grad():  # x = pixel / 255 - 1/2, folded into the patch embedding, which has no padding
            embed.bias -= 0.5 * embed.weight.sum((1, 2, 3))
            embed.weight /= PIXEL_MAX

    def forward(self, pixels: Tensor) -> Tensor:
        """Shapes as above."""
        y: Tensor = self.analysis(pixels.float().permute(0, 3, 1, 2))
        latents = y.float().permute(0, 2, 3, 1)
        return latents if self.latent_scale is None else latents * self.latent_scale


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
        self.latent_scale: Tensor | None = None  # see `Stream.border`
        last = self.synthesis.unembed
        assert last.bias is not None
        with torch.no_grad():  # pixel = 255 (x + 1/2), folded into the last layer
            last.bias.add_(0.5).mul_(PIXEL_MAX)
            last.weight *= PIXEL_MAX

    def forward(self, latents: Tensor, scale: Tensor) -> Tensor:
        """Shapes as above."""
        return torch.clamp(torch.round(self.levels(latents, scale)), 0.0, PIXEL_MAX).permute(0, 2, 3, 1).to(torch.uint8)

    def levels(self, latents: Tensor, scale: Tensor) -> Tensor:
        """Pixels before rounding, (N, 3, H, W)."""
        if self.latent_scale is not None:
            scale = scale * self.latent_scale
        x: Tensor = self.synthesis((latents.float() * scale).permute(0, 3, 1, 2))
        return x


def transforms(model: CodecVAE) -> dict[str, Network]:
    """encoder, hyper_encoder and decoder of a model; takes the model apart, give it one of its own."""
    config = model.config
    batch, high, wide = Dim("batch"), Dim("high", min=1), Dim("wide", min=1)
    pixels, latents = torch.zeros(2, 128, 192, 3, dtype=torch.uint8), torch.zeros(2, 8, 12, config.latents)
    picture = ({0: batch, 1: 64 * high, 2: 64 * wide},)
    latent = ({0: batch, 1: 4 * high, 2: 4 * wide}, None)
    row = torch.ones(config.latents)
    # The transforms keep energy nearly: an error of one level squared is this much per latent.
    level = 3 * LATENT_STRIDE**2 / (config.latents * PIXEL_MAX**2)
    encoder, hyper, decoder = EncoderGraph(model), HyperEncoderGraph(model), DecoderGraph(model)
    coded = latents.to(torch.int32), row
    return {
        "encoder": Network(
            encoder, (pixels,), picture, ["pixels"], ["latents"], LEVELS * level, encoder, _analysis(config)
        ),
        "hyper_encoder": Network(hyper, (latents, row), latent, ["latents", "gain"], ["z"], 0.0, hyper),  # never
        "decoder": Network(
            decoder, coded, latent, ["latents", "scale"], ["pixels"], LEVELS, decoder.levels, _synthesis(config)
        ),
    }


def _analysis(c: CodecConfig) -> tuple[Stream, ...]:
    blocks, last = [f"analysis.blocks.{i}" for i in range(c.encoder_blocks)], "analysis.last"
    return (
        Stream("features", ("analysis.embed", *makers(blocks)), (*readers(blocks), "analysis.down")),
        Stream("latents", ("analysis.down", *makers([last])), readers([last]), "latent_scale", makes_output=True),
        *inner([*blocks, last]),
    )


def _synthesis(c: CodecConfig) -> tuple[Stream, ...]:
    blocks, first = [f"synthesis.blocks.{i}" for i in range(c.decoder_blocks)], "synthesis.first"
    return (
        Stream("latents", makers([first]), (*readers([first]), "synthesis.up"), "latent_scale"),
        Stream("features", ("synthesis.up", *makers(blocks)), (*readers(blocks), "synthesis.unembed")),
        *inner([first, *blocks]),
    )
