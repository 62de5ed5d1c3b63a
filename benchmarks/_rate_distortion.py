"""Rate, distortion and BD-rates of codecs over a folder: what the suite and `benchmarks.rate_distortion` share."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

from benchmarks._formats import Format, timed_ms
from benchmarks._machine import Bar
from vaert.bd_rate import Curve
from vaert.cli import main as vaert_main
from vaert.evaluate import JPEG_NAME, Comparison, Pixels, Point, compare, read_rgb
from vaert.metrics import ms_ssim, psnr
from vaert.runtime.codec import Codec, quality_to_u16

QUALITIES = (1.0, *(float(q) for q in range(5, 101, 5)))
CLI_QUALITIES = (1.0, 60.0, 100.0)
BAR_PERCENT, BAR_BPP = -40.0, (0.1, 1.8)
KODAK = tuple(f"kodim{number:02}" for number in range(1, 25))


@dataclass(frozen=True)
class Sample:
    """One picture at one setting: bits per pixel of the whole file, PSNR in dB, MS-SSIM, and single times."""

    bpp: float
    psnr: float
    ms_ssim: float | None
    encode_ms: float
    decode_ms: float


@dataclass(frozen=True)
class MeanPoint(Point):
    """Means over pictures at one setting, which `quality` holds; of the times the medians."""

    encode_ms: float
    decode_ms: float


def of_codec(codec: Codec, picture: Pixels, qualities: Sequence[float]) -> list[Sample]:
    """A picture (H, W, 3) at each quality. The encoder network runs once, and its time is part of every `encode_ms`."""
    analysed, analysis_ms = timed_ms(lambda: codec.analyse(picture))
    found = []
    for quality in qualities:
        step = quality_to_u16(quality)
        data, encode_ms = timed_ms(lambda step=step: codec.write(analysed, codec.attempt(analysed, step)))  # type: ignore[misc]
        decoded, decode_ms = timed_ms(lambda data=data: codec.decompress(data))  # type: ignore[misc]
        found.append(_sample(picture, data, decoded, encode_ms=analysis_ms + encode_ms, decode_ms=decode_ms))
    return found


def of_format(form: Format, picture: Pixels, settings: Sequence[int], *, threads: int) -> list[Sample]:
    """The same in another format."""
    found = []
    for setting in settings:
        data, encode_ms = timed_ms(lambda setting=setting: form.encode(picture, setting, threads=threads))  # type: ignore[misc]
        decoded, decode_ms = timed_ms(lambda data=data: form.decode(data))  # type: ignore[misc]
        found.append(_sample(picture, data, decoded, encode_ms=encode_ms, decode_ms=decode_ms))
    return found


def _sample(picture: Pixels, data: bytes, decoded: Pixels, *, encode_ms: float, decode_ms: float) -> Sample:
    rate = 8 * len(data) / (picture.shape[0] * picture.shape[1])
    return Sample(rate, psnr(picture, decoded), ms_ssim(picture, decoded), encode_ms, decode_ms)


def mean_points(settings: Sequence[float], images: Sequence[Sequence[Sample]]) -> list[MeanPoint]:
    """Means over pictures, [picture][setting] -> one for each setting."""
    points = []
    for setting, column in zip(settings, zip(*images, strict=True), strict=True):
        similar = [value.ms_ssim for value in column if value.ms_ssim is not None]
        points.append(
            MeanPoint(
                setting,
                fmean(value.bpp for value in column),
                fmean(value.psnr for value in column),
                fmean(similar) if len(similar) == len(column) else None,
                round(median(value.encode_ms for value in column), 3),
                round(median(value.decode_ms for value in column), 3),
            )
        )
    return points


def curve(name: str, points: Sequence[Point]) -> Curve:
    """The points as BD-rates need them; of settings that give the same picture the first, which has the least bits."""
    kept = [point for number, point in enumerate(points) if point.psnr not in {p.psnr for p in points[:number]}]
    return Curve(name, tuple(p.bpp for p in kept), tuple(p.psnr for p in kept))


def bd_rates(
    ours: Curve, jpeg: Curve, others: Sequence[Curve], published: Sequence[Curve] = ()
) -> tuple[Comparison, ...]:
    """BD-rates against JPEG (4:2:0), other curves of the same pictures, and published ones."""
    return (*compare(ours, jpeg, others, measured=True), *compare(ours, jpeg, published)[1:])


def check_command_line(path: Path, model: str, *, values: Sequence[tuple[float, float]]) -> str:
    """`vaert compress` and `vaert decompress` at CLI_QUALITIES give files of the rates and fidelities of `values`.

    model: a bundled name or a package folder. Returns what differs in one line, nothing if all is equal.
    """
    original = read_rgb(path)
    with tempfile.TemporaryDirectory() as folder:
        coded, decoded = Path(folder, "coded.vaert"), Path(folder, "decoded.png")
        for quality, wanted in zip(CLI_QUALITIES, values, strict=True):
            shared = ["--model", model, "--quiet", "--force"]
            codes = [
                vaert_main(["compress", str(path), str(coded), "--quality", str(quality), *shared]),
                vaert_main(["decompress", str(coded), str(decoded), *shared]),
            ]
            if codes != [0, 0]:
                return f"{path.name}: the command line ended with {codes}"
            rate = 8 * coded.stat().st_size / (original.shape[0] * original.shape[1])
            found = (rate, psnr(original, read_rgb(decoded)))
            if found != wanted:
                return f"{path.name}: {found} from the command line, {wanted} from the library"
    return ""


def quality_bars(points: Sequence[Point], against_jpeg: Comparison, *, of: str = "") -> list[Bar]:
    """BD-rate against JPEG, and growth with quality."""
    strict = all(b.bpp > a.bpp and b.psnr > a.psnr for a, b in pairwise(points))
    low, high = points[0].bpp, points[-1].bpp
    remark = f" ({against_jpeg.remark})" if against_jpeg.remark else ""
    percent = against_jpeg.percent
    assert against_jpeg.reference == JPEG_NAME
    return [
        Bar(
            f"{of}BD-rate against JPEG",
            f"{BAR_PERCENT:g} % or better",
            "none" if percent is None else f"{percent:.1f} %{remark}",
            percent is not None and against_jpeg.complete and percent <= BAR_PERCENT,
        ),
        Bar(
            f"{of}mean rate and PSNR grow strictly with quality",
            f"over at least {BAR_BPP[0]} to {BAR_BPP[1]} bpp",
            f"{'strictly' if strict else 'not strictly'}, {low:.3f} to {high:.3f} bpp",
            strict and low <= BAR_BPP[0] and high >= BAR_BPP[1],
        ),
    ]
