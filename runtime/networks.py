"""The transforms at run time: analysis, hyper-analysis and synthesis of pictures of any size, tile by tile."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from vaert.package import Package
from vaert.runtime.backends.base import Backend, Runner
from vaert.runtime.tiling import Pixels, cut, round_up, scaled, tiles

Float = npt.NDArray[np.float32]
TILE = 1024  # pixels; larger pictures than UNTILED are cut into tiles of this side
UNTILED = 2 << 20  # pixels
SIXTEENTHS = 16


class Networks:
    """Encoder, hyper-encoder and decoder of one package on one backend. Graphs are loaded when first used."""

    def __init__(self, package: Package, backend: Backend, *, tile: int | None = None) -> None:
        self._package, self._backend, self._tile = package, backend, tile
        geometry = package.manifest.geometry
        self._multiple, self._stride = geometry["size_multiple"], geometry["latent_stride"]
        self._hyper_stride, self._halo = geometry["hyper_stride"], geometry["halo"]
        self._latents = int(package.manifest.config["latents"])

    @cached_property
    def encoder(self) -> Runner:
        """Graph from pixels to latents."""
        return self._backend.load(self._package, "encoder")

    @cached_property
    def hyper_encoder(self) -> Runner:
        """Graph from latents and gains to hyper-latents."""
        return self._backend.load(self._package, "hyper_encoder")

    @cached_property
    def decoder(self) -> Runner:
        """Graph from latents in sixteenths and inverse gains to pixels."""
        return self._backend.load(self._package, "decoder")

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """Height and width rounded up to the graphs' size rule."""
        return round_up(height, self._multiple), round_up(width, self._multiple)

    def tile(self, height: int, width: int) -> int:
        """Side of the tiles that a picture of this padded size is cut into."""
        if self._tile is not None:
            return self._tile
        return max(height, width) if height * width <= UNTILED else TILE

    def analyse(self, pixels: Pixels) -> Float:
        """uint8 RGB (H, W, 3) to latents before the gain, float32 (h, w, M), the padding included."""
        height, width = self.padded(*pixels.shape[:2])
        y = np.empty((height // self._stride, width // self._stride, self._latents), np.float32)
        for rows, columns in tiles(height, width, self.tile(height, width), self._halo["encoder"]):
            out = self.encoder.run({"pixels": cut(pixels, rows.outer, columns.outer)})["latents"]
            target = scaled(rows.core, self._stride), scaled(columns.core, self._stride)
            y[target] = out[0, rows.inner(self._stride), columns.inner(self._stride)]
        return y

    def hyper_analyse(self, y: Float, gain: Float) -> npt.NDArray[np.int8]:
        """Latents before the gain, (h, w, M), to hyper-latents, int8 (h / 4, w / 4, hyper)."""
        height, width = y.shape[0] * self._stride, y.shape[1] * self._stride
        parts = []
        tile = self.tile(height, width)
        for rows, columns in tiles(height, width, tile, self._halo["hyper_encoder"]):
            part = y[scaled(rows.outer, self._stride), scaled(columns.outer, self._stride)]
            z = self.hyper_encoder.run({"latents": np.ascontiguousarray(part)[None], "gain": gain})["z"]
            parts.append((rows, columns, z[0, rows.inner(self._hyper_stride), columns.inner(self._hyper_stride)]))
        shape = (height // self._hyper_stride, width // self._hyper_stride, parts[0][2].shape[2])
        whole = np.empty(shape, np.int8)
        for rows, columns, part_z in parts:
            whole[scaled(rows.core, self._hyper_stride), scaled(columns.core, self._hyper_stride)] = part_z
        return whole

    def synthesise(self, s: npt.NDArray[np.int32], inverse_gain: Float, height: int, width: int) -> Pixels:
        """Latents in sixteenths, int32 (h, w, M), to the picture, uint8 RGB (height, width, 3), padding cropped."""
        pixels = np.empty((height, width, 3), np.uint8)
        scale = inverse_gain / np.float32(SIXTEENTHS)
        padded = self.padded(height, width)
        for rows, columns in tiles(*padded, self.tile(*padded), self._halo["decoder"]):
            part = s[scaled(rows.outer, self._stride), scaled(columns.outer, self._stride)]
            out = self.decoder.run({"latents": np.ascontiguousarray(part)[None], "scale": scale})["pixels"]
            target = pixels[rows.core, columns.core]
            target[:] = out[0, rows.inner(), columns.inner()][: target.shape[0], : target.shape[1]]
        return pixels
