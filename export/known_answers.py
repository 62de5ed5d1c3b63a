"""Inputs and expected integers of the prior that travel with a package: random, extreme, and at the 2^24 bound."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vaert.export.bounds import row_sums
from vaert.trainer.models.codec import HYPER_MAX
from vaert.trainer.models.prior import ExactPrior, IntegerLayer, Moments, pack

RESIDUAL_REACH = 1 << 15
SIDE = 2  # hyper-latents; 8 x 8 latents


def known_answers(prior: ExactPrior, layers: Mapping[str, IntegerLayer]) -> dict[str, npt.NDArray[Any]]:
    """`CASE.z`, `CASE.anchors` (packed, sixteenths) and the four integer outputs of each case, by torch."""
    rng = np.random.default_rng(24)
    hyper, m = layers["h1"].weight.shape[1], prior.latents
    shape_z, shape_s = (1, SIDE, SIDE, hyper), (1, 2 * SIDE, 2, 2 * SIDE, m)
    worst = layers["h1"].weight[int(row_sums(layers["h1"], HYPER_MAX).argmax())]
    nearest = layers["near"].weight[int(row_sums(layers["near"], 127).argmax())].reshape(4, m)
    largest = 16 * RESIDUAL_REACH
    bound_z = np.broadcast_to(np.where(worst < 0, -HYPER_MAX, HYPER_MAX), shape_z)
    # Every neighbour of one direction pulls the largest row of the context layer the same way.
    bound_s = np.broadcast_to(np.where(nearest.sum(0, dtype=np.int64) < 0, -largest, largest), shape_s)
    cases = {
        "random": (rng.integers(-8, 9, shape_z), rng.integers(-400, 401, shape_s)),
        "extreme": (
            rng.choice([-HYPER_MAX, HYPER_MAX], shape_z),
            rng.choice(
                [-largest - RESIDUAL_REACH, -2040, -2024, -8, -7, 0, 7, 8, 2024, largest + RESIDUAL_REACH], shape_s
            ),
        ),
        "bound": (bound_z, bound_s),
    }
    answers: dict[str, npt.NDArray[Any]] = {}
    for case, (z, s) in cases.items():
        features, anchors = anchor_step(prior, z)
        rest = context_step(prior, features, s)
        answers |= {f"{case}.z": z.astype(np.int8), f"{case}.anchors": s.astype(np.int32)}
        for step, moments in (("anchor", anchors), ("rest", rest)):
            mean, index = packed_integers(moments)
            answers |= {f"{case}.{step}_mean": mean, f"{case}.{step}_index": index}
    return answers


def to_bytes(answers: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """A compressed .npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **dict(answers))
    return buffer.getvalue()


@torch.no_grad()
def anchor_step(prior: ExactPrior, z: npt.NDArray[Any]) -> tuple[tuple[torch.Tensor, torch.Tensor], Moments]:
    """Step 0 in torch, from z (1, h / 4, w / 4, hyper): packed features of both halves, moments of the anchors."""
    planes = torch.from_numpy(np.ascontiguousarray(z).astype(np.float32)).permute(0, 3, 1, 2)
    features = pack(prior.hyper_features(planes))
    return features, prior.anchor_moments(features[0])


@torch.no_grad()
def context_step(prior: ExactPrior, features: tuple[torch.Tensor, torch.Tensor], anchors: npt.NDArray[Any]) -> Moments:
    """Step 1 in torch, from packed anchors in sixteenths (1, h / 2, 2, w / 2, M)."""
    n, pairs, two, columns, m = anchors.shape
    planes = torch.from_numpy(np.ascontiguousarray(anchors).astype(np.float32) / 16).permute(0, 4, 1, 2, 3)
    return prior.context_moments(features[1], planes.reshape(n, m, pairs * two, columns))


def packed_integers(moments: Moments) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Torch moments (1, M, h, w / 2) as the graphs give them: mean in sixteenths, index, (1, h / 2, 2, w / 2, M)."""
    n, m, h, columns = moments.mean.shape

    def packed(x: torch.Tensor) -> npt.NDArray[np.float32]:
        return np.asarray(x.reshape(n, m, h // 2, 2, columns).permute(0, 2, 3, 4, 1).contiguous().numpy())

    return packed(moments.mean * 16).astype(np.int32), packed(moments.index).astype(np.uint8)
