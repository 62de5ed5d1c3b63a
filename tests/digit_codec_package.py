"""A package of digits made by hand that can also compress: its entropy model is fitted to made digits."""

import hashlib
from functools import cache
from pathlib import Path

import digit_package
import numpy as np
import numpy.typing as npt

from vaert.digit_tables import DigitTables
from vaert.package import MANIFEST, Package
from vaert.runtime.digit_vae import DigitVAE
from vaert.trainer.digit_entropy import fit_latents

LATENTS = 6
DEVIATION = 0.015  # of the posterior, to choose steps by
MODEL_ID = 0xD161


def make(folder: Path) -> Package:
    """Write the package of `digit_package` with tables."""
    package = digit_package.make_package(folder, latents=LATENTS, name="by-hand")
    add_file(folder, "tables.npz", fitted(package))
    return Package.open(folder)


def add_file(folder: Path, name: str, data: bytes) -> None:
    """Put a file into a package and its checksum into the manifest."""
    (folder / name).write_bytes(data)
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.name != MANIFEST
    }
    digit_package.rewrite(folder, files=files)


def latents(count: int, seed: int) -> npt.NDArray[np.float32]:
    """Latents in a few clumps, (count, LATENTS), so near to 0 that few pixels are black or white."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(0, 0.15, (5, LATENTS))
    return (centres[rng.integers(5, size=count)] + rng.normal(0, 0.06, (count, LATENTS))).astype(np.float32)


def digits(package: Package, count: int, seed: int = 1) -> npt.NDArray[np.uint8]:
    """Pictures that the model knows, with a little noise, uint8 (count, 28, 28)."""
    clean = DigitVAE(package, threads=1).render(latents(count, seed)).astype(np.float64)
    noise = np.random.default_rng(seed).normal(0, 4, clean.shape)
    return np.clip(np.round(clean + noise), 0, 255).astype(np.uint8)


def fitted(package: Package) -> bytes:
    """tables.npz for it; the model is the same every time, so it is fitted once."""
    return _fitted(DigitVAE(package, threads=1).encode(digits(package, 300, seed=0)).mean.tobytes())


@cache
def _fitted(means: bytes) -> bytes:
    z = np.frombuffer(means, np.float32).reshape(-1, LATENTS).astype(np.float64)
    tables: DigitTables = fit_latents(z, np.full(LATENTS, DEVIATION), np.arange(LATENTS))
    return tables.to_bytes()
