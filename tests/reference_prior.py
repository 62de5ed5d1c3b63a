"""The prior again, in int64 numpy: plain, one absolute position at a time, from the shipped integers, no graphs.

Written from docs/format.md: it shares nothing with the runtime but the container's parser and the entropy coder.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load

from vaert import bitstream
from vaert.package import Package
from vaert.runtime.entropy import Coded, EntropyCoder

Int64 = npt.NDArray[np.int64]
Position = tuple[int, int]


class ReferencePrior:
    """Means in sixteenths and scale indices of one group of latents, from its hyper-latents and its anchors."""

    def __init__(self, package: Package) -> None:
        arrays = load(package.read("weights.safetensors"))
        self.integers: dict[str, Any] = {
            name.removeprefix("prior."): array.astype(np.int64)
            for name, array in arrays.items()
            if name.startswith("prior.")
        }
        self.shift = self.integers["context_shift"]
        self.latents = len(self.shift)

    def linear(self, name: str, a: Int64) -> Int64:
        """floor((W a + b) / 2^shift), (in,) -> (out,)."""
        weight, bias, shift = (self.integers[f"{name}.{field}"] for field in ("weight", "bias", "shift"))
        out: Int64 = (weight @ a + bias) >> shift
        return out

    def hidden(self, name: str, a: Int64) -> Int64:
        return np.clip(self.linear(name, a), 0, 255)

    def features(self, z: Int64) -> Int64:
        """Hyper-decoder: (h / 4, w / 4, hyper) to (h, w, hidden)."""
        x = z
        for name in ("h1", "h2"):
            channels = len(self.integers[f"{name}.bias"]) // 4
            larger = np.empty((2 * x.shape[0], 2 * x.shape[1], channels), np.int64)
            for i in range(x.shape[0]):
                for j in range(x.shape[1]):
                    # Pixel shuffle: channel 4 c + 2 a + b goes to channel c of row 2 i + a, column 2 j + b.
                    block = self.hidden(name, x[i, j]).reshape(channels, 2, 2)
                    larger[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = block.transpose(1, 2, 0)
            x = larger
        return x

    def moments(self, name: str, a: Int64) -> tuple[Int64, Int64]:
        out = self.linear(name, a)
        return np.clip(out[: self.latents], -(2**15), 2**15), np.clip(out[self.latents :], 0, 63)

    def anchor(self, features: Int64, at: Position) -> tuple[Int64, Int64]:
        """Mean and index of an anchor, (M,) each."""
        return self.moments("o0", self.hidden("a0", features[at]))

    def rest(self, features: Int64, s: Int64, at: Position) -> tuple[Int64, Int64]:
        """Mean and index of another position, from the anchors in `s`, (h, w, M), around it."""
        (y, x), (h, w) = at, s.shape[:2]
        seen = []
        for row, column in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= row < h and 0 <= column < w
            value = s[row, column] if inside else np.zeros(self.latents, np.int64)
            # floor(s / 2^k + 1/2), in integers
            seen.append(np.clip(((value << 1) + (1 << self.shift)) >> (self.shift + 1), -127, 127))
        near = self.hidden("near", np.concatenate(seen))
        return self.moments("o1", self.hidden("a1", np.concatenate([features[at], near])))


def positions(h: int, w: int, step: int) -> list[Position]:
    """Anchors (step 0: row + column even) or the rest (step 1), in raster order."""
    return [(y, x) for y in range(h) for x in range(w) if (y + x) % 2 == step]


def decode(package: Package, data: bytes) -> npt.NDArray[np.int32]:
    """Latents of a file in sixteenths, (h, w, M), padding included; any number of groups."""
    stream, prior = bitstream.parse_photo(data), ReferencePrior(package)
    header, tables = stream.header, package.tables()
    height, width = 64 * -(-header.height // 64), 64 * -(-header.width // 64)
    shape = (height // 64, width // 64, len(tables.hyper))
    coder = EntropyCoder(tables)
    z = coder.decode_hyper(stream.hyper.words, stream.hyper.symbol_crc, shape).astype(np.int64)
    features = prior.features(z)
    s = np.zeros((height // 16, width // 16, prior.latents), np.int64)
    for group, section in zip(bitstream.group_grid(header.width, header.height), stream.latents, strict=True):
        rows = slice(group.y // 16, min(group.y + 2048, height) // 16)
        columns = slice(group.x // 16, min(group.x + 2048, width) // 16)
        decoder = coder.decoder(Coded(section.words, section.escapes, section.symbol_crc))
        part, around = s[rows, columns], features[rows, columns]
        for step in (0, 1):
            places = positions(part.shape[0], part.shape[1], step)
            found = [prior.anchor(around, at) if step == 0 else prior.rest(around, part, at) for at in places]
            index = np.concatenate([i for _, i in found]).astype(np.uint8)
            residuals = decoder.half(index).astype(np.int64).reshape(len(places), -1)
            for at, (mean, _), r in zip(places, found, residuals, strict=True):
                part[at] = 16 * r + mean
        decoder.finish()
    return s.astype(np.int32)
