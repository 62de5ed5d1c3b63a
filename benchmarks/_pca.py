"""PCA, scalar quantisation and ANS: what a linear transform makes of digits with the same kind of entropy coder.

It is made as strong as it gets. The quantiser is entropy-constrained (Chou, Lookabaugh & Gray, "Entropy-constrained
vector quantization", 1989, one component at a time): the writer weighs bits against dB, tables are fitted to what it
chooses, and each symbol stands for the mean of the values that it is chosen for. The entropy model is a mixture of
products, as in the codec of digits: the writer names the cluster that makes a digit cheapest; every component then has
a table of its own in that cluster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from benchmarks._machine import require
from vaert.runtime.bitsback import Stack
from vaert.runtime.digits import mean_psnr
from vaert.tables import TOTAL
from vaert.trainer.digit_entropy import integer_tables

Digits = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.int32]
SPAN = 3000.0  # grey levels that symbols reach at least, to either side: five deviations of the first component
ROUNDS = 6  # of fitting
LEAST = 1e-2  # of a squared error, in squared levels
PRIOR_COUNT = 8.0  # digits by which a cluster's table is drawn to that of all digits
EVEN = 0.02  # digits that every symbol of a component is counted beforehand
CHUNK = 250  # digits that are quantised together
HELD_OUT = 1000  # digits on which settings are compared


@dataclass(frozen=True)
class Setting:
    """What is chosen by trial: components A, first step in grey levels, clusters K, bits that one dB is worth."""

    components: int
    step: float
    clusters: int
    slope: float

    @property
    def reach(self) -> int:
        """Symbols are -reach..reach."""
        return math.ceil(SPAN / self.step)


# Around the best of a wider search, likewise on digits held out of those that train.
SETTINGS = (
    Setting(80, 300, 1, 50),
    Setting(80, 300, 64, 50),
    Setting(80, 300, 128, 50),
    Setting(150, 170, 1, 100),
    Setting(150, 150, 64, 100),
)


@dataclass(frozen=True)
class Reached:
    """The least that reached a fidelity: words alone, without any container."""

    bytes_per_digit: float
    psnr_db: float  # mean over digits
    slope: float
    setting: Setting
    one_table_per_component: float | None  # bytes per digit of the best codec without clusters


@dataclass(frozen=True)
class PcaCodec:
    """Mean (784,), basis (A, 784), values of the symbols (A, S), and counts over 2^24: (K,) and (K, A, S)."""

    mean: Float
    basis: Float
    values: Float
    shares: npt.NDArray[np.uint32]
    tables: npt.NDArray[np.uint32]

    def quantise(self, digits: Digits, slope: float) -> tuple[Index, Index]:
        """Symbols (N, A) and clusters (N,) of digits (N, 28, 28)."""
        parts = [self._quantise(digits[i : i + CHUNK], slope) for i in range(0, len(digits), CHUNK)]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def _quantise(self, digits: Digits, slope: float) -> tuple[Index, Index]:
        """The least bits + slope * 10 log10(squared error) over all clusters, by a few rounds of its linear form."""
        centred = digits.reshape(len(digits), -1) - self.mean
        wanted = centred @ self.basis.T
        beyond = np.square(centred).sum(1) - np.square(wanted).sum(1)  # what no component holds
        squares = np.square(wanted[:, :, None] - self.values)  # (N, A, S)
        error = beyond + squares.min(2).sum(1)
        best = np.zeros(wanted.shape, np.int32), np.zeros(len(digits), np.int32)
        for _ in range(3):
            weight = slope * 10 / math.log(10) / (error + LEAST)
            best = self._cheapest((squares * weight[:, None, None]).astype(np.float32))
            error = beyond + np.take_along_axis(squares, best[0][..., None], 2)[..., 0].sum(1)
        return best

    def _cheapest(self, loss: npt.NDArray[np.float32]) -> tuple[Index, Index]:
        """Symbols and clusters of least bits + loss, (N, A, S)."""
        shares, tables = (24 - np.log2(counts.astype(np.float32)) for counts in (self.shares, self.tables))
        least = np.full(len(loss), np.inf)
        symbols, clusters = np.zeros(loss.shape[:2], np.int32), np.zeros(len(loss), np.int32)
        for number, (share, bits) in enumerate(zip(shares, tables, strict=True)):
            total = loss + bits
            chosen = total.argmin(2)
            value = share + np.take_along_axis(total, chosen[..., None], 2)[..., 0].sum(1)
            rows = np.flatnonzero(value < least)
            least[rows], symbols[rows], clusters[rows] = value[rows], chosen[rows], number
        return symbols, clusters

    def render(self, symbols: Index) -> Digits:
        """Digits (N, 28, 28) of symbols (N, A)."""
        coefficients = self.values[np.arange(symbols.shape[1]), symbols]
        pixels = np.clip(np.rint(self.mean + coefficients @ self.basis), 0, 255)
        return np.asarray(pixels.reshape(len(symbols), 28, 28), np.uint8)

    def encode(self, symbols: Index, clusters: Index) -> bytes:
        """ANS words, decoded again to see that they hold everything."""
        count, components = symbols.shape
        flat = self.tables.reshape(-1, self.tables.shape[2])
        table = lru_cache(maxsize=None)(lambda row: _categorical(flat[row]))
        share = lru_cache(maxsize=None)(lambda _: _categorical(self.shares))
        rows = (clusters[:, None] * components + np.arange(components)).ravel()
        stack, zeros = Stack(), np.zeros(count, np.int32)
        stack.push(symbols.ravel(), rows, table)
        if len(self.shares) > 1:
            stack.push(clusters, zeros, share)
        words = stack.words()
        again = Stack(words)
        if len(self.shares) > 1:
            require(np.array_equal(again.pop(zeros, share), clusters), "PCA: clusters changed")
        require(np.array_equal(again.pop(rows, table), symbols.ravel()) and again.empty, "PCA: symbols changed")
        return words


def best(train: Digits, digits: Digits, targets: tuple[float, ...], settings: tuple[Setting, ...]) -> list[Reached]:
    """For each target the setting that does best on the last of the training digits, fitted to all, on `digits`.

    Stops where no setting reaches a target.
    """
    tried = [(setting, fit(train[:-HELD_OUT], setting)) for setting in settings]
    final: dict[Setting, PcaCodec] = {}
    found = []
    for target in targets:
        scores = {setting: _least(codec, train[-HELD_OUT:], target, setting) for setting, codec in tried}
        rows = []
        for plain in (False, True):  # any, or without clusters
            chosen = min((s for s in scores if not plain or s.clusters == 1), key=lambda s: scores[s].bytes_per_digit)
            final[chosen] = final.get(chosen) or fit(train, chosen)
            rows.append(_least(final[chosen], digits, target, chosen))
            require(rows[-1].psnr_db >= target, f"PCA: no setting reaches {target} dB")
        found.append(replace(rows[0], one_table_per_component=rows[1].bytes_per_digit))
    return found


def _least(codec: PcaCodec, digits: Digits, target: float, setting: Setting) -> Reached:
    """The smallest slope at which the mean PSNR is at least `target`, to 2 %; inf bytes if there is none."""
    low, high = setting.slope / 16, setting.slope * 16
    reached, middle = Reached(math.inf, 0.0, 0.0, setting, None), high
    while high / low > 1.02:
        symbols, clusters = codec.quantise(digits, middle)
        fidelity = mean_psnr(digits, codec.render(symbols))
        if fidelity < target and middle == high:
            break
        if fidelity < target:
            low = middle
        else:
            high, size = middle, len(codec.encode(symbols, clusters))
            reached = Reached(round(size / len(digits), 3), round(fidelity, 4), round(middle, 3), setting, None)
        middle = math.sqrt(low * high)
    return reached


def fit(digits: Digits, setting: Setting) -> PcaCodec:
    """A codec for digits (N, 28, 28): basis, values and tables, all from these digits."""
    flat, reach = digits.reshape(len(digits), -1).astype(np.float64), setting.reach
    mean = flat.mean(0)
    basis = np.linalg.eigh(np.cov(flat.T))[1].T[::-1][: setting.components]
    wanted = (flat - mean) @ basis.T
    values = np.tile(setting.step * np.arange(-reach, reach + 1.0), (setting.components, 1))
    symbols = np.clip(np.rint(wanted / setting.step), -reach, reach).astype(np.int32) + reach
    clusters = _seeds(wanted, setting.clusters)
    codec = PcaCodec(mean, basis, values, *_tables(symbols, clusters, setting))
    for _ in range(ROUNDS):
        symbols, clusters = codec.quantise(digits, setting.slope)
        shares, tables = _tables(symbols, clusters, setting)
        codec = replace(codec, values=_centroids(wanted, symbols, codec.values), shares=shares, tables=tables)
    return codec


def _seeds(wanted: Float, clusters: int) -> Index:
    """A first cluster for each digit: k-means on the components from random digits."""
    centres = wanted[np.random.default_rng(0).choice(len(wanted), clusters, replace=False)]
    for _ in range(8):
        nearest = (np.square(centres).sum(1) - 2 * wanted @ centres.T).argmin(1)
        member = np.eye(clusters)[nearest]
        centres = (member.T @ wanted + centres) / (member.sum(0)[:, None] + 1)
    return np.asarray(nearest, np.int32)


def _tables(symbols: Index, clusters: Index, setting: Setting) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Counts of clusters (K,) and, in each, of every component's symbols (K, A, S)."""
    count = setting.clusters
    hits = np.zeros((count, symbols.shape[1], 2 * setting.reach + 1))
    np.add.at(hits, (clusters[:, None], np.arange(symbols.shape[1]), symbols), 1)
    overall = hits.sum(0) + EVEN
    hits += PRIOR_COUNT * overall / overall.sum(-1, keepdims=True)
    share: Float = np.bincount(clusters, minlength=count) + np.float64(0.5)
    return integer_tables(share) if count > 1 else np.array([TOTAL], np.uint32), integer_tables(hits)


def _centroids(wanted: Float, symbols: Index, values: Float) -> Float:
    """Mean of what each symbol was chosen for, (A, S), drawn to the value that it has by one digit."""
    total, hits = values.copy(), np.ones(values.shape)
    places = np.broadcast_to(np.arange(symbols.shape[1]), symbols.shape), symbols
    np.add.at(total, places, wanted)
    np.add.at(hits, places, 1)
    return np.asarray(total / hits)


def _categorical(counts: npt.NDArray[np.uint32]) -> Any:
    return constriction.stream.model.Categorical(counts / TOTAL, perfect=True)
