"""Is a package whole, exact, and as good as its fp32 reference? Checksums, known answers, parity on pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vaert.errors import ModelError
from vaert.package import CODEC, LOSSLESS_DIGITS, MANIFEST, Package, find_by_id
from vaert.runtime.backends import Backend
from vaert.runtime.compare import Comparison, Progress, compare

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    damaged: a clause for each file that is not what the manifest says. exact: whether the exact graphs reproduce the
    known answers; None if the model has none, or was not run because files are damaged; then there is no comparison.
    """

    package: str
    files: int
    damaged: tuple[str, ...]
    unknown: tuple[str, ...]  # files in the folder that the manifest does not name
    exact: bool | None
    comparison: Comparison | None

    def faults(self) -> tuple[str, ...]:
        """What is wrong, a clause each; empty if all is well."""
        return self.damaged + (self.comparison.faults() if self.comparison else ())

    def to_dict(self) -> dict[str, Any]:
        """The same as types that JSON knows."""
        return {
            "package": self.package,
            "files": self.files,
            "damaged": list(self.damaged),
            "unknown": list(self.unknown),
            "exact": self.exact,
            "comparison": self.comparison.to_dict() if self.comparison else None,
            "faults": list(self.faults()),
        }

    def lines(self) -> list[str]:
        """For people to read."""
        whole = self.files - len(self.damaged)
        text = [f"{self.package}: {whole} of {self.files} files are what the manifest says"]
        if self.unknown:
            text.append(f"not named by the manifest, and not used: {', '.join(self.unknown)}")
        if self.exact is not None:
            text.append("known answers: " + ("exact" if self.exact else "WRONG"))
        if self.comparison is not None:
            text += [*self.comparison.lines(), f"tolerance of {self.comparison.precision}: {self.comparison.tolerance}"]
        return text


def verify(
    package: Package,
    *,
    backend: str | Backend = "auto",
    against: Package | None = None,
    images: Sequence[Pixels] = (),
    qualities: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Check a package's files, its exact graphs on `backend`, and its outputs there against `against` on the CPU.

    against: the bundled package of the same model id if None, or the package itself if it is fp32 and none is bundled.
    images, qualities: as `vaert.runtime.compare.compare` takes them. Raises ModelError (nothing to compare with, or
    another model), OptionError, BackendError, MissingExtraError.
    """
    damaged, unknown = check_files(package)
    files = len(package.manifest.files)
    if damaged:
        return Verification(str(package.path), files, damaged, unknown, None, None)
    more = {} if qualities is None else {"qualities": qualities}
    reference = against or reference_of(package)
    found = compare(package, reference, images, backend=backend, progress=progress, **more)
    has_answers = package.manifest.kind in (CODEC, LOSSLESS_DIGITS)
    return Verification(str(package.path), files, (), unknown, not found.inexact if has_answers else None, found)


def check_files(package: Package) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Clauses on files that are missing or damaged, and names of files that the manifest does not know."""
    damaged = []
    for name in sorted(package.manifest.files):
        try:
            package.read(name)
        except ModelError as error:
            damaged.append(str(error))
    there = {path.name for path in package.path.iterdir()}
    return tuple(damaged), tuple(sorted(there - set(package.manifest.files) - {MANIFEST}))


def reference_of(package: Package) -> Package:
    """The fp32 package of the same model. ModelError if none is bundled and this is none."""
    manifest = package.manifest
    try:
        return find_by_id(manifest.model_id)
    except ModelError as error:
        if manifest.precision == "fp32":
            return package
        raise ModelError(
            f"no bundled package is of model {manifest.name} ({manifest.model_id:016x}), expected the fp32 package "
            f"that this {manifest.precision} one was made from: name it with --against"
        ) from error
