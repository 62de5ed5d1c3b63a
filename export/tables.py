"""Probability tables as integers over 2^24, made once at export."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from vaert.tables import TOTAL, Table

REACH = 5.2  # standard deviations that a table covers before symbols are escaped


def integer_table(probabilities: npt.NDArray[np.float64]) -> Table:
    """Integers k >= 1 in proportion to the probabilities, sum exactly 2^24, (n,) -> uint32 (n,).

    Largest remainders are rounded up first, so the result does not depend on summation order.
    """
    p = np.maximum(probabilities, 0) / math.fsum(np.maximum(probabilities, 0))
    room = TOTAL - len(p)  # one for each symbol is set aside
    exact = p * room
    k = np.floor(exact).astype(np.int64)
    missing = room - int(k.sum())
    order = np.argsort(-(exact - k), kind="stable")
    k[order[:missing]] += 1
    return (k + 1).astype(np.uint32)


def _tail(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """P(v > x) of a standard normal, same shape."""
    return np.array([0.5 * math.erfc(v / math.sqrt(2)) for v in x.tolist()])


def gaussian_table(scale: float) -> Table:
    """Table of round(v), v ~ N(0, scale^2): symbols -L..L, then the escape symbol, uint32 (2 L + 2,)."""
    reach = max(1, math.ceil(REACH * scale))
    r = np.arange(-reach, reach + 1, dtype=np.float64)
    inner = _tail((np.abs(r) - 0.5) / scale) - _tail((np.abs(r) + 0.5) / scale)
    return integer_table(np.append(inner, 2 * _tail(np.array([(reach + 0.5) / scale]))))
