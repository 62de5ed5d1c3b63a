"""The exact prior at run time: integers in, integers out, the same on every engine, or it moves to the CPU."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vaert.package import Package
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.runtime.backends.base import Backend, Runner
from vaert.runtime.entropy import RESIDUAL_MAX, Coded, EntropyCoder, Residuals

Int32 = npt.NDArray[np.int32]
Float = npt.NDArray[np.float32]
SIXTEENTHS = 16


@dataclass(frozen=True)
class Moments:
    """What the prior says of one checkerboard half, (1, h / 2, 2, w / 2, M) each."""

    mean: Int32  # sixteenths
    index: npt.NDArray[np.uint8]  # 0..63; 0 is not coded


@dataclass(frozen=True)
class Quantised:
    """One group: residuals of both halves, and what a decoder makes of each, packed, in sixteenths."""

    halves: tuple[Residuals, Residuals]
    packed: tuple[Int32, Int32]

    @property
    def latents(self) -> Int32:
        """The reconstructed latents in sixteenths, (1, h, w, M)."""
        return unpack(*self.packed)


class Prior:
    """p(y | z) of one group of latents, in two checkerboard steps.

    The package's known answers are checked when it is loaded. A backend that does not reproduce them is not used: the
    prior then runs on the CPU, with a warning that names the backend.
    """

    def __init__(self, package: Package, backend: Backend) -> None:
        self.backend_name = backend.name
        self._load(package, backend)
        if wrong := self._wrong_answers(package):
            warnings.warn(
                f"the {backend.name} backend does not compute the prior exactly ({wrong}); it runs on the CPU instead",
                RuntimeWarning,
                stacklevel=2,
            )
            self.backend_name = OnnxRuntimeCpu.name
            self._load(package, OnnxRuntimeCpu())

    def _load(self, package: Package, backend: Backend) -> None:
        self._anchor: Runner = backend.load(package, "prior_anchor")
        self._context: Runner = backend.load(package, "prior_context")

    def _wrong_answers(self, package: Package) -> str:
        """Which known answer is not reproduced, or an empty string."""
        with np.load(io.BytesIO(package.read("known_answers.npz")), allow_pickle=False) as answers:
            known = {name: answers[name] for name in answers.files}
        for case in sorted({name.split(".")[0] for name in known}):
            features, anchors = self.anchors(known[f"{case}.z"])
            rest = self.rest(features, known[f"{case}.anchors"])
            for step, moments in (("anchor", anchors), ("rest", rest)):
                for field in ("mean", "index"):
                    if not np.array_equal(getattr(moments, field), known[f"{case}.{step}_{field}"]):
                        return f"known answer {case}, {step} {field}"
        return ""

    def anchors(self, z: npt.NDArray[np.integer]) -> tuple[Float, Moments]:
        """Step 0: hyper-latents, (1, h / 4, w / 4, hyper), to features for step 1 and the moments of the anchors."""
        out = self._anchor.run({"z": np.ascontiguousarray(z, np.int32)})
        return out["features"], Moments(out["mean"], out["index"])

    def rest(self, features: Float, anchors: Int32) -> Moments:
        """Step 1: features and the packed, reconstructed anchors (sixteenths) to the moments of the rest."""
        out = self._context.run({"features": features, "anchors": anchors})
        return Moments(out["mean"], out["index"])

    def quantise(self, y: Float, gain: Float, z: npt.NDArray[np.int8]) -> Quantised:
        """Encoder side: latents (1, h, w, M) and what scales them (M), given hyper-latents (1, h / 4, w / 4, hyper)."""
        features, moments = self.anchors(z)
        first, seen = _residuals(pack(y, 0, gain), moments)
        second, rest = _residuals(pack(y, 1, gain), self.rest(features, seen))
        return Quantised((first, second), (seen, rest))

    def decode(self, coder: EntropyCoder, coded: Coded, z: npt.NDArray[np.int8]) -> Int32:
        """Decoder side: latents in sixteenths, (1, h, w, M). BitstreamError if the data is damaged."""
        decoder = coder.decoder(coded)
        features, moments = self.anchors(z)
        seen = _reconstruct(decoder.half(moments.index.ravel()), moments)
        moments = self.rest(features, seen)
        rest = _reconstruct(decoder.half(moments.index.ravel()), moments)
        decoder.finish()
        return unpack(seen, rest)


def _residuals(y: Float, moments: Moments) -> tuple[Residuals, Int32]:
    """Round what is left of y, after the mean; elements with index 0 stay at their mean."""
    r = np.multiply(moments.mean, np.float32(-1 / SIXTEENTHS), dtype=np.float32)
    r += y
    np.rint(r, out=r)
    np.clip(r, -RESIDUAL_MAX, RESIDUAL_MAX, out=r)
    r *= moments.index != 0
    values = r.astype(np.int32).ravel()
    return Residuals(values, moments.index.ravel()), _reconstruct(values, moments)


def _reconstruct(values: Int32, moments: Moments) -> Int32:
    made = np.multiply(values.reshape(moments.mean.shape), np.int32(SIXTEENTHS))
    made += moments.mean
    return made


def pack(x: Float, half: int, gain: Float | float = 1.0) -> Float:
    """Checkerboard half (0 anchors, 1 rest) of (1, h, w, C) times the gain (C), packed as (1, h / 2, 2, w / 2, C)."""
    n, h, w, c = x.shape
    out = np.empty((n, h // 2, 2, w // 2, c), np.float32)
    for row in (0, 1):
        np.multiply(x[:, row::2, (half + row) % 2 :: 2], gain, out=out[:, :, row])
    return out


def unpack(anchors: Int32, rest: Int32) -> Int32:
    """Both packed halves to (1, h, w, C)."""
    n, pairs, _, columns, c = anchors.shape
    x = np.empty((n, 2 * pairs, 2 * columns, c), anchors.dtype)
    x[:, 0::2, 0::2], x[:, 1::2, 1::2] = anchors[:, :, 0], anchors[:, :, 1]
    x[:, 0::2, 1::2], x[:, 1::2, 0::2] = rest[:, :, 0], rest[:, :, 1]
    return x
