"""What `vaert.runtime.compare` finds: rows by kind of model, and how far a precision may be from fp32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from vaert.package import CODEC, LOSSLESS_DIGITS


@dataclass(frozen=True)
class Tolerance:
    """How far a package may be from its fp32 reference; None where nothing is asked.

    levels: largest difference of a sample, on the same latents. psnr: dB, mean over pictures. rate: share. two_sided:
    whether more PSNR and less rate than the reference's are as wrong as the opposite: they are where only rounding may
    differ.
    """

    levels: int | None
    psnr: float
    rate: float
    two_sided: bool = True

    def __str__(self) -> str:
        levels = "" if self.levels is None else f"{self.levels} level, "
        return f"{levels}{self.psnr:g} dB, {100 * self.rate:g} % of rate{'' if self.two_sided else ' lost'}"


TOLERANCES = {
    "fp32": Tolerance(1, 0.02, 0.001),
    "fp16": Tolerance(None, 0.02, 0.001),
    "int8": Tolerance(None, 1.5, 0.15, two_sided=False),
}
"""By the manifest's precision. That of int8 is generous: it tells broken from rounded, not good from bad."""


@dataclass(frozen=True)
class CodecRow:
    """A codec at one quality: sums and means over the pictures.

    bpp is that of whole files; rate_change, a share, is that of the symbols as the tables count them, which no rounding
    to words of 4 bytes blurs. levels: largest difference of a sample when both decode the reference's file. Latents:
    every file of both, decoded by both.
    """

    HEAD: ClassVar[str] = "quality      bpp  rate change   PSNR dB   change  levels     latents  different"

    quality: float
    bpp: float
    reference_bpp: float
    rate_change: float
    psnr: float
    reference_psnr: float
    psnr_change: float
    levels: int
    latents_compared: int
    latents_different: int

    def __str__(self) -> str:
        return (
            f"{self.quality:7g}  {self.bpp:7.4f}  {100 * self.rate_change:+9.3f} %  {self.psnr:8.3f}  "
            f"{self.psnr_change:+7.3f}  {self.levels:6d}  {self.latents_compared:10d}  {self.latents_different:9d}"
        )

    def faults(self, tolerance: Tolerance) -> Iterator[str]:
        """What is out of tolerance, a clause each."""
        at = f"at quality {self.quality:g}"
        if self.latents_different:
            yield f"{self.latents_different} of {self.latents_compared} latents differ {at}, expected none"
        if tolerance.levels is not None and self.levels > tolerance.levels:
            yield f"pixels differ by {self.levels} levels {at}, expected at most {tolerance.levels}"
        change = abs(self.rate_change) if tolerance.two_sided else self.rate_change
        if not change <= tolerance.rate:
            yield f"the rate changes by {100 * self.rate_change:+.3f} % {at}, expected at most {100 * tolerance.rate:g}"
        yield from _psnr_fault(self.psnr_change, tolerance, at)


@dataclass(frozen=True)
class PictureRow:
    """An upscaler, restorer or VAE of digits at one task: means over the pictures.

    between: PSNR of one output against the other. psnr, reference_psnr: of each against the original. levels: largest
    difference of a sample of both. latents: of a VAE of digits, largest difference of the posterior means, else None.
    """

    HEAD: ClassVar[str] = "task                 PSNR dB   change   between  levels  latents"

    task: str
    psnr: float
    reference_psnr: float
    psnr_change: float
    between: float
    levels: int
    latents: float | None = None

    def __str__(self) -> str:
        latents = "-" if self.latents is None else f"{self.latents:.2g}"
        return (
            f"{self.task:<19}  {self.psnr:7.3f}  {self.psnr_change:+7.3f}  {self.between:8.2f}  {self.levels:6d}"
            f"  {latents:>7}"
        )

    def faults(self, tolerance: Tolerance) -> Iterator[str]:
        """What is out of tolerance, a clause each."""
        if tolerance.levels is not None and self.levels > tolerance.levels:
            yield f"outputs differ by {self.levels} levels ({self.task}), expected at most {tolerance.levels}"
        yield from _psnr_fault(self.psnr_change, tolerance, f"({self.task})")


@dataclass(frozen=True)
class LosslessRow:
    """A lossless model: files of both, decoded by both; digits that do not come back, and sizes in bytes."""

    HEAD: ClassVar[str] = "digits     bytes  reference  different"

    digits: int
    size: int
    reference_size: int
    different: int

    def __str__(self) -> str:
        return f"{self.digits:6d}  {self.size:8d}  {self.reference_size:9d}  {self.different:9d}"

    def faults(self, tolerance: Tolerance) -> Iterator[str]:
        """What is wrong, a clause each: nothing is rounded here, so no tolerance counts."""
        del tolerance
        if self.different:
            yield f"{self.different} of {4 * self.digits} decoded digits differ from what was coded, expected none"
        if self.size != self.reference_size:
            yield f"the file has {self.size} bytes, the reference's {self.reference_size}, expected the same"


Row = CodecRow | PictureRow | LosslessRow


def row_type(kind: str) -> type[Row]:
    """The class of the rows of models of a kind."""
    return {CODEC: CodecRow, LOSSLESS_DIGITS: LosslessRow}.get(kind, PictureRow)


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. inexact: why the backend's exact part moved to the CPU, "" if it computes it right."""

    model: str
    model_id: str  # hexadecimal
    kind: str
    precision: str
    reference_precision: str
    backend: str
    images: int
    pixels: int
    inexact: str
    rows: tuple[Row, ...]

    @property
    def tolerance(self) -> Tolerance:
        """What this precision may differ by."""
        return TOLERANCES.get(self.precision, TOLERANCES["fp32"])

    def faults(self, tolerance: Tolerance | None = None) -> tuple[str, ...]:
        """What is wrong or out of tolerance, that of its precision if None, a clause each; empty if all is well."""
        found = [self.inexact] if self.inexact else []
        for row in self.rows:
            found += row.faults(tolerance or self.tolerance)
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """The same as types that JSON knows, with the tolerance and the faults."""
        return {**asdict(self), "tolerance": asdict(self.tolerance), "faults": list(self.faults())}

    def lines(self) -> list[str]:
        """A small table for people to read."""
        plural = "s" if self.images != 1 else ""
        head = (
            f"{self.model} {self.precision} on {self.backend} against {self.reference_precision} on cpu: "
            f"{self.images} picture{plural}, {self.pixels} pixels"
        )
        return [head, *([self.rows[0].HEAD] if self.rows else []), *map(str, self.rows)]


def _psnr_fault(change: float, tolerance: Tolerance, where: str) -> Iterator[str]:
    if not (abs(change) if tolerance.two_sided else -change) <= tolerance.psnr:
        yield f"PSNR changes by {change:+.3f} dB {where}, expected at most {tolerance.psnr:g}"
