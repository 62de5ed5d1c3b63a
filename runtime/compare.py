"""A package on any backend against a reference package of the same model on the CPU, over the same pictures.

::

    found = compare(Package.open("fast-fp16"), find_package("fast"), pictures)
    print(*found.lines(), *found.faults(), sep=chr(10))  # found.to_dict() is the same for JSON
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vaert import bitstream
from vaert.errors import BitstreamError, ModelError, OptionError
from vaert.holes import made_hole
from vaert.metrics import psnr
from vaert.package import CODEC, DIGITS, LOSSLESS_DIGITS, RESTORER, UPSCALER, Package
from vaert.resample import downscale
from vaert.runtime.backends import Backend, OnnxRuntimeCpu, open_backend
from vaert.runtime.codec import Analysed, Codec, quality_to_u16
from vaert.runtime.comparison import (
    TOLERANCES,
    CodecRow,
    Comparison,
    LosslessRow,
    PictureRow,
    Row,
    Tolerance,
)
from vaert.runtime.digit_vae import DigitVAE
from vaert.runtime.digits import mean_psnr
from vaert.runtime.lossless import LosslessDigits
from vaert.runtime.made import made_digits, made_pictures
from vaert.runtime.restorer import Restorer
from vaert.runtime.upscaler import Upscaler

__all__ = ["QUALITIES", "TOLERANCES", "CodecRow", "Comparison", "LosslessRow", "PictureRow", "Tolerance", "compare"]

Pixels = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]
"""Called with how many pictures are done and how many there are."""

QUALITIES = (5.0, 20.0, 35.0, 50.0, 65.0, 80.0, 95.0)
JPEG_QUALITY = 10  # of the pictures that a restorer repairs
_Model = TypeVar("_Model")


def compare(
    package: Package,
    reference: Package,
    images: Sequence[Pixels] | Pixels = (),
    *,
    backend: str | Backend = "cpu",
    qualities: Sequence[float] = QUALITIES,
    progress: Progress | None = None,
) -> Comparison:
    """Run `package` on `backend` and `reference` on the CPU over the same pictures.

    Args:
        package: of any kind and precision.
        reference: of the same model id, usually the bundled fp32 package.
        images: uint8 RGB (H, W, 3) each, of any sizes; for models of digits uint8 (N, 28, 28). Made pictures if empty.
        backend: a name, or a backend; that of `package`.
        qualities: of a codec, 1..100.
        progress: called after each picture.

    Raises:
        ModelError: the packages are not of one model. OptionError: pictures of other types or shapes, no qualities.
        BackendError, MissingExtraError: an engine is missing or fails.
    """
    _check_models(package, reference)
    kind = package.manifest.kind
    pictures = _checked(images if len(images) else _made(package), kind)
    engine = open_backend(backend, package=package)
    pair = _Pair(package, reference, engine)
    if kind == CODEC:
        rows, inexact = _codecs(pair, pictures, qualities, progress)
    elif kind == LOSSLESS_DIGITS:
        rows, inexact = _lossless(pair, np.stack(pictures))
    else:
        rows, inexact = {UPSCALER: _upscalers, RESTORER: _restorers, DIGITS: _digits}[kind](pair, pictures, progress)
    manifest = package.manifest
    return Comparison(
        model=manifest.name,
        model_id=f"{manifest.model_id:016x}",
        kind=kind,
        precision=manifest.precision,
        reference_precision=reference.manifest.precision,
        backend=engine.name,
        images=len(pictures),
        pixels=sum(p.shape[0] * p.shape[1] for p in pictures),
        inexact=inexact,
        rows=tuple(rows),
    )


@dataclass(frozen=True)
class _Pair:
    """What is compared."""

    package: Package
    reference: Package
    backend: Backend

    def open(self, make: Callable[[Package, Backend], _Model]) -> tuple[_Model, _Model, str]:
        """Both models, the reference on the CPU, and what was said of the backend's exactness."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ours = make(self.package, self.backend)
        theirs = make(self.reference, OnnxRuntimeCpu())
        told = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
        return ours, theirs, told[0] if told else ""


def _check_models(package: Package, reference: Package) -> None:
    ours, theirs = package.manifest, reference.manifest
    if (ours.kind, ours.model_id) != (theirs.kind, theirs.model_id):
        raise ModelError(
            f"{package.path} is model {ours.name} ({ours.model_id:016x}), {reference.path} is {theirs.name} "
            f"({theirs.model_id:016x}): compare packages of one model"
        )
    if ours.kind not in (CODEC, DIGITS, LOSSLESS_DIGITS, UPSCALER, RESTORER):
        raise ModelError(f"model {ours.name} is of kind {ours.kind}, which nothing compares")


