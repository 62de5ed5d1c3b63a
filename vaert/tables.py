"""The shipped tables of a codec: probabilities as integers over 2^24, and the gains per quality. numpy only."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vaert.errors import ModelError

TOTAL = 1 << 24
QUALITY_MIN, QUALITY_MAX = 1.0, 100.0
Table = npt.NDArray[np.uint32]
Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Tables:
    """Entropy tables and gains.

    hyper: (hyper channels, 255), symbols -127..127. scale: one table per scale index 1..63, symbols -L..L and escape.
    log_gain, log_inverse_gain: (anchor qualities, M), natural logarithms at evenly spaced qualities 1..100.
    """

    hyper: Table
    scale: tuple[Table, ...]
    log_gain: Float
    log_inverse_gain: Float

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays as they are stored; `scale` is concatenated, `scale_sizes` says where to cut."""
        return {
            "hyper": self.hyper,
            "scale": np.concatenate(self.scale),
            "scale_sizes": np.array([len(t) for t in self.scale], np.uint32),
            "log_gain": self.log_gain,
            "log_inverse_gain": self.log_inverse_gain,
        }

    def to_bytes(self) -> bytes:
        """An uncompressed .npz."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **self.arrays())
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> Tables:
        """Read what `to_bytes` wrote; ModelError if a table is not a distribution over 2^24."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as raw:
                arrays = {name: raw[name] for name in raw.files}
            scale = tuple(np.split(arrays["scale"], np.cumsum(arrays["scale_sizes"])[:-1]))
            tables = Tables(arrays["hyper"], scale, arrays["log_gain"], arrays["log_inverse_gain"])
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ModelError(f"tables.npz is damaged ({error}); install the package again") from error
        for table in (*tables.hyper, *tables.scale):
            if len(table) < 2 or int(table.min()) < 1 or int(table.sum(dtype=np.int64)) != TOTAL:
                raise ModelError("tables.npz holds a table that does not sum to 2^24; install the package again")
        return tables

    def gains(self, quality: float) -> tuple[Float, Float]:
        """Gain before rounding and inverse gain after it at a quality in 1..100, float32 (M,) each."""
        t = (quality - QUALITY_MIN) / (QUALITY_MAX - QUALITY_MIN) * (len(self.log_gain) - 1)
        low = min(int(t), len(self.log_gain) - 2)
        f = np.float32(t - low)
        mixed = [g[low] * (1 - f) + g[low + 1] * f for g in (self.log_gain, self.log_inverse_gain)]
        return np.exp(mixed[0]).astype(np.float32), np.exp(mixed[1]).astype(np.float32)
