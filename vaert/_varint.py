"""Signed integers as zigzag LEB128 bytes: how the bitstream stores symbols that lie outside their table."""

import numpy as np
from numpy.typing import NDArray

from vaert.errors import BitstreamError, OptionError

LIMIT = 2**16
"""Largest magnitude that the format can hold."""

_MAX_LENGTH = 3  # zigzag(+2^16) = 2^17 needs 18 bits, three groups of seven


def zigzag_encode(values: NDArray[np.integer]) -> bytes:
    """Zigzag LEB128 bytes of `values` (any integer dtype and shape, read in raster order; each within +-2^16).

    Zigzag maps 0, -1, 1, -2, ... to 0, 1, 2, 3, ...; LEB128 then writes seven bits a byte, lowest first,
    with the high bit set on every byte but the last.

    Raises:
        OptionError: not integers, or one of them outside +-2^16.
    """
    array = np.asarray(values)
    if array.size == 0:
        return b""
    if not np.issubdtype(array.dtype, np.integer):
        raise OptionError(f"escape values must be integers, found dtype {array.dtype}: convert them first")
    if int(array.max()) > LIMIT or int(array.min()) < -LIMIT:
        raise OptionError(
            f"escape values must lie within +-{LIMIT}, found {int(array.min())}..{int(array.max())}: clamp them first"
        )
    flat = array.astype(np.int64).reshape(-1)
    folded = np.where(flat >= 0, 2 * flat, -2 * flat - 1)
    septets = (folded[:, None] >> np.array([0, 7, 14])) & 0x7F  # [n, 3]
    lengths = 1 + (folded >= 1 << 7).astype(np.int64) + (folded >= 1 << 14)  # [n]
    column = np.arange(_MAX_LENGTH)
    septets |= np.where(column < lengths[:, None] - 1, 0x80, 0)
    written: NDArray[np.uint8] = septets[column < lengths[:, None]].astype(np.uint8)
    return written.tobytes()


def zigzag_decode(data: bytes, count: int) -> NDArray[np.int32]:
    """The exactly `count` values that `data` holds, int32 [count]; the inverse of `zigzag_encode`, and strict.

    Raises:
        BitstreamError: more or fewer values, a value cut short, longer than needed or outside +-2^16.
    """
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    if raw.size and raw[-1] >= 0x80:
        raise BitstreamError("escape bytes end inside a value: the file is damaged")
    if ends.size != count:
        raise BitstreamError(f"escape bytes hold {ends.size} values, expected {count}: the file is damaged")
    if count == 0:
        return np.zeros(0, np.int32)
    lengths = np.diff(ends, prepend=-1)
    if int(lengths.max()) > _MAX_LENGTH:
        raise BitstreamError(
            f"an escape value takes {int(lengths.max())} bytes, at most {_MAX_LENGTH} are allowed: the file is damaged"
        )
    if bool(np.any((lengths > 1) & (raw[ends] == 0))):
        raise BitstreamError("an escape value is longer than it needs to be: the file is damaged")
    starts = ends - lengths + 1
    folded = np.zeros(count, np.int64)
    for place in range(_MAX_LENGTH):
        has = lengths > place
        folded[has] |= (raw[starts[has] + place].astype(np.int64) & 0x7F) << (7 * place)
    values = (folded >> 1) ^ -(folded & 1)
    if int(np.abs(values).max()) > LIMIT:
        raise BitstreamError(f"an escape value lies outside +-{LIMIT}: the file is damaged")
    return values.astype(np.int32)
