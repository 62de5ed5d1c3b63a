"""A package against torch: pixels of the transforms, integers of the prior."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vaert import bitstream
from vaert.errors import ModelError
from vaert.export.codec import CodecSource, from_package
from vaert.export.known_answers import anchor_step, context_step, packed_integers
from vaert.package import Package
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.runtime.codec import Codec, quality_to_u16
from vaert.runtime.entropy import Coded, EntropyCoder
from vaert.runtime.prior import unpack

QUALITIES = (5.0, 50.0, 95.0)
LATENT_TOLERANCE, PIXEL_TOLERANCE = 2e-3, 1  # latents before the gain; levels


def verify(package: Package, source: CodecSource) -> dict[str, Any]:
    """Compare engine and torch on a made picture; the report for the manifest. ModelError if they disagree."""
    picture = made_picture(192, 256)
    model, codec = source.model(), Codec(package, backend=OnnxRuntimeCpu())
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255 - 0.5
    with torch.no_grad():
        reference = model.analysis(x)[0].permute(1, 2, 0).numpy()
    analysed = codec.analyse(picture)
    latent_error = float(np.abs(next(analysed.parts()).latents - reference).max())
    levels, mismatches, compared = 0, 0, 0
    for quality in QUALITIES:
        data = codec.write(analysed, codec.attempt(analysed, quality_to_u16(quality)))
        latents = codec.decode_latents(bitstream.parse_photo(data))
        expected = torch_latents(package, data, source)
        mismatches, compared = mismatches + int((latents != expected).sum()), compared + latents.size
        decoded = torch_pixels(source, latents, quality)
        levels = max(levels, int(np.abs(codec.decompress(data).astype(int) - decoded).max()))
    if mismatches or levels > PIXEL_TOLERANCE or latent_error > LATENT_TOLERANCE:
        raise ModelError(
            f"the exported graphs disagree with torch: {mismatches} of {compared} latents, pixels by {levels} levels, "
            f"analysis by {latent_error:.2g}; this is a fault of the export, nothing was written"
        )
    return {
        "against": "torch",
        "picture": "192x256, made",
        "qualities": list(QUALITIES),
        "latents_compared": compared,
        "latents_different": mismatches,
        "largest_pixel_difference": levels,
        "largest_analysis_difference": float(f"{latent_error:.2g}"),
    }


def made_picture(height: int, width: int) -> npt.NDArray[np.uint8]:
    """A smooth, textured, coloured test picture, uint8 (height, width, 3); the same everywhere."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [
        128 + 70 * np.sin(x / 23 + y / 41) + 30 * np.sin(x * y / 900),
        128 + 80 * np.cos(x / 31) * np.sin(y / 17),
        100 + 100 * ((x // 32 + y // 32) % 2) * np.exp(-((x - width / 2) ** 2 + (y - height / 2) ** 2) / width**2),
    ]
    return np.clip(np.stack(planes, -1) + np.random.default_rng(5).normal(0, 4, (height, width, 3)), 0, 255).astype(
        np.uint8
    )


def torch_latents(package: Package, data: bytes, source: CodecSource | None = None) -> npt.NDArray[np.int32]:
    """The latents of a one-group file with the prior run by torch: int32 sixteenths, (h, w, M)."""
    prior = (source or from_package(package)).model().prior
    stream, coder, manifest = bitstream.parse_photo(data), EntropyCoder(package.tables()), package.manifest
    if len(stream.latents) != 1:
        raise ModelError("the torch reference decodes files of one group (up to 2048x2048 pixels)")
    multiple, stride = manifest.geometry["size_multiple"], manifest.geometry["hyper_stride"]
    rows, columns = (-(-n // multiple) * multiple // stride for n in (stream.header.height, stream.header.width))
    z = coder.decode_hyper(stream.hyper.words, stream.hyper.symbol_crc, (rows, columns, int(manifest.config["hyper"])))
    section = stream.latents[0]
    decoder = coder.decoder(Coded(section.words, section.escapes, section.symbol_crc))
    features, moments = anchor_step(prior, z[None])
    mean, index = packed_integers(moments)
    seen = 16 * decoder.half(index.ravel()).reshape(mean.shape) + mean
    mean, index = packed_integers(context_step(prior, features, seen))
    rest = 16 * decoder.half(index.ravel()).reshape(mean.shape) + mean
    decoder.finish()
    latents: npt.NDArray[np.int32] = unpack(seen, rest)[0]
    return latents


@torch.no_grad()
def torch_pixels(source: CodecSource, latents: npt.NDArray[np.int32], quality: float) -> npt.NDArray[np.int64]:
    """Decoded pixels by torch from latents in sixteenths, (h, w, M) -> (H, W, 3)."""
    _, inverse = source.tables.gains(quality)
    y = torch.from_numpy(latents.astype(np.float32) / 16 * inverse).permute(2, 0, 1)[None]
    x = source.model().synthesis(y)[0].permute(1, 2, 0)
    return np.asarray(((x + 0.5) * 255).round().clamp(0, 255).numpy(), np.int64)
