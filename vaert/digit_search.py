"""Rate-distortion optimised quantisation of digits: integers k that cost few bits and still decode well.

The writer starts from k = round(mu / step) and minimises bits + slope * 10 log10(MSE) by coordinate search through the
decoder network: the pictures of all single moves k_i +- 1 are decoded, their effects are added up as if they were
linear to find moves that go well together, and what was found is decoded to be judged by its true picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vaert.digit_tables import K_MAX

Float = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int32]
Pictures = npt.NDArray[np.float32]
Decoder = Callable[[Integers], Pictures]
"""Integers k (N, A) to pictures (N, pixels), values 0..255."""

ROUNDS = 2
TOGETHER = 4  # moves in one round
_LEAST = 0.02  # of a mean squared error, in squared levels: what is equal already needs no more bits
_NEVER = 1e9


@dataclass(frozen=True)
class Cost:
    """Bits of each cluster (K,) and of each k from -K_MAX in it (K, A, 2 K_MAX + 1); bits that one dB is worth."""

    clusters: Float
    symbols: Float
    slope: float

    def choose(self, k: Integers) -> tuple[npt.NDArray[np.intp], Float]:
        """The cheapest cluster of each digit and what the digit costs in it, in bits; k (N, A) -> (N,), (N,)."""
        latents = np.arange(k.shape[1])
        total = self.clusters + self.symbols[:, latents, k + K_MAX].sum(-1).T
        best = total.argmin(1)
        return best, total[np.arange(len(k)), best]

    def of(self, k: Integers, cluster: npt.NDArray[np.intp]) -> Float:
        """Bits of each latent of k (..., N, A) in the digit's cluster (N,), same shape."""
        bits: Float = self.symbols[cluster[:, None], np.arange(k.shape[-1]), k + K_MAX]
        return bits

    def distortion(self, squares: Float) -> Float:
        """Bits that the mean squared errors are worth, any shape."""
        return self.slope * 10 * np.log10(np.maximum(squares, 0) + _LEAST)


def search(pictures: Pictures, k: Integers, cost: Cost, *, decode: Decoder) -> Integers:
    """Better integers than k (N, A) for `pictures` (N, pixels); never worse ones."""
    k, count = k.copy(), len(k)
    decoded = decode(k)
    squares = _mse(pictures - decoded)
    for _ in range(ROUNDS):
        cluster, bits = cost.choose(k)
        single, allowed = _single_moves(k)
        change = decode(single.reshape(-1, k.shape[1])).reshape(count, -1, pictures.shape[1]) - decoded[:, None]
        extra = np.concatenate([cost.of(_moved(k, sign), cluster) - cost.of(k, cluster) for sign in (1, -1)], 1)
        extra[~allowed] = _NEVER
        found = _combine(k, pictures - decoded, change, extra=extra, cost=cost)
        tried = decode(found.reshape(-1, k.shape[1])).reshape(count, TOGETHER, -1)
        errors = _mse(pictures[:, None] - tried)
        each = np.stack([cost.of(found[:, i], cluster).sum(1) for i in range(TOGETHER)], 1)
        value = each + cost.clusters[cluster][:, None] + cost.distortion(errors)
        best = value.argmin(1)
        rows = np.flatnonzero(value.min(1) < bits + cost.distortion(squares))
        if len(rows) == 0:
            break
        chosen = best[rows]
        k[rows], decoded[rows], squares[rows] = found[rows, chosen], tried[rows, chosen], errors[rows, chosen]
    return k


def _mse(difference: Pictures) -> Float:
    return np.asarray(np.square(difference).mean(-1), np.float64)


def _moved(k: Integers, sign: int) -> Integers:
    return np.clip(k + sign, -K_MAX, K_MAX).astype(np.int32)


def _single_moves(k: Integers) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """k with one latent one up, then with one latent one down, (N, 2 A, A), and which of them are allowed, (N, 2 A)."""
    eye = np.eye(k.shape[1], dtype=np.int32)
    moved = k[:, None] + np.concatenate([eye, -eye])
    return np.clip(moved, -K_MAX, K_MAX), np.abs(moved).max(2) <= K_MAX


def _combine(k: Integers, error: Pictures, change: Pictures, *, extra: Float, cost: Cost) -> Integers:
    """The best 1, 2, ... TOGETHER moves if pictures were linear in them, (N, TOGETHER, A); greedy, one per latent."""
    count, latents = k.shape
    pixels, rows = error.shape[1], np.arange(count)
    gram = change @ change.transpose(0, 2, 1) / pixels  # (N, 2 A, 2 A)
    own = np.einsum("nii->ni", gram)
    slope = np.einsum("np,nip->ni", error, change) / pixels
    squares, extra, found = _mse(error), extra.copy(), []
    for _ in range(TOGETHER):
        predicted = squares[:, None] - 2 * slope + own
        move = (cost.distortion(predicted) + extra).argmin(1)
        squares, slope = predicted[rows, move], slope - gram[rows, move]
        latent = move % latents
        extra[rows, latent] = extra[rows, latent + latents] = _NEVER
        k = k.copy()
        k[rows, latent] += np.where(move < latents, 1, -1)
        found.append(np.clip(k, -K_MAX, K_MAX))
    return np.stack(found, 1).astype(np.int32)
