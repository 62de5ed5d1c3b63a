"""The entropy coder: round trips, golden words, shipped tables as the coder sees them, and every kind of damage."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaert.bitstream import zigzag_encode
from vaert.errors import BitstreamError
from vaert.package import CODEC, bundled_models, find_package
from vaert.runtime.aside import Aside
from vaert.runtime.entropy import (
    WORTH_A_THREAD,
    Coded,
    EntropyCoder,
    Residuals,
    _grouped,
    _grouped_by_two,
)
from vaert.tables import TOTAL, Table, Tables

Array = np.ndarray[Any, np.dtype[Any]]


def table(*weights: int) -> Table:
    """Integers in proportion to the weights, the last one takes what is left of 2^24."""
    k = np.array(weights, np.uint64) * (TOTAL // sum(weights))
    k[-1] += TOTAL - int(k.sum())
    return k.astype(np.uint32)


@cache
def small_coder() -> EntropyCoder:
    """Three hyper channels; scale tables that reach to 1, 2 and 3, spread differently."""
    wide = np.arange(1, 256)
    hyper = np.stack([table(*wide), table(*wide[::-1]), table(*([1] * 255))])
    scale = (table(1, 8, 1, 1), table(1, 5, 9, 5, 1, 2), table(1, 2, 3, 4, 3, 2, 1, 1))
    gains = np.zeros((2, 3), np.float32)
    return EntropyCoder(Tables(hyper, scale, gains, gains))


@cache
def shipped() -> Tables:
    return find_package("fast").tables()


def half(values: list[int] | Array, index: list[int] | Array) -> Residuals:
    return Residuals(np.array(values, np.int32), np.array(index, np.uint8))


def decoded(coder: EntropyCoder, coded: Coded, *index: Array) -> list[Array]:
    decoder = coder.decoder(coded)
    found: list[Array] = [decoder.half(i) for i in index]
    decoder.finish()
    return found


def check_round_trip(coder: EntropyCoder, halves: list[Residuals]) -> Coded:
    coded = coder.encode(halves)
    for found, one in zip(decoded(coder, coded, *(h.index for h in halves)), halves, strict=True):
        assert found.dtype == np.int32
        assert np.array_equal(found, one.values)
    return coded


VALUES = st.one_of(st.integers(-4, 4), st.sampled_from([-(2**15), 2**15, 1040, -1041]), st.integers(-(2**15), 2**15))
PAIRS = st.lists(st.tuples(VALUES, st.integers(0, 3)), max_size=60)


def halves_of(pairs: list[tuple[int, int]]) -> Residuals:
    """Where the index is 0 there is no residual."""
    return half([v if i else 0 for v, i in pairs], [i for _, i in pairs])


@given(anchors=PAIRS, rest=PAIRS)
@settings(deadline=None)
def test_any_residuals_round_trip(anchors: list[tuple[int, int]], rest: list[tuple[int, int]]) -> None:
    halves = [halves_of(anchors), halves_of(rest)]
    coded = check_round_trip(small_coder(), halves)
    bits = sum(small_coder().bits(h) for h in halves)
    assert abs(8 * (len(coded.words) + len(coded.escapes)) - bits) <= 8 * 8  # the coder's state: one or two words


@given(st.integers(0, 2**32 - 1), st.integers(1, 400))
@settings(deadline=None, max_examples=25)
def test_residuals_round_trip_through_the_shipped_tables(seed: int, count: int) -> None:
    rng, coder = np.random.default_rng(seed), EntropyCoder(shipped())
    index = rng.integers(0, 64, count)
    values = np.rint(rng.standard_t(2, count) * np.exp(index / 9)).clip(-(2**15), 2**15) * (index > 0)
    check_round_trip(coder, [half(values, index), half(values[::-1], index[::-1])])


def test_nothing_coded() -> None:
    zero = half([0] * 8, [0] * 8)
    coded = check_round_trip(small_coder(), [zero, zero])
    assert coded == Coded(b"", b"", zlib.crc32(bytes(64)))
    assert small_coder().bits(zero) == 0
    assert check_round_trip(small_coder(), [half([], []), half([], [])]) == Coded(b"", b"", 0)


def test_extreme_residuals_are_escaped_in_raster_order() -> None:
    anchors, rest = half([2**15, 0, -(2**15), 3], [3, 0, 1, 2]), half([-4, 2], [3, 1])
    coded = check_round_trip(small_coder(), [anchors, rest])
    assert coded.escapes == zigzag_encode(np.array([2**15, -(2**15), 3, -4, 2]))


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_hyper_latents_round_trip(seed: int, height: int, width: int) -> None:
    z = np.random.default_rng(seed).integers(-127, 128, (height, width, 3)).astype(np.int8)
    coder = small_coder()
    coded = coder.encode_hyper(z)
    found = coder.decode_hyper(coded.words, coded.symbol_crc, z.shape)
    assert found.dtype == np.int8
    assert np.array_equal(found, z)
    assert abs(8 * len(coded.words) - coder.hyper_bits(z)) <= 64


GOLDEN_HYPER = "dc43fa1cc0911e28630100b4d5cc0f01"
GOLDEN_WORDS = "bff2e3cd802fe55f1c000000"


def test_golden_words() -> None:
    """Files in the wild are decoded for ever: neither the coder nor the order of symbols may drift."""
    coder = small_coder()
    z = np.array([[[-127, 0, 127], [5, -6, 7]], [[1, 2, 3], [-40, 90, -3]]], np.int8)
    assert coder.encode_hyper(z) == Coded(bytes.fromhex(GOLDEN_HYPER), b"", 0xC585386A)
    anchors = half([1, 0, -1, 2, -3, 70, 0, 0, -2, 1], [1, 1, 2, 2, 3, 3, 0, 1, 2, 3])
    rest = half([0, 0, 3, -(2**15), 0, -1, 2, 0, -2, -1], [2, 3, 3, 1, 0, 2, 2, 1, 3, 1])
    assert coder.encode([anchors, rest]) == Coded(bytes.fromhex(GOLDEN_WORDS), bytes.fromhex("8c01ffff03"), 0xC84867DF)


def read_back(entries: Table) -> Table:
    """The integers that constriction's coder uses for a table, found without trusting the model's constructor.

    A coder whose 64-bit state is (1 << 32 | q) decodes the symbol whose interval holds quantile q and keeps
    (state >> 24) * k + (q - start of the interval) as its state: two quantiles at the ends of an interval give k.
    """
    model = constriction.stream.model.Categorical(entries / TOTAL, perfect=True)
    starts = np.concatenate([[0], np.cumsum(entries.astype(np.int64))])
    found = []
    for symbol in range(len(entries)):
        first, last = int(starts[symbol]), int(starts[symbol + 1]) - 1
        assert decode_quantile(model, first) == symbol
        assert decode_quantile(model, last) == symbol
        found.append(last - first + 1)
    return np.array(found, np.uint32)


def decode_quantile(model: Any, quantile: int) -> int:
    coder = constriction.stream.stack.AnsCoder(np.array([quantile, 1], np.uint32))
    return int(coder.decode(model))


@pytest.mark.parametrize("name", [name for name in bundled_models() if find_package(name).manifest.kind == CODEC])
def test_shipped_tables_are_read_back_exactly(name: str) -> None:
    tables = find_package(name).tables()
    assert len(tables.scale) == 63
    hyper = list(tables.hyper)[:: max(1, len(tables.hyper) // 8)]
    for entries in (*hyper, *tables.scale[:40:3], *tables.scale[40::8], tables.scale[-1]):
        assert entries.dtype == np.uint32
        assert int(entries.sum(dtype=np.int64)) == TOTAL
        assert np.array_equal(read_back(entries), entries)


def test_bits_are_the_coded_size() -> None:
    rng, coder = np.random.default_rng(3), EntropyCoder(shipped())
    index = rng.integers(0, 64, 20_000)
    scale = 0.11 * (200 / 0.11) ** (index / 63)
    values = np.rint(rng.normal(0, 1, index.size) * scale) * (index > 0)
    values[::997] = np.where(index[::997], 9000, 0)
    halves = [half(values[:9000], index[:9000]), half(values[9000:], index[9000:])]
    coded = check_round_trip(coder, halves)
    assert coded.escapes
    assert len(coded.words) + len(coded.escapes) == pytest.approx(sum(map(coder.bits, halves)) / 8, abs=16)


@cache
def sample() -> tuple[Coded, tuple[Array, Array]]:
    rng = np.random.default_rng(1)
    index = rng.integers(0, 4, (2, 200)).astype(np.uint8)
    values = rng.integers(-5, 6, (2, 200)) * (index > 0)
    halves = [half(v, i) for v, i in zip(values, index, strict=True)]
    return small_coder().encode(halves), (halves[0].index, halves[1].index)


def words_changed(words: bytes, at: int, value: int) -> bytes:
    array = np.frombuffer(words, "<u4").copy()
    array[at] = value
    return array.tobytes()


DAMAGE: dict[str, tuple[Callable[[Coded], Coded], str]] = {
    "zero word": (lambda c: replace(c, words=words_changed(c.words, -1, 0)), "ends with a zero word"),
    "escape missing": (lambda c: replace(c, escapes=c.escapes[:-1]), "fewer escape values than escape symbols"),
    "escape added": (lambda c: replace(c, escapes=c.escapes + b"\x07"), "more escape values than escape symbols"),
    "escape cut": (lambda c: replace(c, escapes=c.escapes + b"\x87"), "end inside a value"),
    "escape padded": (lambda c: replace(c, escapes=c.escapes[:-1] + b"\x87\x00"), "longer than it needs to be"),
    "escape too large": (
        lambda c: replace(c, escapes=zigzag_encode(np.array([2**15 + 1])) + c.escapes[1:]),
        "outside",
    ),
    "escape changed": (lambda c: replace(c, escapes=bytes([c.escapes[0] ^ 2]) + c.escapes[1:]), "CRC"),
    "wrong CRC": (lambda c: replace(c, symbol_crc=c.symbol_crc ^ 1), "CRC"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_each_damage_has_its_error(name: str) -> None:
    coded, index = sample()
    damage, text = DAMAGE[name]
    with pytest.raises(BitstreamError, match=text):
        decoded(small_coder(), damage(coded), *index)


def test_words_that_nobody_asks_for_are_noticed() -> None:
    rng = np.random.default_rng(2)
    index = np.repeat([1, 2, 3], 100).astype(np.uint8)
    coded = small_coder().encode([half(rng.integers(-1, 2, 300), index)])
    index[200:] = 0  # the group that comes last
    with pytest.raises(BitstreamError, match="damaged latents: data is left after the last symbol"):
        decoded(small_coder(), coded, index)


@pytest.mark.parametrize("kept", [0, 1, 3, -1])
def test_cut_words_are_noticed(kept: int) -> None:
    """The coder reads on past the end, so one of the checks after it must speak; which one depends on the symbols."""
    coded, index = sample()
    with pytest.raises(BitstreamError, match=r"damaged (latents|entropy-coded data)"):
        decoded(small_coder(), replace(coded, words=coded.words[: 4 * kept]), *index)


def test_every_changed_bit_is_noticed() -> None:
    coded, index = sample()
    for bit in range(0, 8 * len(coded.words), 5):
        words = bytearray(coded.words)
        words[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            decoded(small_coder(), replace(coded, words=bytes(words)), *index)


def test_damaged_hyper_latents() -> None:
    coder, z = small_coder(), np.ones((2, 2, 3), np.int8)
    coded = coder.encode_hyper(z)
    with pytest.raises(BitstreamError, match="hyper-latents: the decoded symbols have CRC"):
        coder.decode_hyper(coded.words, coded.symbol_crc ^ 1, z.shape)
    with pytest.raises(BitstreamError, match="hyper-latents: data is left"):
        coder.decode_hyper(b"\x01\x00\x00\x00" * 4 + coded.words, coded.symbol_crc, z.shape)
    with pytest.raises(BitstreamError, match="damaged"):
        coder.decode_hyper(b"", coded.symbol_crc, z.shape)


@pytest.mark.parametrize("count", [0, 1, 2 * WORTH_A_THREAD - 2, 2 * WORTH_A_THREAD, 100_001])
@pytest.mark.parametrize("most", [1, 5, 64])
def test_two_threads_sort_like_one(count: int, most: int) -> None:
    index = np.random.default_rng(count).integers(0, most, count).astype(np.uint8)
    ordered, bounds = _grouped(index)
    by_two, bounds_by_two = _grouped_by_two(index, Aside())
    assert np.array_equal(by_two, ordered)
    assert bounds_by_two == bounds
    for table_index, first, last in bounds:
        assert (index[ordered[first:last]] == table_index).all()
        assert (np.diff(ordered[first:last]) > 0).all()
    assert len(ordered) == np.count_nonzero(index)


def test_a_second_thread_changes_no_byte() -> None:
    rng = np.random.default_rng(7)
    halves = []
    for _ in range(2):
        index = rng.integers(0, 64, 80_000).astype(np.uint8)
        halves.append(half(np.rint(rng.normal(0, 8, len(index))) * (index > 0), index))
    alone, beside = (EntropyCoder(shipped(), threads=threads) for threads in (1, 2))
    coded = alone.encode(halves)
    assert coded.escapes
    assert beside.encode(halves) == coded
    for coder in (alone, beside):
        for one, found in zip(halves, decoded(coder, coded, *(h.index for h in halves)), strict=True):
            assert np.array_equal(found, one.values)


@pytest.mark.parametrize("threads", [1, 2])
def test_aside_gives_results_in_order_and_raises_what_was_raised(threads: int) -> None:
    aside, seen = Aside(threads), list[int]()
    waiting = [aside(seen.append, number) for number in range(20)]
    assert [ready() for ready in waiting] == [None] * 20
    assert seen == list(range(20))
    with pytest.raises(ZeroDivisionError):
        aside(divmod, 1, 0)()


def test_one_thread_is_the_callers() -> None:
    alone = Aside(1)
    assert alone(threading.get_ident)() == threading.get_ident()
