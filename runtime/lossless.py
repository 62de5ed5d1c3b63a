"""Lossless coding of digits by bits-back, with networks in exact integers: every backend reads every other's files."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vaert.errors import BitstreamError, ModelError, OptionError
from vaert.lossless_tables import LosslessTables
from vaert.package import LOSSLESS_DIGITS, Package
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.runtime.backends.base import Backend
from vaert.runtime.bitsback import BitsBack, Stack

Digits = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
BATCH_MAX = 64  # part of the format, like the rule that batches double: the coder takes a batch at once


@dataclass(frozen=True)
class LosslessCoded:
    """What the coder wrote: ANS words (little-endian bytes), and CRC-32 of the digits' pixels in raster order."""

    words: bytes
    symbol_crc: int


@dataclass(frozen=True)
class Posterior:
    """q(z | x) of some digits, (N, L) each."""

    mean: Int32  # grid steps
    spread: npt.NDArray[np.uint8]  # index of the table


def batches(count: int) -> Iterator[slice]:
    """How digits are taken together: 1, 2, 4, ..., 64, 64, ..., the rest.

    Each batch draws its latents from the bits that the ones before it wrote. The first has none, so its latents are the
    means, paid in full; as batches at most double, the others find more than they need.
    """
    first, size = 0, 1
    while first < count:
        yield slice(first, min(first + size, count))
        first, size = first + size, min(2 * size, BATCH_MAX)


class LosslessNetworks:
    """Encoder, decoder and the passes of one package.

    The package's known answers are checked when it is loaded. A backend that does not reproduce them is not used: the
    networks then run on the CPU, with a warning that names the backend.
    """

    def __init__(self, package: Package, backend: Backend, tables: LosslessTables) -> None:
        self.backend_name, self._tables = backend.name, tables
        self._load(package, backend)
        if wrong := self._wrong_answers(package):
            warnings.warn(
                f"the {backend.name} backend does not compute the lossless model exactly ({wrong}); it runs on the CPU "
                "instead",
                RuntimeWarning,
                stacklevel=2,
            )
            self.backend_name = OnnxRuntimeCpu.name
            self._load(package, OnnxRuntimeCpu())

    def _load(self, package: Package, backend: Backend) -> None:
        self._encoder = backend.load(package, "lossless_encoder")
        self._decoder = backend.load(package, "lossless_decoder")
        self._passes = [backend.load(package, f"lossless_pass{k}") for k in range(len(self._tables.passes))]

    def _wrong_answers(self, package: Package) -> str:
        """Which known answer is not reproduced, or an empty string."""
        with np.load(io.BytesIO(package.read("known_answers.npz")), allow_pickle=False) as answers:
            known = {name: answers[name] for name in answers.files}
        for case in sorted({name.split(".")[0] for name in known}):
            pixels, z = known[f"{case}.pixels"], known[f"{case}.latents"]
            q, features, padded = self.posterior(pixels), self.features(z), _padded(pixels)
            found: dict[str, npt.NDArray[Any]] = {"mean": q.mean, "spread": q.spread}
            found |= {f"index{k}": self.index(k, features, padded) for k in range(len(self._passes))}
            for name, values in found.items():
                if not np.array_equal(values, known[f"{case}.{name}"]):
                    return f"known answer {case}, {name}"
        return ""

    def posterior(self, pixels: Digits) -> Posterior:
        """q(z | x) of pixels (N, 784)."""
        out = self._encoder.run({"pixels": np.ascontiguousarray(pixels)})
        return Posterior(out["mean"], out["spread"])

    def features(self, z: Int32) -> npt.NDArray[np.float32]:
        """Latents (N, L) to features (N, cells, F)."""
        features: npt.NDArray[np.float32] = self._decoder.run({"latents": np.ascontiguousarray(z, np.int32)})[
            "features"
        ]
        return features

    def index(self, k: int, features: npt.NDArray[np.float32], padded: Digits) -> npt.NDArray[np.uint8]:
        """Pass k: features and the pixels known so far, (N, 785), the last of them 0, to (N, P, nodes)."""
        one = self._tables.passes[k]
        inputs: dict[str, npt.NDArray[Any]] = {"features": features[:, one.cells]}
        if one.neighbours.shape[1]:
            inputs["seen"] = padded[:, one.neighbours]
        index: npt.NDArray[np.uint8] = self._passes[k].run(inputs)["index"]
        return index