def _made(package: Package) -> Sequence[Pixels]:
    manifest = package.manifest
    if manifest.kind in (DIGITS, LOSSLESS_DIGITS):
        return list(made_digits(binary=manifest.geometry.get("levels") == 2))
    return made_pictures()


def _checked(images: Sequence[Pixels] | Pixels, kind: str) -> list[Pixels]:
    """The pictures, each of the shape that a model of this kind takes; OptionError otherwise."""
    digits = kind in (DIGITS, LOSSLESS_DIGITS)
    for image in images:
        right = image.shape == (28, 28) if digits else image.ndim == 3 and image.shape[2] == 3
        if image.dtype != np.uint8 or not right or min(image.shape[:2]) < 4:
            wanted = "(28, 28)" if digits else "(H, W, 3) of at least 4x4 pixels"
            raise OptionError(f"expected pictures of uint8 {wanted} for a {kind}, found {image.dtype} {image.shape}")
    return [np.ascontiguousarray(image) for image in images]


@dataclass(frozen=True)
class _Trial:
    """One picture at one quality: `CodecRow`'s fields, before sums and means."""

    sizes: tuple[int, int]  # bytes
    bits: tuple[float, float]
    psnr: tuple[float, float]
    levels: int
    compared: int
    different: int


def _codecs(
    pair: _Pair, pictures: Sequence[Pixels], qualities: Sequence[float], progress: Progress | None
) -> tuple[list[Row], str]:
    steps = [quality_to_u16(quality) for quality in qualities]
    if not steps:
        raise OptionError("no qualities to compare a codec at, expected at least one of 1 to 100")
    ours, theirs, inexact = pair.open(lambda package, backend: Codec(package, backend=backend))
    trials: list[list[_Trial]] = []
    for number, picture in enumerate(pictures, 1):
        analysed = ours.analyse(picture), theirs.analyse(picture)
        trials.append([_trial((ours, theirs), analysed, picture, step) for step in steps])
        if progress:
            progress(number, len(pictures))
    pixels = sum(p.shape[0] * p.shape[1] for p in pictures)
    columns = zip(qualities, zip(*trials, strict=True), strict=True)
    return [_codec_row(quality, column, pixels) for quality, column in columns], inexact


def _trial(codecs: tuple[Codec, Codec], analysed: tuple[Analysed, Analysed], picture: Pixels, step: int) -> _Trial:
    """Both codecs, ours and the reference, encode a picture and decode each other's files."""
    files, bits = zip(*(_coded(codec, one, step) for codec, one in zip(codecs, analysed, strict=True)), strict=True)
    streams = [bitstream.parse_photo(data, max_pixels=picture.size) for data in files]
    # What each makes of our file and of the reference's. Where we cannot decode, the reference's integers serve on.
    right = [codecs[1].decode_latents(stream) for stream in streams]
    ours = [_latents(codecs[0], stream) for stream in streams]
    different = [r.size if o is None else int(np.count_nonzero(o != r)) for o, r in zip(ours, right, strict=True)]
    made = codecs[0].render(streams[0], right[0] if ours[0] is None else ours[0])
    crossed = codecs[0].render(streams[1], right[1])
    theirs = codecs[1].render(streams[1], right[1])
    return _Trial(
        (len(files[0]), len(files[1])),
        (bits[0], bits[1]),
        (psnr(picture, made), psnr(picture, theirs)),
        _levels(crossed, theirs),
        sum(r.size for r in right),
        sum(different),
    )


def _coded(codec: Codec, analysed: Analysed, step: int) -> tuple[bytes, float]:
    """A file, and what its symbols cost by the tables."""
    attempt = codec.attempt(analysed, step)
    groups = tuple(attempt.groups())
    kept = replace(attempt, groups=lambda: iter(groups))
    return codec.write(analysed, kept), codec.bits(kept)


def _latents(codec: Codec, stream: bitstream.PhotoStream) -> npt.NDArray[np.int32] | None:
    """The integers of a file; None if this codec takes it for damaged, as it must where its prior differs."""
    try:
        return codec.decode_latents(stream)
    except BitstreamError:
        return None


def _codec_row(quality: float, trials: Sequence[_Trial], pixels: int) -> CodecRow:
    sizes, bits = (np.array([getattr(t, name) for t in trials], np.float64).sum(0) for name in ("sizes", "bits"))
    ours, theirs = (_mean([t.psnr[k] for t in trials]) for k in (0, 1))
    return CodecRow(
        quality=float(quality),
        bpp=float(8 * sizes[0] / pixels),
        reference_bpp=float(8 * sizes[1] / pixels),
        rate_change=float(bits[0] / bits[1] - 1) if bits[1] else 0.0,
        psnr=ours,
        reference_psnr=theirs,
        psnr_change=ours - theirs,
        levels=max(t.levels for t in trials),
        latents_compared=sum(t.compared for t in trials),
        latents_different=sum(t.different for t in trials),
    )


