"""The block transform that the codec starts from: low-frequency 2-D DCT rows over an orthonormal luma/chroma basis.

DCT-II with orthonormal scaling: Ahmed, Natarajan & Rao, "Discrete Cosine Transform", IEEE Trans. Computers, 1974.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def dct_matrix(n: int) -> Matrix:
    """Orthonormal DCT-II: row k is the k-th frequency, (n, n)."""
    k, i = np.arange(n)[:, None], np.arange(n)[None]
    m = np.cos(np.pi * (2 * i + 1) * k / (2 * n)) * np.sqrt(2 / n)
    m[0] /= np.sqrt(2)
    return np.asarray(m, np.float64)


def colour_basis() -> Matrix:
    """Orthonormal rows luma, blue and red difference over RGB, (3, 3): Gram-Schmidt of grey and BT.601 Cb, Cr."""
    rows: list[npt.NDArray[np.float64]] = []
    for start in np.array([[1.0, 1.0, 1.0], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]]):
        v = start
        for u in rows:
            v = v - u * (u @ v)
        rows.append(v / np.linalg.norm(v))
    return np.array(rows)


def lowest_frequencies(size: int, counts: tuple[int, int, int]) -> Matrix:
    """The `counts` lowest-frequency DCT rows of each colour plane, (sum(counts), 3 * size * size).

    Columns are in the order (colour, y, x) of a `size` x `size` RGB patch.
    """
    d, colour = dct_matrix(size), colour_basis()
    order = sorted(((u, v) for u in range(size) for v in range(size)), key=lambda f: (f[0] ** 2 + f[1] ** 2, f))
    rows = [
        np.einsum("c,y,x->cyx", colour[c], d[u], d[v]).reshape(-1)
        for c, count in enumerate(counts)
        for u, v in order[:count]
    ]
    return np.array(rows)


def luma_chroma_split(channels: int, luma: float) -> tuple[int, int, int]:
    """How many of `channels` go to luma and to each chroma plane."""
    y = round(channels * luma)
    blue = (channels - y) // 2
    return y, blue, channels - y - blue


def merge_2x2(rows16: Matrix, rows8: Matrix) -> Matrix:
    """16x16 patch rows expressed over the 8x8 rows of the patch's four quarters, (len(rows16), len(rows8), 2, 2).

    `merge[m, c, i, j]` is how much of 8x8 coefficient `c` of the quarter at row i, column j goes into `m`: a
    convolution weight of kernel 2, stride 2.
    """
    quarters = rows16.reshape(-1, 3, 2, 8, 2, 8)  # m, colour, i, y, j, x
    basis = rows8.reshape(-1, 3, 8, 8)  # c, colour, y, x
    return np.asarray(np.einsum("mkiyjx,ckyx->mcij", quarters, basis), np.float64)
