"""What a lossless model ships beside its networks: order of the pixels, their decisions, probabilities. numpy only."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vaert.errors import ModelError
from vaert.tables import TOTAL, Table

VALUES = 256
Index = npt.NDArray[np.int32]
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Pass:
    """Pixels that are coded together, as indices into the flat picture."""

    pixels: Index  # (P,)
    cells: Index  # (P,), the cell of features that each pixel takes
    neighbours: Index  # (P, K), pixels of earlier passes around each; the number of pixels stands for one outside


@dataclass(frozen=True)
class Tree:
    """Decisions that lead to a pixel value.

    children: (nodes, 2), what follows answer 0 and answer 1: a later node, or -1 - leaf. leaves: (leaves, 2), first
    value and how many there are; where there are several, the leaf's table has the last word.
    """

    children: Index
    leaves: Index

    def answers(self) -> tuple[npt.NDArray[np.int8], Index]:
        """What each value answers, (256, nodes), 0, 1 or -1 (not asked), and the leaf it ends in, or -1, (256,)."""
        answers, ends = np.full((VALUES, len(self.children)), -1, np.int8), np.full(VALUES, -1, np.int32)
        above = {int(child): (node, bit) for node, pair in enumerate(self.children) for bit, child in enumerate(pair)}
        for leaf, (first, count) in enumerate(self.leaves):
            values, at = slice(int(first), int(first + count)), -1 - leaf
            ends[values] = leaf
            while at != 0:
                node, bit = above[at]
                answers[values, node], at = bit, node
        return answers, ends


@dataclass(frozen=True)
class LosslessTables:
    """Tables are integers over 2^24.

    prior: (Z,), latents -(Z // 2)..Z // 2. posterior: (spreads, O), distances -(O // 2)..O // 2 of a latent from its
    mean. decision: (logits, 2), answers 0 and 1. leaves: one table per leaf of the tree,
    of one entry where it has one value.
    """

    passes: tuple[Pass, ...]
    tree: Tree
    prior: Table
    posterior: Table
    decision: Table
    leaves: tuple[Table, ...]

    def arrays(self) -> Arrays:
        """The arrays as they are stored; `leaf_tables` is concatenated, `tree_leaves` says where to cut."""
        arrays: Arrays = {
            "tree_children": self.tree.children,
            "tree_leaves": self.tree.leaves,
            "prior": self.prior,
            "posterior": self.posterior,
            "decision": self.decision,
            "leaf_tables": np.concatenate(self.leaves),
        }
        for k, one in enumerate(self.passes):
            arrays |= {
                f"pass{k}_pixels": one.pixels,
                f"pass{k}_cells": one.cells,
                f"pass{k}_neighbours": one.neighbours,
            }
        return arrays

    def to_bytes(self) -> bytes:
        """A compressed .npz."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **self.arrays())
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> LosslessTables:
        """Read what `to_bytes` wrote; ModelError if an order, a tree or a table cannot be one."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as raw:
                arrays = {name: raw[name] for name in raw.files}
            tables = _from_arrays(arrays)
            problem = _problem(tables)
        except (KeyError, ValueError, IndexError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ModelError(f"tables.npz is damaged ({error}); install the package again") from error
        if problem:
            raise ModelError(f"tables.npz holds {problem}; install the package again")
        return tables


def _from_arrays(arrays: Arrays) -> LosslessTables:
    count = sum(name.endswith("_pixels") for name in arrays)
    leaves = arrays["tree_leaves"]
    return LosslessTables(
        passes=tuple(Pass(*(arrays[f"pass{k}_{n}"] for n in ("pixels", "cells", "neighbours"))) for k in range(count)),
        tree=Tree(arrays["tree_children"], leaves),
        prior=arrays["prior"],
        posterior=arrays["posterior"],
        decision=arrays["decision"],
        leaves=tuple(np.split(arrays["leaf_tables"], np.cumsum(leaves[:, 1])[:-1])),
    )


def _problem(tables: LosslessTables) -> str:
    """What cannot be right, or an empty string."""
    odd = [tables.prior.ndim == 1, tables.posterior.ndim == 2, len(tables.prior) % 2, tables.posterior.shape[-1] % 2]
    if not all(odd) or tables.decision.shape[1:] != (2,):
        return "tables of other shapes than latents, their distances and decisions have"
    every: Iterable[Table] = (tables.prior, *tables.posterior, *tables.decision, *tables.leaves)
    if any(int(t.min()) < 1 or int(t.sum(dtype=np.int64)) != TOTAL for t in every):
        return "a table that does not sum to 2^24"
    children, leaves = tables.tree.children, tables.tree.leaves
    nodes = np.arange(len(children))[:, None]
    inner = children >= 0
    if (inner & ((children <= nodes) | (children >= len(children)))).any():
        return "a decision that does not lead to a later one"
    if sorted(children[~inner]) != list(range(-len(leaves), 0)) or sorted(children[inner]) != list(nodes[1:, 0]):
        return "a decision tree with loose ends"
    if (leaves < [0, 1]).any() or (leaves.sum(1) > VALUES).any():
        return "a leaf with values outside 0..255"
    known = np.zeros(sum(len(one.pixels) for one in tables.passes) + 1, bool)
    known[-1] = True
    for one in tables.passes:
        if not known[one.neighbours].all() or known[one.pixels].any():
            return "a pass that sees pixels before they are coded"
        known[one.pixels] = True
    return "" if known.all() else "passes that leave pixels out"