class LosslessDigits:
    """Compresses digits without loss. Thread-compatible; loading checks the package's known answers.

    Raises ModelError if the package is none of kind `lossless_digits` or is damaged, BackendError if the engine fails.
    """

    def __init__(self, package: Package, backend: Backend) -> None:
        manifest = package.manifest
        if manifest.kind != LOSSLESS_DIGITS:
            raise ModelError(f"{package.path} is a model of kind {manifest.kind}, expected {LOSSLESS_DIGITS}")
        tables = LosslessTables.from_bytes(package.read("tables.npz"))
        self._shape = (int(manifest.geometry["height"]), int(manifest.geometry["width"]))
        self._latents, self._levels = int(manifest.geometry["latents"]), int(manifest.geometry["levels"])
        self._pixels, self._passes = self._shape[0] * self._shape[1], tables.passes
        if sum(len(one.pixels) for one in tables.passes) != self._pixels:
            raise ModelError(f"{package.path}: tables.npz is for other pictures than the manifest says")
        self._networks, self._bits = LosslessNetworks(package, backend, tables), BitsBack(tables)

    @property
    def backend_name(self) -> str:
        """Engine that runs the networks."""
        return self._networks.backend_name

    def compress(self, digits: Digits) -> LosslessCoded:
        """uint8 (N, height, width), N >= 1. OptionError for another shape or type, or values unknown to the model."""
        if digits.dtype != np.uint8 or digits.ndim != 3 or digits.shape[1:] != self._shape or not len(digits):
            raise OptionError(
                f"digits are {digits.dtype} {digits.shape}, expected uint8 (N, {self._shape[0]}, {self._shape[1]})"
            )
        flat = digits.reshape(len(digits), self._pixels)
        if not self._bits.can_code(flat):
            raise OptionError(
                f"the digits hold other values than the {self._levels} that this model codes, 0 and 255: make them "
                "black and white, or use a model of 256 levels"
            )
        stack = Stack()
        for taken in batches(len(flat)):
            self._push(stack, flat[taken], sample=taken.start > 0)
        return LosslessCoded(stack.words(), zlib.crc32(np.ascontiguousarray(flat).tobytes()))

    def decompress(self, coded: LosslessCoded, count: int) -> Digits:
        """Inverse of `compress`: uint8 (count, height, width).

        OptionError if count is below 1, BitstreamError if the words are not `count` digits of this model.
        """
        if count < 1:
            raise OptionError(f"count is {count}, expected at least 1")
        if len(coded.words) % 4:
            raise BitstreamError(f"damaged digits: {len(coded.words)} bytes are not a whole number of 4-byte words")
        stack, flat = Stack(coded.words), np.empty((count, self._pixels), np.uint8)
        for taken in reversed(list(batches(count))):
            flat[taken] = self._pop(stack, taken.stop - taken.start, sampled=taken.start > 0)
        if not stack.empty:
            raise BitstreamError("damaged digits: data is left after the last symbol")
        if (found := zlib.crc32(flat.tobytes())) != coded.symbol_crc:
            raise BitstreamError(
                f"damaged digits: the decoded pixels have CRC {found:08x}, the file says {coded.symbol_crc:08x}"
            )
        return flat.reshape(count, *self._shape)

    def _push(self, stack: Stack, flat: Digits, *, sample: bool) -> None:
        """One batch: draw z from q(z | x), push x by p(x | z), push z by p(z)."""
        q = self._networks.posterior(flat)
        mean, spread = q.mean.ravel(), q.spread.ravel()
        z = self._bits.pop_posterior(stack, mean, spread) if sample else mean
        features, padded = self._networks.features(z.reshape(len(flat), self._latents)), _padded(flat)
        for k in reversed(range(len(self._passes))):
            index = self._networks.index(k, features, padded)
            values = flat[:, self._passes[k].pixels]
            self._bits.push_pixels(stack, values.ravel(), index.reshape(-1, index.shape[-1]))
        self._bits.push_prior(stack, z)

    def _pop(self, stack: Stack, count: int, *, sampled: bool) -> Digits:
        """Undo `_push`: pop z, pop x given z, then give the bits back that z was drawn from."""
        z = self._bits.pop_prior(stack, count * self._latents)
        features = self._networks.features(z.reshape(count, self._latents))
        padded = np.zeros((count, self._pixels + 1), np.uint8)
        for k, one in enumerate(self._passes):
            index = self._networks.index(k, features, padded)
            values = self._bits.pop_pixels(stack, index.reshape(-1, index.shape[-1]))
            padded[:, one.pixels] = values.reshape(count, -1)
        flat = padded[:, :-1]
        if sampled:
            q = self._networks.posterior(flat)
            self._bits.push_posterior(stack, z, mean=q.mean.ravel(), spread=q.spread.ravel())
        return flat


def _padded(flat: Digits) -> Digits:
    """Pixels (N, 784) with a 0 appended, which stands for all that lies outside."""
    return np.pad(flat, ((0, 0), (0, 1)))
