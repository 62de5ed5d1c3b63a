"""The transforms as ONNX: uint8 NHWC pixels in and out, latents NHWC, so that the host only moves bytes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import onnx
import torch
import torch.nn as nn
from torch import Tensor
from torch.export import Dim

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
    latents = torch.zeros(2, 8, 12, config.latents)
    picture = ({0: batch, 1: 64 * high, 2: 64 * wide},)
    latent = ({0: batch, 1: 4 * high, 2: 4 * wide}, None)
    row = torch.ones(config.latents)
    return {
        "encoder": _export(
            EncoderGraph(model), (torch.zeros(2, 128, 192, 3, dtype=torch.uint8),), picture, {"pixels": "latents"}
        ),
        "hyper_encoder": _export(HyperEncoderGraph(model), (latents, row), latent, {"latents": "z", "gain": ""}),
        "decoder": _export(
            DecoderGraph(model), (latents.to(torch.int32), row), latent, {"latents": "pixels", "scale": ""}
        ),
    }


def _export(
    graph: nn.Module, inputs: tuple[Tensor, ...], shapes: tuple[Mapping[int, Any] | None, ...], names: Mapping[str, str]
) -> onnx.ModelProto:
    """Run torch's exporter; `names` maps input names to output names, "" for inputs without one."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            graph.eval(),
            inputs,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(names),
            output_names=[name for name in names.values() if name],
            opset_version=20,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:  # traces with paths of the exporting machine
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.metadata_props[:], model.graph.metadata_props[:]
    model.producer_name, model.producer_version = "vaert", ""
    onnx.checker.check_model(model, full_check=True)
    return model
