"""What users wait for, by kind of model: calls of the library on some pictures, with what proves their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks._suite import Row
from benchmarks._suite_engines import Pixels, Shelf
from vaert import bitstream
from vaert.image import encode_image, read_image
from vaert.metrics import psnr
from vaert.package import CODEC, DIGITS, LOSSLESS_DIGITS, RESTORER, UPSCALER, Package
from vaert.resample import downscale
from vaert.runtime.backends import Backend
from vaert.runtime.codec import Codec
from vaert.runtime.digit_files import DigitFiles, open_digit_files
from vaert.runtime.digit_vae import DigitVAE
from vaert.runtime.restorer import Restorer
from vaert.runtime.upscaler import Upscaler

KINDS = {
    CODEC: ("compress", "decompress"),
    UPSCALER: ("upscale",),
    RESTORER: ("restore",),
    DIGITS: ("encode", "render", "compress", "decompress"),
    LOSSLESS_DIGITS: ("compress", "decompress"),
}
PHOTOGRAPHS = (CODEC, UPSCALER, RESTORER)
PSNR_DB = 25.0  # least fidelity of a round trip at the default quality
# How far a precision may fall behind fp32 on the CPU in dB. The last is a guess: on average int8 loses far less.
BEHIND_DB = {"fp32": 0.05, "fp16": 0.1, "int8": 1.0}
KEPT_DB = 26.0  # of an upscaled picture made small again, against the small one
DIGIT_DB = 14.0
DAMAGE = "jpg"


@dataclass(frozen=True)
class Operation:
    """`run` processes all pictures once; `check` proves on some of them that it is right, and adds facts to a row."""

    run: Callable[[], object]
    check: Callable[[Row], None]


def operation(shelf: Shelf, package: Package, backend: Backend, *, name: str, pictures: Sequence[Pixels]) -> Operation:
    """The operation of that name for a package of any kind, on photographs (H, W, 3) or digits (28, 28)."""
    kind = package.manifest.kind
    if kind == CODEC:
        return _codec(shelf, Codec(package, backend=backend), name=name, pictures=pictures)
    if kind == UPSCALER:
        return _upscaler(Upscaler(package, backend=backend), pictures)
    if kind == RESTORER:
        return _restorer(Restorer(package, backend=backend), pictures)
    digits = np.stack(pictures)
    if name in ("encode", "render"):
        return _vae(DigitVAE(package, backend=backend), name=name, digits=digits)
    return _digits(open_digit_files(package, backend=backend), name=name, digits=digits)


def _codec(shelf: Shelf, codec: Codec, *, name: str, pictures: Sequence[Pixels]) -> Operation:
    files = [codec.compress(picture) for picture in pictures]

    def check(row: Row) -> None:
        picture, data = pictures[-1], files[-1]
        row.check(codec.compress(picture) == data, "compressing again gives the same file")
        decoded = codec.decompress(data)
        fidelity = psnr(picture, decoded)
        row.facts |= {"psnr_db": round(fidelity, 3), "bpp": round(8 * len(data) / decoded[..., 0].size, 4)}
        row.check(fidelity > PSNR_DB, f"the round trip is above {PSNR_DB:g} dB")
        _check_against_reference(shelf, codec, row, picture=picture, data=data)

    if name == "compress":
        return Operation(lambda: [codec.compress(picture) for picture in pictures], check)
    return Operation(lambda: _each(codec.decompress, files), check)


def _check_against_reference(shelf: Shelf, codec: Codec, row: Row, *, picture: Pixels, data: bytes) -> None:
    """Latents equal those of fp32 on the CPU, and fidelity near it; on that itself, those that the encoder meant."""
    latents = codec.decode_latents(bitstream.parse_photo(data))
    manifest = codec.package.manifest
    if manifest.precision == "fp32" and row.parameters["backend"] == "cpu":
        analysed = codec.analyse(picture)
        meant = codec.reconstruct(analysed, codec.attempt(analysed, bitstream.read_header(data).quality_u16))
        row.check(np.array_equal(meant, codec.decompress(data)), "the decoder gives what the encoder meant")
        return
    reference = Codec(shelf.package(row.parameters["model"], "fp32"), backend=shelf.backend("cpu"))
    stream = bitstream.parse_photo(data)
    row.check(np.array_equal(reference.decode_latents(stream), latents), "latents equal to those of fp32 on the CPU")
    best = psnr(picture, reference.decompress(reference.compress(picture)))
    allowed = BEHIND_DB[manifest.precision]
    row.check(row.facts["psnr_db"] > best - allowed, f"at most {allowed:g} dB below fp32 on the CPU")


def _upscaler(upscaler: Upscaler, pictures: Sequence[Pixels]) -> Operation:
    def check(row: Row) -> None:
        small = pictures[-1]
        large = upscaler.upscale(small)
        kept = psnr(small, downscale(large, upscaler.scale))
        row.facts["kept_db"] = round(kept, 3)
        row.check(kept > KEPT_DB, f"made small again it is within {KEPT_DB:g} dB of the small picture")

    return Operation(lambda: _each(upscaler.upscale, pictures), check)


def _restorer(restorer: Restorer, pictures: Sequence[Pixels]) -> Operation:
    damaged = [read_image(encode_image(picture, format=DAMAGE), name="damaged").pixels for picture in pictures]

    def check(row: Row) -> None:
        restored = restorer.restore(damaged[-1])
        before, after = psnr(pictures[-1], damaged[-1]), psnr(pictures[-1], restored)
        row.facts |= {"damaged_db": round(before, 3), "restored_db": round(after, 3)}
        row.check(after > before - BEHIND_DB["int8"], "the restored JPEG is not worse by more than 1 dB")
        row.check(not np.array_equal(restored, damaged[-1]), "the picture was changed")

    return Operation(lambda: _each(restorer.restore, damaged), check)


def _vae(vae: DigitVAE, *, name: str, digits: Pixels) -> Operation:
    means = vae.encode(digits).mean

    def check(row: Row) -> None:
        fidelity = psnr(digits, vae.render(means))
        row.facts["psnr_db"] = round(fidelity, 3)
        row.check(fidelity > (DIGIT_DB if vae.latents > 2 else DIGIT_DB / 2), "rendered means show the digits")

    return Operation((lambda: vae.encode(digits)) if name == "encode" else (lambda: vae.render(means)), check)


def _digits(codec: DigitFiles, *, name: str, digits: Pixels) -> Operation:
    lossless = codec.package.manifest.kind == LOSSLESS_DIGITS
    if lossless and codec.package.manifest.config["levels"] == 2:
        digits = np.where(digits > 127, np.uint8(255), np.uint8(0))
    names = [f"{number}.png" for number in range(len(digits))]
    data = codec.compress(digits, names=names)
    stream = bitstream.parse_digits(data)

    def check(row: Row) -> None:
        decoded = codec.decode(stream)
        row.facts |= {"bytes_per_digit": round(len(data) / len(digits), 2)}
        if lossless:
            row.check(np.array_equal(decoded, digits), "the digits come back without loss")
            return
        fidelity = psnr(digits, decoded)
        row.facts["psnr_db"] = round(fidelity, 3)
        row.check(fidelity > DIGIT_DB / 2, "the decoded digits show the digits")

    if name == "compress":
        return Operation(lambda: codec.compress(digits, names=names), check)
    return Operation(lambda: codec.decode(stream), check)


def _each(change: Callable[..., object], items: Sequence[object]) -> None:
    """Results are dropped: eight pictures of 8 megapixels, four times as wide, would take 3 GB."""
    for item in items:
        change(item)
