"""Entropy coding of latents with ANS: elements grouped by scale index, one shipped table per group.

Range asymmetric numeral systems: Duda, arXiv 1311.2540; coder by `constriction` (Bamler, arXiv 2201.01741). The coder
is a stack: symbols are pushed in exactly the reverse of the order in which they are popped.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from vaert.bitstream import zigzag_decode, zigzag_encode
from vaert.errors import BitstreamError
from vaert.runtime.aside import Aside
from vaert.tables import TOTAL, Table, Tables

Int32 = npt.NDArray[np.int32]
Index = npt.NDArray[np.uint8]
Places = npt.NDArray[np.intp]
HYPER_MAX = 127
RESIDUAL_MAX = 1 << 15
SCALES = 64
WORTH_A_THREAD = 1 << 14  # elements


@dataclass(frozen=True)
class Residuals:
    """One checkerboard half: residuals r and their scale indices, flat in raster order, same length."""

    values: Int32
    index: Index


@dataclass(frozen=True)
class Coded:
    """What the coder wrote: ANS words (little-endian bytes), escape bytes, CRC-32 of the symbols."""

    words: bytes
    escapes: bytes
    symbol_crc: int


class EntropyCoder:
    """Codes hyper-latents and residuals with the tables of one model. threads: 1 to use none but the caller's."""

    def __init__(self, tables: Tables, *, threads: int | None = None) -> None:
        self._tables, self._aside = tables, Aside(threads)
        self._model = lru_cache(maxsize=None)(self._make_model)
        self._hyper_model = lru_cache(maxsize=None)(lambda channel: _categorical(tables.hyper[channel]))
        self._reach = np.array([0] + [len(t) // 2 - 1 for t in tables.scale], np.int32)
        self._costs = [np.zeros(0)] + [24 - np.log2(t.astype(np.float64)) for t in tables.scale]
        self._hyper_costs = 24 - np.log2(tables.hyper.astype(np.float64))

    def _make_model(self, index: int) -> Any:
        return _categorical(self._tables.scale[index - 1])

    def encode_hyper(self, z: npt.NDArray[np.int8]) -> Coded:
        """Hyper-latents (h, w, channels) in -127..127; channel by channel, raster order in each."""
        coder = constriction.stream.stack.AnsCoder()
        symbols = z.astype(np.int32).transpose(2, 0, 1) + HYPER_MAX
        for channel in reversed(range(len(symbols))):
            coder.encode_reverse(symbols[channel].ravel(), self._hyper_model(channel))
        return Coded(_words(coder), b"", zlib.crc32(np.ascontiguousarray(z).tobytes()))

    def decode_hyper(self, words: bytes, symbol_crc: int, shape: tuple[int, int, int]) -> npt.NDArray[np.int8]:
        """Inverse of `encode_hyper`; BitstreamError if the words do not end where they should or the CRC differs."""
        coder, count = _reader(words), shape[0] * shape[1]
        planes = [coder.decode(self._hyper_model(channel), count) for channel in range(shape[2])]
        z = (np.stack(planes, -1).reshape(shape) - HYPER_MAX).astype(np.int8)
        _check_end(coder, zlib.crc32(z.tobytes()), symbol_crc, "hyper-latents")
        return z

    def hyper_bits(self, z: npt.NDArray[np.int8]) -> float:
        """Bits that `encode_hyper` would spend, without coding."""
        planes = z.astype(np.int64).reshape(-1, z.shape[2]) + HYPER_MAX
        return float(self._hyper_costs[np.arange(z.shape[2])[None], planes].sum())

    def encode(self, halves: Sequence[Residuals]) -> Coded:
        """Both checkerboard halves of one group, anchors first."""
        *others, last = halves
        waiting = [self._aside(self._prepare, half) for half in others]
        crc = self._aside(_crc, [half.values for half in halves])
        escapes, coder = list[bytes](), constriction.stream.stack.AnsCoder()
        for ready in (lambda: self._prepare(last), *reversed(waiting)):
            groups, escaped = ready()
            escapes.append(escaped)
            for index, symbols in reversed(groups):
                coder.encode_reverse(symbols, self._model(index))
        return Coded(_words(coder), b"".join(reversed(escapes)), crc())

    def bits(self, half: Residuals) -> float:
        """Bits that `encode` would spend on a half, without coding; escape bytes included."""
        groups, escapes = self._prepare(half)
        return 8.0 * len(escapes) + sum(float(self._costs[index][symbols].sum()) for index, symbols in groups)

    def _prepare(self, half: Residuals) -> tuple[list[tuple[int, Int32]], bytes]:
        """Table symbols of each scale index; the last symbol of a table is the escape. And the escaped values."""
        ordered, bounds = _grouped(half.index)
        values, groups, escaped = half.values[ordered], list[tuple[int, Int32]](), False
        for index, first, last in bounds:
            reach = int(self._reach[index])
            symbols = values[first:last] + np.int32(reach)
            unsigned = symbols.view(np.uint32)  # what is below 0 lies above all
            if int(unsigned.max()) > 2 * reach:
                symbols[unsigned > 2 * reach] = 2 * reach + 1
                escaped = True
            groups.append((index, symbols))
        return groups, self._escapes(half) if escaped else b""

    def _escapes(self, half: Residuals) -> bytes:
        outside = (np.abs(half.values) > self._reach.take(half.index)) & (half.index > 0)
        return zigzag_encode(half.values[outside])

    def decoder(self, coded: Coded) -> LatentDecoder:
        """Begin to decode one group."""
        return LatentDecoder(self, coded)


class LatentDecoder:
    """Pops the two halves of one group, anchors first; the scale indices of each must be known when it is popped."""

    def __init__(self, coder: EntropyCoder, coded: Coded) -> None:
        self._owner, self._coded = coder, coded
        self._crc: Callable[[], int] = lambda: 0
        self._coder = _reader(coded.words)
        stored = np.count_nonzero(np.frombuffer(coded.escapes, np.uint8) < 0x80)  # last bytes of values
        self._escapes = zigzag_decode(coded.escapes, int(stored))
        self._used = 0

    def half(self, index: Index) -> Int32:
        """Residuals of one half from its scale indices, flat in raster order; 0 where the index is 0."""
        ordered, bounds = _grouped_by_two(index, self._owner._aside)
        values, escaped = np.empty(len(ordered), np.int32), []
        for table, first, last in bounds:
            symbols, reach = self._coder.decode(self._owner._model(table), last - first), int(self._owner._reach[table])
            values[first:last] = symbols - reach
            if symbols.max() > 2 * reach:
                escaped.append(ordered[first:last][symbols > 2 * reach])
        residuals = np.zeros(len(index), np.int32)
        residuals[ordered] = values
        if escaped:
            self._fill(residuals, np.sort(np.concatenate(escaped)))
        before = self._crc
        self._crc = self._owner._aside(lambda: _crc([residuals], before()))
        return residuals

    def _fill(self, residuals: Int32, places: npt.NDArray[np.intp]) -> None:
        values = self._escapes[self._used : self._used + len(places)]
        if len(values) < len(places):
            raise BitstreamError("damaged latents: fewer escape values than escape symbols")
        if np.abs(values).max() > RESIDUAL_MAX:
            raise BitstreamError(f"damaged latents: an escape value is outside +-{RESIDUAL_MAX}")
        residuals[places] = values
        self._used += len(places)

    def finish(self) -> None:
        """BitstreamError unless everything was used and the decoded symbols are those that were written."""
        if self._used != len(self._escapes):
            raise BitstreamError("damaged latents: more escape values than escape symbols")
        _check_end(self._coder, self._crc(), self._coded.symbol_crc, "latents")


def _categorical(table: Table) -> Any:
    return constriction.stream.model.Categorical(table / TOTAL, perfect=True)


def _crc(parts: Sequence[Int32], before: int = 0) -> int:
    for values in parts:
        before = zlib.crc32(values.astype("<i4", copy=False).data, before)
    return before


def _grouped(index: Index) -> tuple[Places, list[tuple[int, int, int]]]:
    """Positions sorted by scale index (stable), without index 0, and (index, first, last) of each group among them."""
    ordered, ends = _sorted(index)
    return ordered[ends[0] :], _bounds(ends)


def _grouped_by_two(index: Index, aside: Aside) -> tuple[Places, list[tuple[int, int, int]]]:
    """The same, by two threads where that is worth it."""
    middle = len(index) // 2
    if middle < WORTH_A_THREAD:
        return _grouped(index)
    other = aside(_sorted, index[:middle])
    back, back_ends = _sorted(index[middle:])
    back += middle
    front, front_ends = other()
    ends = front_ends + back_ends
    ordered, bounds = np.empty(ends[-1] - ends[0], np.intp), _bounds(ends)
    for table, first, last in bounds:
        between = first + front_ends[table] - front_ends[table - 1]
        ordered[first:between] = front[front_ends[table - 1] : front_ends[table]]
        ordered[between:last] = back[back_ends[table - 1] : back_ends[table]]
    return ordered, bounds


def _sorted(index: Index) -> tuple[Places, Places]:
    """Positions sorted by scale index (stable), and where each index ends."""
    ordered = np.argsort(index, kind="stable")  # by radix, for bytes
    return ordered, np.searchsorted(index.take(ordered), np.arange(SCALES, dtype=np.uint8), side="right")


def _bounds(ends: Places) -> list[tuple[int, int, int]]:
    present = 1 + np.flatnonzero(np.diff(ends))
    return [(int(i), int(ends[i - 1] - ends[0]), int(ends[i] - ends[0])) for i in present]


def _words(coder: Any) -> bytes:
    data: bytes = coder.get_compressed().astype("<u4", copy=False).tobytes()
    return data


def _reader(words: bytes) -> Any:
    array = np.frombuffer(words, "<u4").astype(np.uint32)
    if len(array) and array[-1] == 0:  # the coder never ends with a zero word, and refuses one
        raise BitstreamError("damaged entropy-coded data: it ends with a zero word")
    return constriction.stream.stack.AnsCoder(array)


def _check_end(coder: Any, found: int, wanted: int, what: str) -> None:
    if not coder.is_empty():
        raise BitstreamError(f"damaged {what}: data is left after the last symbol")
    if found != wanted:
        raise BitstreamError(f"damaged {what}: the decoded symbols have CRC {found:08x}, the file says {wanted:08x}")
