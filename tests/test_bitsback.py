"""The stack of bits-back coding: what is popped can be pushed back, whatever lies there; damage is found."""

from __future__ import annotations

import io
from typing import Any

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaert.errors import BitstreamError, ModelError
from vaert.lossless_tables import LosslessTables, Pass, Tree
from vaert.runtime.bitsback import BitsBack, Stack
from vaert.tables import TOTAL

Array = np.ndarray[Any, np.dtype[Any]]


def tables(seed: int = 0) -> LosslessTables:
    """Four pixels in two passes; values 0, 1..4 and 255; three latents' tables, all of them uneven."""
    rng = np.random.default_rng(seed)

    def table(size: int) -> Array:
        k = rng.integers(1, TOTAL // size, size)
        k[-1] += TOTAL - k.sum()
        return k.astype(np.uint32)

    def index(*values: Any) -> Array:
        return np.array(values, np.int32)

    first = Pass(index(0, 3), index(0, 0), np.zeros((2, 0), np.int32))
    second = Pass(index(1, 2), index(0, 0), index([0, 3], [3, 4]))
    tree = Tree(index([-1, 1], [-2, -3]), index([0, 1], [1, 4], [255, 1]))
    leaves = (np.array([TOTAL], np.uint32), table(4), np.array([TOTAL], np.uint32))
    posterior, decision = np.stack([table(5), table(5)]), np.stack([table(2) for _ in range(3)])
    return LosslessTables((first, second), tree, table(9), posterior, decision, leaves)


def test_tables_come_back_from_bytes() -> None:
    made = tables()
    again = LosslessTables.from_bytes(made.to_bytes())
    assert made.arrays().keys() == again.arrays().keys()
    assert all(np.array_equal(array, again.arrays()[name]) for name, array in made.arrays().items())


def test_answers_lead_to_each_leaf() -> None:
    answers, ends = tables().tree.answers()
    assert answers[[0, 1, 4, 255]].tolist() == [[0, -1], [1, 0], [1, 0], [1, 1]]
    assert ends[[0, 1, 4, 5, 254, 255]].tolist() == [0, 1, 1, -1, -1, 2]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("prior", np.array([1, 1, TOTAL - 3], np.uint32), "does not sum to 2\\^24"),
        ("tree_children", np.array([[-1, 0], [-2, -3]], np.int32), "does not lead to a later one"),
        ("tree_children", np.array([[-1, 1], [-2, -2]], np.int32), "loose ends"),
        ("tree_leaves", np.array([[0, 1], [1, 4], [255, 2]], np.int32), "damaged|outside 0..255"),
        ("pass0_pixels", np.array([0, 1], np.int32), "sees pixels before they are coded"),
        ("pass1_neighbours", np.array([[0, 3], [1, 4]], np.int32), "sees pixels before they are coded"),
        ("pass1_neighbours", np.array([[0, 3], [3, 9]], np.int32), "damaged"),
        ("decision", np.array([TOTAL], np.uint32), "tables of other shapes"),
        ("posterior", np.array([TOTAL], np.uint32), "tables of other shapes"),
    ],
)
def test_tables_that_cannot_be_right_are_refused(name: str, value: Array, message: str) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **(tables().arrays() | {name: value}))
    with pytest.raises(ModelError, match=message):
        LosslessTables.from_bytes(buffer.getvalue())


def test_cut_tables_are_refused() -> None:
    with pytest.raises(ModelError, match=r"tables.npz is damaged"):
        LosslessTables.from_bytes(tables().to_bytes()[:-30])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), start=st.integers(0, 40), rounds=st.integers(1, 6))
def test_popping_and_pushing_back_leaves_the_stack_as_it_was(seed: int, start: int, rounds: int) -> None:
    """With as few bits as there may be: popping from an empty stack must be taken back as well."""
    rng, coder, stack = np.random.default_rng(seed), BitsBack(tables(seed)), Stack()
    coder.push_prior(stack, rng.integers(-4, 5, start).astype(np.int32))
    before, taken = stack.words(), []
    for _ in range(rounds):
        count = int(rng.integers(1, 30))
        mean, spread = rng.integers(-3, 4, count).astype(np.int32), rng.integers(0, 2, count).astype(np.uint8)
        taken.append((coder.pop_posterior(stack, mean, spread), mean, spread))
    for z, mean, spread in reversed(taken):
        assert np.abs(z - mean).max() <= 2
        coder.push_posterior(stack, z, mean=mean, spread=spread)
    assert stack.words() == before


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 200))
def test_pixels_come_back(seed: int, count: int) -> None:
    rng, coder, stack = np.random.default_rng(seed), BitsBack(tables(seed)), Stack()
    values = rng.choice(np.array([0, 0, 0, 1, 2, 3, 4, 255], np.uint8), count)
    index = rng.integers(0, 3, (count, 2)).astype(np.uint8)
    coder.push_prior(stack, np.array([3, -4], np.int32))
    before = stack.words()
    coder.push_pixels(stack, values, index)
    assert np.array_equal(coder.pop_pixels(stack, index), values)
    assert stack.words() == before


def test_pixels_cost_what_the_tables_say() -> None:
    made, stack = tables(), Stack()
    coder, count = BitsBack(made), 2000
    values = np.random.default_rng(1).choice(np.array([0, 1, 2, 3, 4, 255], np.uint8), count)
    index = np.random.default_rng(2).integers(0, 3, (count, 2)).astype(np.uint8)
    coder.push_pixels(stack, values, index)
    bits = 24 - np.log2(made.decision[index[:, 0], (values > 0).astype(int)]).sum() / count
    on = values > 0
    bits += (24 - np.log2(made.decision[index[on, 1], (values[on] == 255).astype(int)])).sum() / count
    inner = values[(values > 0) & (values < 255)]
    bits += (24 - np.log2(made.leaves[1][inner - 1])).sum() / count
    assert len(stack.words()) * 8 == pytest.approx(bits * count, rel=0.005)


def test_tables_reach_the_coder_unchanged() -> None:
    table = tables().prior
    model = constriction.stream.model.Categorical(table / TOTAL, perfect=True)
    symbols = np.random.default_rng(0).integers(0, len(table), 500).astype(np.int32)
    plain = constriction.stream.stack.AnsCoder()
    plain.encode_reverse(symbols, model)
    stack = Stack()
    BitsBack(tables()).push_prior(stack, symbols - 4)
    assert stack.words() == plain.get_compressed().astype("<u4").tobytes()


def test_a_latent_beyond_the_table_is_damage() -> None:
    mean, spread = np.zeros(1, np.int32), np.zeros(1, np.uint8)
    with pytest.raises(BitstreamError, match="not one that the encoder could have drawn"):
        BitsBack(tables()).push_posterior(Stack(), np.array([3], np.int32), mean=mean, spread=spread)


def test_words_that_the_coder_never_writes_are_refused() -> None:
    with pytest.raises(BitstreamError, match="zero word"):
        Stack(b"\1\0\0\0\0\0\0\0")


def test_which_values_can_be_coded() -> None:
    coder = BitsBack(tables())
    assert coder.can_code(np.array([0, 4, 255], np.uint8))
    assert not coder.can_code(np.array([0, 5], np.uint8))
