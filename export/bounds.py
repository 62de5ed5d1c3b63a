"""Proof, from the weights, that float32 carries the prior's integers exactly: no sum can reach 2^24."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vaert.errors import ModelError
from vaert.trainer.models.codec import HYPER_MAX
from vaert.trainer.models.prior import CONTEXT_MAX, HIDDEN_MAX, IntegerLayer

LIMIT = 1 << 24  # float32 holds every integer below it
OPERAND_LIMIT = 1 << 11  # TF32 and FP16 tensor cores hold every integer up to it

# What each layer may be fed, by its place in the prior.
INPUT_MAX = {
    "h1": HYPER_MAX,
    "h2": HIDDEN_MAX,
    "a0": HIDDEN_MAX,
    "o0": HIDDEN_MAX,
    "near": CONTEXT_MAX,
    "a1": HIDDEN_MAX,
    "o1": HIDDEN_MAX,
}


@dataclass(frozen=True)
class Bound:
    """The largest absolute sum that any row of a layer can reach, in any order of summation."""

    layer: str
    largest: int


def row_sums(layer: IntegerLayer, input_max: int) -> npt.NDArray[np.int64]:
    """sum |w| * input_max + |bias| per output, int64 (out,)."""
    weights = np.abs(layer.weight.astype(np.int64)).sum(1)
    return np.asarray(weights * input_max + np.abs(layer.bias.astype(np.int64)), np.int64)


def prove(layers: Mapping[str, IntegerLayer]) -> tuple[Bound, ...]:
    """Check every row of every layer; ModelError names the first that breaks the bound."""
    bounds = []
    for name, layer in layers.items():
        sums = row_sums(layer, INPUT_MAX[name])
        row = int(sums.argmax())
        operand = max(INPUT_MAX[name], int(np.abs(layer.weight.astype(np.int64)).max()))
        if sums[row] >= LIMIT or operand > OPERAND_LIMIT:
            raise ModelError(
                f"prior layer {name}, row {row}: sums can reach {int(sums[row])} with operands up to {operand}; "
                f"float32 is exact only below {LIMIT} and {OPERAND_LIMIT}; train with smaller weights or fewer inputs"
            )
        bounds.append(Bound(name, int(sums[row])))
    return tuple(bounds)
