"""A lossless package against torch: known answers that travel with it, and made digits there and back."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from vaert.errors import ModelError
from vaert.export.bounds import row_sums
from vaert.package import Package
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.runtime.lossless import LosslessDigits
from vaert.trainer.models.lossless_order import PIXELS, SIDE
from vaert.trainer.models.mnist_lossless import INPUT_MAX, LATENT_MAX, LOGIT_SCALE, LOGITS, ExactNets
from vaert.trainer.models.prior import IntegerLayer

Arrays = dict[str, npt.NDArray[Any]]
MADE = 40  # digits of the check, enough for batches of several sizes


def verify(package: Package, levels: int) -> dict[str, Any]:
    """Load the package, which checks its known answers, and code made digits there and back; a report.

    ModelError if the CPU engine does not compute torch's integers, or a digit comes back changed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            codec = LosslessDigits(package, OnnxRuntimeCpu())
        except RuntimeWarning as error:
            raise ModelError(f"the exported graphs disagree with torch ({error}): nothing was written") from error
    digits = made_digits(MADE, levels)
    if not np.array_equal(codec.decompress(codec.compress(digits), MADE), digits):
        raise ModelError("made digits do not come back as they were: this is a fault of the export")
    return {"against": "torch", "integers_different": 0, "round_trip_digits": MADE}


def made_digits(count: int, levels: int) -> npt.NDArray[np.uint8]:
    """Strokes, noise and extremes, uint8 (count, 28, 28); the same everywhere."""
    rng, (y, x) = np.random.default_rng(28), np.mgrid[0:SIDE, 0:SIDE]
    angle, offset = rng.uniform(0, math.pi, count)[:, None, None], rng.uniform(-6, 6, count)[:, None, None]
    distance = np.abs((y - 13.5) * np.cos(angle) + (x - 13.5) * np.sin(angle) - offset)
    digits = np.clip(400 - 150 * distance, 0, 255).astype(np.uint8)
    digits[1], digits[2] = 0, 255
    digits[3] = rng.integers(0, 256, (SIDE, SIDE))
    return digits if levels > 2 else np.where(digits > 127, 255, 0).astype(np.uint8)


@torch.no_grad()
def known_answers(nets: ExactNets, layers: Mapping[str, IntegerLayer]) -> Arrays:
    """`CASE.pixels` (N, 784), `CASE.latents` (N, L) and all integers that follow from them, by torch."""
    rng, config = np.random.default_rng(24), nets.config
    pull = layers["e"].weight[int(row_sums(layers["e"], INPUT_MAX).argmax())] > 0
    latent_pull = layers["d"].weight[int(row_sums(layers["d"], LATENT_MAX).argmax())] > 0
    shape = (2, config.latents)
    both = np.stack([pull, ~pull]), np.stack([latent_pull, ~latent_pull])
    cases = {
        "strokes": (made_digits(8, config.levels)[4:].reshape(4, PIXELS), rng.integers(-64, 65, (4, shape[1]))),
        "extreme": (rng.choice([0, 1, 254, 255], (2, PIXELS)), rng.choice([-LATENT_MAX, LATENT_MAX], shape)),
        "bound": (255 * both[0], np.where(both[1], LATENT_MAX, -LATENT_MAX)),
    }
    answers: Arrays = {}
    for case, (pixels, latents) in cases.items():
        x = torch.from_numpy(pixels.astype(np.float32))
        q, features = nets.posterior(x), nets.features(torch.from_numpy(latents.astype(np.float32)))
        found: Arrays = {"pixels": pixels.astype(np.uint8), "latents": latents.astype(np.int32)}
        found |= {"mean": q.mean.numpy().astype(np.int32), "spread": q.index.numpy().astype(np.uint8)}
        padded = F.pad(x, (0, 1))
        for k in range(len(nets.passes)):
            logits = nets.logits(k, *nets.inputs(k, features, padded))
            index = torch.round(logits * LOGIT_SCALE + (LOGITS - 1) / 2)
            found[f"index{k}"] = index.numpy().astype(np.uint8)
        answers |= {f"{case}.{name}": array for name, array in found.items()}
    return answers
