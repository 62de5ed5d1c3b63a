"""One face for files of digits, whether their model is lossy or lossless."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vaert import bitstream
from vaert.bitstream import DIGIT_SIDE, LOSSLESS_QUALITY, DigitsStream, Header, Kind
from vaert.errors import BitstreamError, ModelError, OptionError
from vaert.package import LOSSLESS_DIGITS, Package
from vaert.runtime.backends import Backend, open_backend
from vaert.runtime.digits import DigitCodec, Digits, Progress, check_digits
from vaert.runtime.lossless import LosslessCoded, LosslessDigits


class DigitFiles(Protocol):
    """What both codecs of digits offer; see `DigitCodec`."""

    package: Package

    def compress(
        self,
        digits: Digits,
        quality: float | None = None,
        *,
        psnr: float | None = None,
        names: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> bytes:
        """A file with digits, uint8 (N, 28, 28)."""

    def decode(self, stream: DigitsStream) -> Digits:
        """The digits of a parsed file, uint8 (N, 28, 28)."""


class LosslessDigitCodec:
    """Files of digits without loss. Raises ModelError, BackendError."""

    def __init__(self, package: Package, *, backend: str | Backend = "auto", threads: int | None = None) -> None:
        self.package = package
        self._engine = LosslessDigits(package, open_backend(backend, threads=threads, package=package))

    def compress(
        self,
        digits: Digits,
        quality: float | None = None,
        *,
        psnr: float | None = None,
        names: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> bytes:
        """A file with digits, uint8 (N, 28, 28). OptionError also for a quality: there is nothing to choose."""
        if quality is not None or psnr is not None:
            raise OptionError(
                f"{self.package.manifest.name} loses nothing, so there is no quality to choose: leave out --quality "
                "and --psnr"
            )
        check_digits(digits, names)
        coded = self._engine.compress(digits)
        if progress:
            progress(len(digits), len(digits))
        model_id = self.package.manifest.model_id
        header = Header(Kind.LOSSLESS_DIGITS, model_id, DIGIT_SIDE, DIGIT_SIDE, 1, LOSSLESS_QUALITY)
        stored = None if names is None else tuple(names)
        return bitstream.write(DigitsStream(header, len(digits), coded.symbol_crc, coded.words, stored))

    def decode(self, stream: DigitsStream) -> Digits:
        """The digits of a parsed file, uint8 (N, 28, 28). BitstreamError, ModelError (made by another model)."""
        header, manifest = stream.header, self.package.manifest
        if header.kind is not Kind.LOSSLESS_DIGITS:
            raise BitstreamError(f"the file holds {header.kind.name.lower()}, {manifest.name} decodes lossless only")
        if header.model_id != manifest.model_id:
            raise ModelError(
                f"the file was made by model {header.model_id:016x}, not by {manifest.name} "
                f"({manifest.model_id:016x}); name its package with --model"
            )
        return self._engine.decompress(LosslessCoded(stream.words, stream.symbol_crc), stream.count)


def open_digit_files(package: Package, *, backend: str | Backend = "auto", threads: int | None = None) -> DigitFiles:
    """The codec for a package of kind `digits` or `lossless_digits`. ModelError for any other."""
    if package.manifest.kind == LOSSLESS_DIGITS:
        return LosslessDigitCodec(package, backend=backend, threads=threads)
    return DigitCodec(package, backend=backend, threads=threads)
