"""The entropy model of a VAE's quantised latents, fitted once after training.

Steps are multiples of the mean posterior deviation of each latent: one nat costs the same fidelity in all of them (Kato
et al., "Rate-distortion optimization guided autoencoder for isometric embedding", ICML 2020). Per level of quality a
mixture of products of discretised Gaussians is fitted to the rounded posterior means by expectation maximisation
(Dempster, Laird & Rubin 1977), in its hard form: the writer names the cluster that it used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vaert.digit_tables import FRACTIONS, K_MAX, REACH, DigitTables
from vaert.tables import TOTAL
from vaert.trainer.models.digits import DigitVAE

LEVELS, CLUSTERS = 16, 64
COARSEST, FINEST = 6.0, 0.9  # steps, in mean posterior deviations
# Bits that one dB is worth at a step of one deviation and how they change with it. On the curve that such pairs make
# the best slope grows as steps shrink: measured with mnist-mlp and 50 latents, from 5 at 5 deviations to 14 at 2.5.
SLOPE, SLOPE_POWER = 40.0, -1.3
ACTIVE_NATS = 0.05  # latents whose mean divergence from the prior is lower carry nothing
SCALES = np.exp(np.linspace(np.log(0.12), np.log(12.0), 40))  # standard deviations of the tables, in steps
FLOOR = 3e-4  # share of a table that is spread evenly, for what the Gaussian does not expect
PRIOR_COUNT = 4.0  # digits by which a cluster's mean and variance are drawn to those of all digits
FIRST_ROUNDS, MORE_ROUNDS = 20, 6  # of expectation maximisation: at the finest level, and at those that follow from it
BATCH = 500

Float = npt.NDArray[np.float64]


def fit(model: DigitVAE, digits: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of `DigitTables` for a trained model, from the digits it was trained on, uint8 (N, 28, 28)."""
    means, deviations, nats = [], [], []
    with torch.no_grad():
        for start in range(0, len(digits), BATCH):
            x = torch.from_numpy(digits[start : start + BATCH]).float()[:, None] / 255
            mean, log_variance = model.encode(x)
            means.append(mean)
            deviations.append(torch.exp(0.5 * log_variance))
            nats.append(-0.5 * (1 + log_variance - mean.square() - log_variance.exp()))
    kl = torch.cat(nats).double().mean(0).numpy()
    active = np.flatnonzero(kl > min(ACTIVE_NATS, kl.max() / 2))
    steps = torch.cat(deviations).double().mean(0).numpy()[active]
    return fit_latents(torch.cat(means).double().numpy()[:, active], steps, active).arrays()


def fit_latents(means: Float, deviations: Float, active: npt.NDArray[np.intp]) -> DigitTables:
    """Tables for latents (N, A) whose steps are multiples of `deviations` (A,); `active` names them, (A,)."""
    multiples = np.geomspace(COARSEST, FINEST, LEVELS)
    shares, mean, scale = [], [], []
    chosen: npt.NDArray[np.intp] | None = None
    for multiple in multiples[::-1]:  # the finest level tells clusters best apart
        k = np.clip(np.round(means / (deviations * multiple)), -K_MAX, K_MAX).astype(np.int32)
        rounds = MORE_ROUNDS
        if chosen is None:
            chosen, rounds = _seed_clusters(k), FIRST_ROUNDS
        for _ in range(rounds):
            share, quarter, index = _maximise(k, chosen)
            chosen = _expect(k, share, quarter, index)
        share, quarter, index = _maximise(k, chosen)
        shares.append(integer_tables(share))
        mean.append(quarter)
        scale.append(index)
    return DigitTables.from_arrays(
        {
            "active": active.astype(np.uint16),
            "steps": (multiples[:, None] * deviations).astype(np.float32),
            "slopes": (SLOPE * multiples**SLOPE_POWER).astype(np.float32),
            "clusters": np.stack(shares[::-1]),
            "mean": np.stack(mean[::-1]).astype(np.int16),
            "scale": np.stack(scale[::-1]).astype(np.uint8),
            "tables": integer_tables(_gaussians()),
        }
    )


