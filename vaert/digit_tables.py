"""The entropy model of quantised digits: which latents are coded, in which steps, with which integer tables.

A digit's latents z are coded as k = round(z / step), one integer for each latent that carries anything. The model of k
is a mixture of products: the writer chooses the cluster that makes a digit cheapest and codes its number, and then
every k with a table that cluster and latent choose. All of it is integers but the steps, which touch no decoded symbol.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vaert.errors import ModelError
from vaert.tables import TOTAL

QUALITY_LOW, QUALITY_HIGH = 256, 25600  # of the header's quality field
K_MAX = 32
"""|k| is at most this."""
FRACTIONS = 4
"""Means are whole numbers of steps / FRACTIONS."""
REACH = 2 * K_MAX
"""Tables hold the symbols -REACH..REACH, relative to the whole part of the mean: every k is in every table."""

Array: TypeAlias = npt.NDArray[Any]
_DIMENSIONS = {"active": 1, "steps": 2, "slopes": 1, "clusters": 2, "mean": 3, "scale": 3, "tables": 3}
_TYPES = {
    "active": np.uint16, "steps": np.float32, "slopes": np.float32, "clusters": np.uint32, "mean": np.int16,
    "scale": np.uint8, "tables": np.uint32,
}  # fmt: skip


@dataclass(frozen=True)
class DigitTables:
    """Entropy model at Q levels of quality, with K clusters, for A coded latents.

    active: uint16 (A,), ascending; the other latents are 0. steps: float32 (Q, A), of z. slopes: float32 (Q,), bits
    that one dB of PSNR is worth to the writer. clusters: uint32 (Q, K), counts over 2^24. mean: int16 (Q, K, A), in
    steps / FRACTIONS. scale: uint8 (Q, K, A), rows of `tables`. tables: uint32 (FRACTIONS, scales, 2 REACH + 1),
    counts over 2^24.
    """

    active: npt.NDArray[np.uint16]
    steps: npt.NDArray[np.float32]
    slopes: npt.NDArray[np.float32]
    clusters: npt.NDArray[np.uint32]
    mean: npt.NDArray[np.int16]
    scale: npt.NDArray[np.uint8]
    tables: npt.NDArray[np.uint32]

    def arrays(self) -> dict[str, Array]:
        """The arrays by name, as they are stored."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def from_arrays(arrays: dict[str, Array]) -> DigitTables:
        """The opposite of `arrays`. ModelError if a type, a shape or a value is not as the class says."""
        for name, dimensions in _DIMENSIONS.items():
            found = arrays.get(name)
            if found is None or found.dtype != _TYPES[name] or found.ndim != dimensions:
                what = "nothing" if found is None else f"{found.dtype} of {found.ndim} dimensions"
                raise _damaged(f"{name} is {what}, expected {np.dtype(_TYPES[name])} of {dimensions} dimensions")
        made = DigitTables(**{name: arrays[name] for name in _DIMENSIONS})
        _check(made)
        return made

    def to_bytes(self) -> bytes:
        """A .npz file."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **self.arrays())
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> DigitTables:
        """Read what `to_bytes` wrote. ModelError if it is damaged."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as raw:
                arrays = {name: raw[name] for name in raw.files}
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise _damaged(str(error)) from error
        return DigitTables.from_arrays(arrays)

    @property
    def levels(self) -> int:
        """Q, how many qualities have a model of their own."""
        return len(self.steps)

    def level(self, quality_u16: int) -> int:
        """The level of a header's quality; in integers, since it decides what the decoder reads."""
        return (quality_u16 - QUALITY_LOW) * self.levels // (QUALITY_HIGH - QUALITY_LOW + 1)

    def base(self, level: int) -> npt.NDArray[np.int32]:
        """Whole parts of the means, rounded down, (K, A): k - base + REACH is the symbol."""
        return np.asarray(self.mean[level].astype(np.int32) // FRACTIONS)

    def index(self, level: int) -> npt.NDArray[np.int32]:
        """Number of the table of each cluster and latent, (K, A): fraction of the mean * scales + scale."""
        fraction = self.mean[level].astype(np.int32) % FRACTIONS
        return np.asarray(fraction * self.tables.shape[1] + self.scale[level], np.int32)

    def costs(self, level: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Bits of each cluster, (K,), and of each k from -K_MAX to K_MAX in it, (K, A, 2 K_MAX + 1)."""
        bits = 24 - np.log2(self.tables.astype(np.float64).reshape(-1, 2 * REACH + 1))
        symbols = np.arange(-K_MAX, K_MAX + 1) - self.base(level)[..., None] + REACH
        return 24 - np.log2(self.clusters[level].astype(np.float64)), bits[self.index(level)[..., None], symbols]


def _check(tables: DigitTables) -> None:
    levels, coded = tables.steps.shape
    clusters = tables.clusters.shape[1]
    shapes = {
        "active": (coded,), "slopes": (levels,), "clusters": (levels, clusters), "mean": (levels, clusters, coded),
        "scale": (levels, clusters, coded), "tables": (FRACTIONS, tables.tables.shape[1], 2 * REACH + 1),
    }  # fmt: skip
    for name, expected in shapes.items():
        if (found := getattr(tables, name).shape) != expected:
            raise _damaged(f"{name} has shape {found}, expected {expected}")
    if min(levels, coded) < 1 or not 2 <= clusters <= 256 or not 1 <= tables.tables.shape[1] <= 63:
        raise _damaged(f"{levels} levels, {coded} latents, {clusters} clusters and {tables.tables.shape[1]} scales")
    if (np.diff(tables.active.astype(np.int32)) < 1).any():
        raise _damaged("active does not ascend")
    for name in ("steps", "slopes"):
        values = getattr(tables, name)
        if not (np.isfinite(values) & (values > 0)).all():
            raise _damaged(f"{name} holds values that are not positive numbers")
    if np.abs(tables.mean.astype(np.int32)).max() > K_MAX * FRACTIONS or tables.scale.max() >= tables.tables.shape[1]:
        raise _damaged("a mean or a scale is outside the tables")
    for name in ("clusters", "tables"):
        counts = getattr(tables, name)
        if int(counts.min()) < 1 or (counts.sum(-1, dtype=np.int64) != TOTAL).any():
            raise _damaged(f"{name} holds a table that does not sum to 2^24")


def _damaged(why: str) -> ModelError:
    return ModelError(f"tables.npz of the digits is damaged ({why}); install the package again")
