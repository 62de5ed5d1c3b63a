"""The stack of bits-back coding, and how latents and pixels go onto it and come off again.

ANS codes like a stack: what is pushed last is popped first, and popping symbols that nobody pushed turns bits that lie
there into a sample, from which the same push gets the bits back (Townsend, Bird & Barber, "Practical lossless
compression with latent variables using bits back coding", ICLR 2019). Symbols are grouped by table, since a table per
symbol is slow. An empty stack gives each table's first symbol, and taking that back leaves it empty: bits may run out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from vaert.errors import BitstreamError
from vaert.lossless_tables import LosslessTables
from vaert.tables import TOTAL, Table

Symbols = npt.NDArray[np.int32]
Rows = npt.NDArray[np.integer]  # which table of a family codes each symbol
Model = Callable[[int], Any]  # table of a family by row, for the coder


class Stack:
    """ANS coder whose symbols come with a row each, the table that codes them. Made from words, or empty."""

    def __init__(self, words: bytes = b"") -> None:
        array = np.frombuffer(words, "<u4").astype(np.uint32)
        if len(array) and array[-1] == 0:  # the coder never ends with a zero word, and refuses one
            raise BitstreamError("damaged digits: the entropy-coded data ends with a zero word")
        self._coder: Any = constriction.stream.stack.AnsCoder(array)

    @property
    def empty(self) -> bool:
        """Whether nothing is left."""
        return bool(self._coder.is_empty())

    def words(self) -> bytes:
        """All that is on the stack, in little-endian words of 4 bytes."""
        data: bytes = self._coder.get_compressed().astype("<u4", copy=False).tobytes()
        return data

    def pop(self, rows: Rows, model: Model) -> Symbols:
        """Take one symbol per row off, (n,)."""
        symbols = np.empty(len(rows), np.int32)
        for row, places in _groups(rows):
            symbols[places] = self._coder.decode(model(row), len(places))
        return symbols

    def push(self, symbols: Symbols, rows: Rows, model: Model) -> None:
        """Undo `pop`: put the symbols back that it would give for these rows."""
        for row, places in reversed(_groups(rows)):
            self._coder.encode_reverse(symbols[places], model(row))


def _groups(rows: Rows) -> list[tuple[int, npt.NDArray[np.intp]]]:
    """Each row that occurs, ascending, with its places, ascending."""
    order = np.argsort(rows, kind="stable")
    ends = np.cumsum(np.bincount(rows)) if len(rows) else np.zeros(0, np.intp)
    starts = np.concatenate([[0], ends[:-1]])
    return [(int(row), order[starts[row] : ends[row]]) for row in np.flatnonzero(ends > starts)]


@dataclass(frozen=True)
class _Step:
    """Symbols that are coded at once: what `Stack.push` needs."""

    symbols: Symbols
    rows: Rows
    model: Model


class BitsBack:
    """Moves latents and pixels between arrays and a `Stack`, with the tables of one model."""

    def __init__(self, tables: LosslessTables) -> None:
        self._tree = tables.tree
        self._answers, ends = tables.tree.answers()
        self._known = ends >= 0
        self._prior = _family(tables.prior[None])
        self._posterior, self._decision = _family(tables.posterior), _family(tables.decision)
        self._leaf = _family(tables.leaves)
        self._latent_max, self._offset_max = len(tables.prior) // 2, tables.posterior.shape[1] // 2

    def can_code(self, values: npt.NDArray[np.uint8]) -> bool:
        """Whether the model knows all these pixel values."""
        return bool(self._known[values].all())

    def pop_prior(self, stack: Stack, count: int) -> Symbols:
        """Latents from p(z), (count,)."""
        return stack.pop(np.zeros(count, np.uint8), self._prior) - np.int32(self._latent_max)

    def push_prior(self, stack: Stack, z: Symbols) -> None:
        """Undo `pop_prior`."""
        stack.push(z + np.int32(self._latent_max), np.zeros(len(z), np.uint8), self._prior)

    def pop_posterior(self, stack: Stack, mean: Symbols, spread: Rows) -> Symbols:
        """Latents from q(z | x), (n,): a sample, made of the bits on the stack."""
        return stack.pop(spread, self._posterior) - np.int32(self._offset_max) + mean

    def push_posterior(self, stack: Stack, z: Symbols, *, mean: Symbols, spread: Rows) -> None:
        """Undo `pop_posterior`. BitstreamError if it cannot have given these latents."""
        offset = z - mean
        if len(offset) and int(np.abs(offset).max()) > self._offset_max:
            raise BitstreamError("damaged digits: a latent is not one that the encoder could have drawn")
        stack.push(offset + np.int32(self._offset_max), spread, self._posterior)

    def pop_pixels(self, stack: Stack, index: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Pixels, (n,), from the logit index of each decision, (n, nodes)."""
        return self._walk(index, lambda rows, model, _: stack.pop(rows, model))

    def push_pixels(self, stack: Stack, values: npt.NDArray[np.uint8], index: npt.NDArray[np.uint8]) -> None:
        """Undo `pop_pixels`."""
        steps: list[_Step] = []

        def take(rows: Rows, model: Model, at: tuple[npt.NDArray[np.intp], Rows]) -> Symbols:
            pixels, node = at
            if model is self._leaf:
                symbols = values[pixels] - self._tree.leaves[rows, 0]
            else:
                symbols = self._answers[values[pixels], node].astype(np.int32)
            steps.append(_Step(symbols.astype(np.int32, copy=False), rows, model))
            return steps[-1].symbols

        self._walk(index, take)
        for step in reversed(steps):
            stack.push(step.symbols, step.rows, step.model)

    def _walk(
        self,
        index: npt.NDArray[np.uint8],
        take: Callable[[Rows, Model, tuple[npt.NDArray[np.intp], Rows]], Symbols],
    ) -> npt.NDArray[np.uint8]:
        """Lead every pixel down the tree, all of them one decision at a time; `take` answers."""
        at = np.zeros(len(index), np.int32)
        active = np.arange(len(index))
        while len(active):
            node = at[active]
            at[active] = self._tree.children[node, take(index[active, node], self._decision, (active, node))]
            active = active[at[active] >= 0]
        leaf = -1 - at
        first, count = self._tree.leaves.T
        values, several = first[leaf], np.flatnonzero(count[leaf] > 1)
        values[several] += take(leaf[several], self._leaf, (several, leaf[several]))
        return np.asarray(values, np.uint8)


def _family(tables: Table | tuple[Table, ...]) -> Model:
    """A model for the coder by row, made when first used."""

    def make(row: int) -> Any:
        return constriction.stream.model.Categorical(tables[row] / TOTAL, perfect=True)

    return lru_cache(maxsize=None)(make)
