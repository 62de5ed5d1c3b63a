"""Normal noise by absolute position: any part of it can be made alone, on any machine, with the same bits.

Philox 4x32-10: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from vaert.errors import OptionError

Words = npt.NDArray[np.uint32]
Float = npt.NDArray[np.float32]
CHANNELS = 8  # of one block: eight halves of Philox's four words
LEVELS = 1 << 16
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def normal_noise(seed: int, rows: slice, columns: slice, channels: int) -> Float:
    """Standard normal noise of a part of an endless picture, float32 (h, w, channels).

    The element at row y, column x and channel c is `normal_levels()[u]`, where u is the low half (c even) or high half
    (c odd) of word (c mod 8) // 2 of the Philox 4x32-10 block with counter (x, y, c // 8, 0) and key (seed mod 2^32,
    seed // 2^32). Rows and columns are 0..2^32 - 1. No arithmetic of real numbers takes part, so tiles and backends
    agree to the bit.

    Raises:
        OptionError: a seed outside 0..2^64 - 1.
    """
    if not 0 <= seed < 1 << 64:
        raise OptionError(f"a seed must be 0 to 2^64 - 1, not {seed}")
    y, x = (np.arange(part.start, part.stop, dtype=np.uint32) for part in (rows, columns))
    blocks = [
        philox((x[None, :], y[:, None], np.uint32(block), np.uint32(0)), (seed & _MASK, seed >> 32))
        for block in range(-(-channels // CHANNELS))
    ]
    halves = np.concatenate(blocks, axis=2).view("<u2")  # (h, w, 8 blocks)
    noise: Float = normal_levels()[halves[..., :channels]]
    return noise


def philox(counter: tuple[npt.ArrayLike, ...], key: tuple[int, int]) -> npt.NDArray[np.uint32]:
    """Philox 4x32-10 of four counter words that broadcast to (h, w): uint32 little-endian (h, w, 4)."""
    a, b, c, d = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = key
    for _ in range(_ROUNDS):
        first, second = a * np.uint64(_MULTIPLIERS[0]), c * np.uint64(_MULTIPLIERS[1])
        a = (second >> np.uint64(32)) ^ b ^ np.uint64(k0)
        c = (first >> np.uint64(32)) ^ d ^ np.uint64(k1)
        b, d = second & np.uint64(_MASK), first & np.uint64(_MASK)
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return np.stack(np.broadcast_arrays(a, b, c, d), axis=-1).astype("<u4")


@cache
def normal_levels() -> Float:
    """The standard normal's quantiles at (u + 1/2) / 2^16, float32 (65536,): from -4.3 to 4.3, antisymmetric."""
    normal = NormalDist()
    upper = np.array([normal.inv_cdf((u + 0.5) / LEVELS) for u in range(LEVELS // 2, LEVELS)], np.float32)
    return np.concatenate([-upper[::-1], upper])
