"""The lossy codec of digits: quantised latents of a VAE and a fitted entropy model; folders of digits in one file."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from vaert import bitstream
from vaert.bitstream import DIGIT_SIDE, DigitsStream, Header, Kind
from vaert.digit_search import Cost, search
from vaert.digit_tables import K_MAX, REACH, DigitTables
from vaert.errors import BitstreamError, ModelError, OptionError, TargetError
from vaert.package import Package, find_by_id
from vaert.runtime.backends import Backend
from vaert.runtime.bitsback import Stack
from vaert.runtime.codec import DEFAULT_QUALITY, QUALITY_STEPS, quality_to_u16
from vaert.runtime.digit_vae import DigitVAE
from vaert.tables import QUALITY_MAX, QUALITY_MIN, TOTAL

Digits = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int32]
Progress = Callable[[int, int], None]
"""Called with how many digits are done and how many there are."""

BATCH = 64  # digits that are searched together: about 50 MB of decoded pictures
PROBE = 64  # digits on which a target is looked for before all are coded
PSNR_STEP = QUALITY_STEPS // 2  # of the header's quality, where the digits miss a target that the probe met


@dataclass(frozen=True)
class Quantised:
    """Digits at one quality: the integers that are coded, (N, A), each digit's cluster, (N,), and mean PSNR in dB."""

    quality_u16: int
    k: Integers
    cluster: npt.NDArray[np.intp]
    psnr: float