def integer_tables(probabilities: Float) -> npt.NDArray[np.uint32]:
    """Counts k >= 1 in proportion to the probabilities, each row of sum exactly 2^24, (..., n) -> same shape.

    The largest remainders are rounded up first.
    """
    room = TOTAL - probabilities.shape[-1]  # one for each symbol is set aside
    exact = probabilities / probabilities.sum(-1, keepdims=True) * room
    k = np.floor(exact).astype(np.int64)
    rank = np.argsort(np.argsort(k - exact, axis=-1, kind="stable"), axis=-1, kind="stable")
    return np.asarray(k + 1 + (rank < room - k.sum(-1, keepdims=True)), np.uint32)


def _gaussians() -> Float:
    """Probabilities of round(v), v ~ N(fraction / FRACTIONS, scale^2), (FRACTIONS, scales, 2 REACH + 1)."""
    symbols = np.arange(-REACH, REACH + 1) - np.arange(FRACTIONS)[:, None, None] / FRACTIONS
    away = torch.from_numpy(np.abs(symbols) / SCALES[:, None])
    half = torch.from_numpy(0.5 / SCALES[:, None])
    # Of the lower tail, where nothing cancels.
    inner = (torch.special.ndtr(half - away) - torch.special.ndtr(-half - away)).numpy()
    return np.asarray((1 - FLOOR) * inner / inner.sum(-1, keepdims=True) + FLOOR / inner.shape[-1])


def _seed_clusters(k: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
    """A first cluster for each digit, (N,): the nearest of CLUSTERS digits that lie far apart (k-means++)."""
    rng = np.random.default_rng(0)
    spread = (k - k.mean(0)) / np.maximum(k.std(0), 0.3)
    distances = [np.square(spread - spread[rng.integers(len(k))]).sum(1)]
    for _ in range(CLUSTERS - 1):
        nearest = np.min(distances, 0) + 1e-12  # also where all digits are equal
        distances.append(np.square(spread - spread[rng.choice(len(k), p=nearest / nearest.sum())]).sum(1))
    return np.asarray(np.argmin(distances, 0))


def _maximise(
    k: npt.NDArray[np.int32], chosen: npt.NDArray[np.intp]
) -> tuple[Float, npt.NDArray[np.int32], npt.NDArray[np.intp]]:
    """Shares (K,), means in steps / FRACTIONS (K, A) and scale indices (K, A), given the cluster of each digit."""
    member = np.zeros((CLUSTERS, len(k)))
    member[chosen, np.arange(len(k))] = 1
    x, count = k.astype(np.float64), member.sum(1)[:, None]
    overall, spread = x.mean(0), x.var(0)
    mean = (member @ x + PRIOR_COUNT * overall) / (count + PRIOR_COUNT)
    squares = member @ np.square(x) - 2 * mean * (member @ x) + count * np.square(mean)
    variance = (squares + PRIOR_COUNT * spread) / (count + PRIOR_COUNT)
    deviation = np.sqrt(np.maximum(variance - 1 / 12, SCALES[0] ** 2))  # rounding adds 1/12 (Sheppard)
    index = np.abs(np.log(deviation)[..., None] - np.log(SCALES)).argmin(-1)
    quarters = np.clip(np.round(mean * FRACTIONS), -K_MAX * FRACTIONS, K_MAX * FRACTIONS).astype(np.int32)
    return (count[:, 0] + 0.5) / (len(k) + 0.5 * CLUSTERS), quarters, index


def _expect(
    k: npt.NDArray[np.int32], share: Float, quarters: npt.NDArray[np.int32], index: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """The likeliest cluster of each digit, (N,)."""
    nats = np.log(_gaussians())
    whole, fraction = quarters // FRACTIONS, quarters % FRACTIONS
    symbols = np.arange(-K_MAX, K_MAX + 1) - whole[..., None] + REACH
    costs = nats[fraction[..., None], index[..., None], symbols]  # (K, A, 2 K_MAX + 1)
    latents = np.arange(k.shape[1])
    total = np.stack([one[latents, k + K_MAX].sum(1) for one in costs], 1) + np.log(share)
    return np.asarray(total.argmax(1))