def _upscalers(pair: _Pair, pictures: Sequence[Pixels], progress: Progress | None) -> tuple[list[Row], str]:
    """Pictures made smaller by `vaert.resample` and larger again, as the best guess and with detail drawn."""
    ours, theirs, inexact = pair.open(lambda package, backend: Upscaler(package, backend=backend))
    scale, found = ours.scale, _Found()
    for number, picture in enumerate(pictures, 1):
        height, width = (side - side % scale for side in picture.shape[:2])
        large = picture[:height, :width]
        small = downscale(large, scale)
        for task, detail in ((f"x{scale}", 0.0), (f"x{scale}, detail 0.5", 0.5)):
            made = [model.upscale(small, detail=detail) for model in (ours, theirs)]
            found.add(task, large, made)
        if progress:
            progress(number, len(pictures))
    return found.rows(), inexact


def _restorers(pair: _Pair, pictures: Sequence[Pixels], progress: Progress | None) -> tuple[list[Row], str]:
    """Pictures damaged by JPEG, and with holes."""
    ours, theirs, inexact = pair.open(lambda package, backend: Restorer(package, backend=backend))
    found = _Found()
    for number, picture in enumerate(pictures, 1):
        damaged = _jpeg(picture)
        found.add(f"JPEG quality {JPEG_QUALITY}", picture, [model.restore(damaged) for model in (ours, theirs)])
        hidden = made_hole(*picture.shape[:2], seed=number - 1)
        holed = np.where(hidden[..., None], 0, picture).astype(np.uint8)
        found.add("hole", picture, [model.restore(holed, hidden) for model in (ours, theirs)])
        if progress:
            progress(number, len(pictures))
    return found.rows(), inexact


def _digits(pair: _Pair, pictures: Sequence[Pixels], progress: Progress | None) -> tuple[list[Row], str]:
    """Digits encoded and decoded from the posterior mean; latents on their own, pixels from the same latents."""
    ours, theirs, inexact = pair.open(lambda package, backend: DigitVAE(package, backend=backend))
    digits = np.stack(pictures)
    means = [model.encode(digits).mean for model in (ours, theirs)]
    made = [model.render(mean) for model, mean in zip((ours, theirs), means, strict=True)]
    if progress:
        progress(len(digits), len(digits))
    values = [mean_psnr(digits, one) for one in made]
    row = PictureRow(
        task="reconstruction",
        psnr=values[0],
        reference_psnr=values[1],
        psnr_change=values[0] - values[1],
        between=psnr(made[0], made[1]),
        levels=_levels(ours.render(means[1]), made[1]),
        latents=float(np.abs(means[0].astype(np.float64) - means[1]).max()),
    )
    return [row], inexact


def _lossless(pair: _Pair, digits: Pixels) -> tuple[list[Row], str]:
    """Digits coded by both and decoded by both."""
    ours, theirs, inexact = pair.open(LosslessDigits)
    coded = [model.compress(digits) for model in (ours, theirs)]
    different = 0
    for one in coded:
        for model in (ours, theirs):
            try:
                decoded = model.decompress(one, len(digits))
                different += int((decoded != digits).any((1, 2)).sum())
            except BitstreamError:
                different += len(digits)
    return [LosslessRow(len(digits), len(coded[0].words), len(coded[1].words), different)], inexact


class _Found:
    """Pairs of outputs by task, before the means."""

    def __init__(self) -> None:
        self._tasks: dict[str, list[tuple[float, float, float, int]]] = {}

    def add(self, task: str, original: Pixels, made: Sequence[Pixels]) -> None:
        """Output of the package and of the reference."""
        ours, theirs = made
        values = psnr(original, ours), psnr(original, theirs), psnr(ours, theirs), _levels(ours, theirs)
        self._tasks.setdefault(task, []).append(values)

    def rows(self) -> list[Row]:
        """Means by task."""
        rows: list[Row] = []
        for task, values in self._tasks.items():
            ours, theirs, between = (_mean([v[k] for v in values]) for k in range(3))
            rows.append(PictureRow(task, ours, theirs, ours - theirs, between, max(v[3] for v in values)))
        return rows


def _jpeg(picture: Pixels) -> Pixels:
    """A picture after JPEG at a low quality, by OpenCV."""
    import cv2

    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1].copy()


def _levels(first: Pixels, second: Pixels) -> int:
    """Largest difference of a sample."""
    return int(np.abs(first.astype(np.int16) - second).max())


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