class DigitCodec:
    """One model of digits on one backend; files hold one digit, or a folder of them with their names.

    model: a bundled model's name or a package folder. backend: `auto`, a name, or a backend. threads: all cores if
    None. Not to be shared between threads. Raises ModelError, BackendError, MissingExtraError, OptionError.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Package = "mnist-conv",
        *,
        backend: str | Backend = "auto",
        threads: int | None = None,
    ) -> None:
        self._vae = DigitVAE(model, backend=backend, threads=threads)
        self.package = self._vae.package
        self._tables = DigitTables.from_bytes(self.package.read("tables.npz"))
        if int(self._tables.active[-1]) >= self._vae.latents:
            raise ModelError(
                f"{self.package.path}: tables.npz codes latent {self._tables.active[-1]}, the model has "
                f"{self._vae.latents}; install the package again"
            )
        self._coder = _Coder(self._tables)

    @staticmethod
    def for_file(data: bytes, *, backend: str = "auto", threads: int | None = None) -> DigitCodec:
        """The codec that can decode a file, from the bundled models. BitstreamError, ModelError."""
        return DigitCodec(find_by_id(bitstream.read_header(data).model_id), backend=backend, threads=threads)

    def compress(
        self,
        digits: Digits,
        quality: float | None = None,
        *,
        psnr: float | None = None,
        names: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> bytes:
        """A file with digits, uint8 (N, 28, 28); names has one file name for each, None for a single digit.

        At most one of quality (1..100, default 60) and psnr: the least mean PSNR over the digits, in dB. Raises
        OptionError, TargetError (names what can be reached), BitstreamError (names that cannot be files in one folder).
        """
        check_digits(digits, names)
        if quality is not None and psnr is not None:
            raise OptionError("give one of quality and psnr, not both")
        if psnr is None:
            chosen = quality_to_u16(DEFAULT_QUALITY if quality is None else quality)
            return self.write(self.quantise(digits, chosen, progress=progress), names)
        return self.write(self._reach(digits, psnr, progress=progress), names)

    def decompress(self, data: bytes, *, max_pixels: int = bitstream.MAX_PIXELS) -> Digits:
        """The digits of a file, uint8 (N, 28, 28). BitstreamError, ModelError (made by another model), BackendError."""
        return self.decode(bitstream.parse_digits(data, max_pixels=max_pixels))

    def decode(self, stream: DigitsStream) -> Digits:
        """The same for a file that has been parsed."""
        level = self._tables.level(stream.header.quality_u16)
        return self._render(self.decode_latents(stream), level)

    def decode_latents(self, stream: DigitsStream) -> Integers:
        """The integers of a file, (N, A), bit-identical on every backend. BitstreamError, ModelError."""
        header, manifest = stream.header, self.package.manifest
        if header.kind is not Kind.DIGITS:
            raise BitstreamError(
                f"the file holds {header.kind.name.lower()}; {manifest.name} decodes lossy digits only"
            )
        if header.model_id != manifest.model_id:
            raise ModelError(
                f"the file was made by model {header.model_id:016x}, not by {manifest.name} "
                f"({manifest.model_id:016x}); name its package with --model"
            )
        return self._coder.decode(stream.words, stream.count, self._tables.level(header.quality_u16), stream.symbol_crc)

    def quantise(self, digits: Digits, quality_u16: int, *, progress: Progress | None = None) -> Quantised:
        """Search the integers of digits, uint8 (N, 28, 28), at a header's quality."""
        level = self._tables.level(quality_u16)
        cost = Cost(*self._tables.costs(level), self._slope(quality_u16))
        steps, found = self._tables.steps[level], []

        def decode(k: Integers) -> npt.NDArray[np.float32]:
            return self._render(k, level).reshape(len(k), -1).astype(np.float32)

        for start in range(0, len(digits), BATCH):
            part = digits[start : start + BATCH]
            mean = self._vae.encode(part).mean[:, self._tables.active]
            k = np.clip(np.round(mean / steps), -K_MAX, K_MAX).astype(np.int32)
            found.append(search(part.reshape(len(part), -1).astype(np.float32), k, cost, decode=decode))
            if progress:
                progress(start + len(part), len(digits))
        k = np.concatenate(found)
        return Quantised(quality_u16, k, cost.choose(k)[0], mean_psnr(digits, self._render(k, level)))

    def write(self, quantised: Quantised, names: Sequence[str] | None) -> bytes:
        """Entropy-code digits into a whole file. BitstreamError for names that cannot be files in one folder."""
        model_id, level = self.package.manifest.model_id, self._tables.level(quantised.quality_u16)
        words, crc = self._coder.encode(quantised.k, quantised.cluster, level)
        header = Header(Kind.DIGITS, model_id, DIGIT_SIDE, DIGIT_SIDE, 1, quantised.quality_u16)
        stored = None if names is None else tuple(names)
        return bitstream.write(DigitsStream(header, len(quantised.k), crc, words, stored))

    def _reach(self, digits: Digits, target: float, *, progress: Progress | None) -> Quantised:
        """The lowest quality at which the mean PSNR is at least `target`, by bisection on some of the digits."""
        lowest, highest = quality_to_u16(QUALITY_MIN), quality_to_u16(QUALITY_MAX)
        probe = digits[:: -(-len(digits) // PROBE)]
        low, high = lowest, highest
        while high - low > PSNR_STEP:
            middle = (low + high) // 2
            low, high = (low, middle) if self.quantise(probe, middle).psnr >= target else (middle, high)
        # The lowest quality itself has not been tried where every other one is good enough.
        for quality in range(low if low == lowest else high, highest + PSNR_STEP, PSNR_STEP):
            found = self.quantise(digits, min(quality, highest), progress=progress)
            if found.psnr >= target:
                return found
        reachable = f"{self.quantise(digits, lowest).psnr:.4g} to {found.psnr:.4g} dB"
        raise TargetError(f"--psnr {target:.4g} cannot be reached: these digits allow {reachable}")

    def _slope(self, quality_u16: int) -> float:
        """Bits that one dB is worth; between the middles of two levels it changes geometrically."""
        slopes = np.log(self._tables.slopes.astype(np.float64))
        share = (quality_u16 / QUALITY_STEPS - QUALITY_MIN) / (QUALITY_MAX - QUALITY_MIN)
        position = share * self._tables.levels - 0.5
        return float(np.exp(np.interp(position, np.arange(len(slopes)), slopes)))

    def _render(self, k: Integers, level: int) -> Digits:
        z = np.zeros((len(k), self._vae.latents), np.float32)
        z[:, self._tables.active] = k * self._tables.steps[level]
        return self._vae.render(z)


class _Coder:
    """ANS coding of clusters and integers: first all clusters, then all k, those with the same table together."""

    def __init__(self, tables: DigitTables) -> None:
        self._tables = tables
        self._flat = tables.tables.reshape(-1, 2 * REACH + 1)
        self._symbol = lru_cache(maxsize=None)(lambda row: _categorical(self._flat[row]))
        self._cluster = lru_cache(maxsize=None)(lambda level: _categorical(tables.clusters[level]))

    def encode(self, k: Integers, cluster: npt.NDArray[np.intp], level: int) -> tuple[bytes, int]:
        """Words (little-endian) and symbol CRC-32 of k (N, A) in clusters (N,)."""
        stack = Stack()
        symbols = k - self._tables.base(level)[cluster] + REACH
        stack.push(symbols.ravel().astype(np.int32), self._tables.index(level)[cluster].ravel(), self._symbol)
        stack.push(cluster.astype(np.int32), np.full(len(k), level), self._cluster)
        return stack.words(), _crc(k, cluster)

    def decode(self, words: bytes, count: int, level: int, symbol_crc: int) -> Integers:
        """Inverse of `encode`: (count, A). BitstreamError unless exactly that was coded."""
        stack = Stack(words)
        cluster = stack.pop(np.full(count, level), self._cluster)
        base = self._tables.base(level)[cluster]
        rows = self._tables.index(level)[cluster]
        k = stack.pop(rows.ravel(), self._symbol).reshape(base.shape) + base - REACH
        if not stack.empty:
            raise BitstreamError("damaged digits: data is left after the last symbol")
        if np.abs(k).max() > K_MAX:
            raise BitstreamError(f"damaged digits: a latent is outside +-{K_MAX}")
        if (found := _crc(k, cluster)) != symbol_crc:
            raise BitstreamError(
                f"damaged digits: the decoded symbols have CRC {found:08x}, the file says {symbol_crc:08x}"
            )
        return np.asarray(k, np.int32)


def check_digits(digits: Digits, names: Sequence[str] | None) -> None:
    """OptionError unless digits are uint8 (N, 28, 28), N >= 1, with one name each, or a single one without a name."""
    if digits.dtype != np.uint8 or digits.shape[1:] != (DIGIT_SIDE, DIGIT_SIDE) or len(digits) < 1:
        raise OptionError(
            f"expected digits of uint8 (N, {DIGIT_SIDE}, {DIGIT_SIDE}), found {digits.dtype} {digits.shape}"
        )
    if names is None and len(digits) != 1:
        raise OptionError(f"{len(digits)} digits need a name each, found none: give names")
    if names is not None and len(names) != len(digits):
        raise OptionError(f"found {len(names)} names for {len(digits)} digits: give one for each")
    if names is not None:
        bitstream.check_names(names)  # before the search, which takes long


def mean_psnr(originals: Digits, decoded: Digits) -> float:
    """Mean over digits, (N, 28, 28) each, of the PSNR in dB, each at most 100."""
    from vaert.metrics import psnr

    return float(np.mean([psnr(a, b) for a, b in zip(originals, decoded, strict=True)]))


def _categorical(counts: npt.NDArray[np.uint32]) -> Any:
    return constriction.stream.model.Categorical(counts / TOTAL, perfect=True)


def _crc(k: Integers, cluster: npt.NDArray[Any]) -> int:
    """CRC-32 of the clusters as uint8, then of k as int8, digit by digit."""
    return zlib.crc32(k.astype(np.int8).tobytes(), zlib.crc32(cluster.astype(np.uint8).tobytes()))
