"""The VAEs of handwritten digits at run time: posterior, decoder, and the pictures that the latent space holds."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from vaert.errors import ModelError, OptionError
from vaert.package import DIGITS, Package, find_package
from vaert.runtime.backends import Backend, Runner, open_backend

Pixels = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]
Double = npt.NDArray[np.float64]
BATCH = 500  # digits per run of a graph: its memory stays below 100 MB
_PARALLEL = 1e-4  # radians; below it, and as close to opposite, a great circle is not defined well enough


@dataclass(frozen=True)
class Posterior:
    """q(z | x) = N(mean, exp(log_variance)) of N digits: float32 (N, latents) each."""

    mean: Float
    log_variance: Float

    @property
    def deviation(self) -> Float:
        """Standard deviations, (N, latents)."""
        return np.asarray(np.exp(0.5 * self.log_variance))


class DigitVAE:
    """One model of digits on one backend.

    model: a bundled model's name or a package folder. backend: `auto`, a name, or a backend. threads: all cores if
    None. Not to be shared between threads. Raises ModelError, BackendError, MissingExtraError, OptionError.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Package = "mnist-conv",
        *,
        backend: str | Backend = "auto",
        threads: int | None = None,
    ) -> None:
        self.package = model if isinstance(model, Package) else find_package(model)
        manifest = self.package.manifest
        if manifest.kind != DIGITS:
            raise ModelError(
                f"model {manifest.name} is of kind {manifest.kind}, expected {DIGITS}: give a model of digits"
            )
        self.height, self.width, self.latents = (int(manifest.geometry[n]) for n in ("height", "width", "latents"))
        self._backend = open_backend(backend, threads=threads, package=self.package)

    @cached_property
    def _encoder(self) -> Runner:
        return self._backend.load(self.package, "encoder")

    @cached_property
    def _decoder(self) -> Runner:
        return self._backend.load(self.package, "decoder")

    def encode(self, digits: Pixels) -> Posterior:
        """Posterior of digits, uint8 (N, H, W), white on black. OptionError if they have another shape or type."""
        self._check(digits)
        parts = [
            self._encoder.run({"pixels": np.ascontiguousarray(digits[start : start + BATCH, ..., None])})
            for start in range(0, len(digits), BATCH)
        ]
        empty = np.empty((0, self.latents), np.float32)
        return Posterior(*(np.concatenate([empty, *(p[n] for p in parts)]) for n in ("mean", "log_variance")))

    def decode(self, z: npt.NDArray[np.floating[Any]]) -> Float:
        """Logits, float32 (N, H, W), of latents (N, latents); their sigmoid is the mean of p(x | z), black 0, white 1.

        OptionError if the latents have another shape.
        """
        parts = [out["logits"][..., 0] for out in self._decoded(z)]
        return np.concatenate([np.empty((0, self.height, self.width), np.float32), *parts])

    def render(self, z: npt.NDArray[np.floating[Any]]) -> Pixels:
        """Mean of p(x | z) as grey levels, uint8 (N, H, W), of latents (N, latents). OptionError as in `decode`."""
        parts = [out["pixels"][..., 0] for out in self._decoded(z)]
        return np.concatenate([np.empty((0, self.height, self.width), np.uint8), *parts])

    def sample(self, count: int, *, seed: int) -> Pixels:
        """Means of p(x | z) for `count` draws from the prior, uint8 (count, H, W), the same for the same seed.

        OptionError if there is nothing to draw or the seed is negative.
        """
        if count < 1 or seed < 0:
            raise OptionError(f"expected at least one sample and a seed of at least 0, found {count} and {seed}")
        # Philox by name: numpy may change which generator `default_rng` is.
        generator = np.random.Generator(np.random.Philox(seed))
        return self.render(generator.standard_normal((count, self.latents)).astype(np.float32))

    def manifold(self, steps: int = 20) -> Pixels:
        """The plane of two latents, uint8 (steps * steps, H, W) in rows: z1 grows to the right and z2 upwards.

        The coordinates are quantiles of the prior at equal distances (Kingma & Welling 2014, figure 4). OptionError if
        the model has another number of latents or steps is below 2.
        """
        if self.latents != 2:
            name = self.package.manifest.name
            raise OptionError(
                f"a manifold needs a model of 2 latents, {name} has {self.latents}: train mnist-mlp --latent 2"
            )
        if steps < 2:
            raise OptionError(f"a manifold has at least 2 steps a side, found {steps}")
        quantiles = [NormalDist().inv_cdf((i + 0.5) / steps) for i in range(steps)]
        return self.render(np.array([(right, up) for up in reversed(quantiles) for right in quantiles], np.float32))

    def interpolate(self, first: Pixels, last: Pixels, *, steps: int = 10) -> Pixels:
        """A morph between two digits, uint8 (H, W) each, through their posterior means: uint8 (steps, H, W).

        The path is spherical (`great_circle`): in many latents the straight line passes through lengths that the prior
        hardly ever draws. OptionError if a digit has another shape or steps is below 2.
        """
        if steps < 2:
            raise OptionError(f"an interpolation has at least 2 steps, found {steps}")
        for digit in (first, last):
            self._check(digit[None])
        means = self.encode(np.stack([first, last])).mean.astype(np.float64)
        return self.render(great_circle(means[0], means[1], np.linspace(0, 1, steps)).astype(np.float32))

    def _decoded(self, z: npt.NDArray[np.floating[Any]]) -> list[dict[str, npt.NDArray[Any]]]:
        if z.ndim != 2 or z.shape[1] != self.latents:
            raise OptionError(f"expected latents of shape (N, {self.latents}), found {z.shape}")
        latents = np.ascontiguousarray(z, np.float32)
        return [
            self._decoder.run({"latents": latents[start : start + BATCH]}) for start in range(0, len(latents), BATCH)
        ]

    def _check(self, digits: Pixels) -> None:
        if digits.dtype != np.uint8 or digits.shape[1:] != (self.height, self.width):
            raise OptionError(
                f"{self.package.manifest.name} takes grey pictures of {self.width}x{self.height} pixels, uint8, "
                f"found {digits.dtype} {digits.shape[1:]}: crop or scale them first"
            )


def great_circle(first: Double, last: Double, positions: Double) -> Double:
    """Points at `positions`, 0..1, (P,), between two vectors, (L,): (P, L); direction at constant angular speed.

    Slerp (Shoemake, Animating Rotation with Quaternion Curves, 1985) with the length interpolated linearly; a straight
    line where a vector is zero or both lie on one line.
    """
    lengths = np.linalg.norm(first), np.linalg.norm(last)
    t = positions[:, None]
    if min(lengths) > 0:
        a, b = first / lengths[0], last / lengths[1]
        angle = math.acos(min(1.0, max(-1.0, float(a @ b))))
        if _PARALLEL < angle < math.pi - _PARALLEL:
            direction = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / math.sin(angle)
            return np.asarray(((1 - t) * lengths[0] + t * lengths[1]) * direction)
    return np.asarray((1 - t) * first + t * last)


def mosaic(digits: Pixels, *, columns: int | None = None, gap: int = 2) -> Pixels:
    """Digits, uint8 (N, H, W), as one picture in rows, `columns` a row (as square as it gets by default).

    `gap` black pixels lie between them; places that are left over are black.
    """
    count, height, width = digits.shape
    across = columns or math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    picture = np.zeros((down * (height + gap) - gap, across * (width + gap) - gap), np.uint8)
    for number, digit in enumerate(digits):
        top, left = number // across * (height + gap), number % across * (width + gap)
        picture[top : top + height, left : left + width] = digit
    return picture
