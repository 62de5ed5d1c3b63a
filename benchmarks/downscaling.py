"""At which rates does coding at half the size, enlarged again by the upscaler, beat plain compression?

Rates are those of whole files, PSNR is in RGB at full size; curves are means over the pictures at equal quality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from benchmarks._machine import Bar, add_pictures, finish, model_facts, parser, pictures, require
from vaert import bitstream
from vaert.bitstream import Kind
from vaert.evaluate import Pixels, read_rgb
from vaert.metrics import ms_ssim, psnr
from vaert.package import find_package
from vaert.resample import upscale as bicubic
from vaert.runtime.codec import Codec, quality_to_u16

NAME = "downscaling"
PLAIN, HALF, HALF_BICUBIC = "plain", "half size, upscaler", "half size, bicubic"
PLAIN_QUALITIES = (1, 3, 6, 10, 15, 20, 25, 30, 40)
HALF_QUALITIES = (1, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100)
RATES = (0.03, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3)  # bits per pixel, in the table


@dataclass(frozen=True)
class Point:
    """One file or a mean: bits per pixel, dB, MS-SSIM."""

    bpp: float
    psnr: float
    ms_ssim: float


Curves = Mapping[str, Sequence[Point]]


def main() -> int:
    """Measure, check and write."""
    options = parser(str(__doc__), NAME)
    add_pictures(options)
    options.add_argument(
        "--upscaler", default="upscale-x2", help="bundled name or package folder (default: upscale-x2)"
    )
    given = options.parse_args()
    codec = Codec(given.model, upscaler=given.upscaler)
    found = [measure(codec, read_rgb(path)) for path in pictures(given)]
    means = {name: mean([curves[name] for curves in found]) for name in found[0]}
    meeting = crossing(means[PLAIN], means[HALF])
    each = [crossing(curves[PLAIN], curves[HALF]) for curves in found]
    results = {
        "model": model_facts(codec.package),
        "upscaler": model_facts(find_package(given.upscaler)),
        "images": len(found),
        "points": {name: [vars(p) for p in points] for name, points in means.items()},
        "qualities": {PLAIN: PLAIN_QUALITIES, HALF: HALF_QUALITIES, HALF_BICUBIC: HALF_QUALITIES},
        "at_rates": {
            measure: {f"{rate:g}": {n: at(points, rate, measure) for n, points in means.items()} for rate in RATES}
            for measure in ("psnr", "ms_ssim")
        },
        "crossing_bpp": meeting,
        "crossing_bpp_bicubic": crossing(means[PLAIN], means[HALF_BICUBIC]),
        "crossing_bpp_ms_ssim": crossing(means[PLAIN], means[HALF], measure="ms_ssim"),
        "crossing_bpp_of_each": each,
        "lowest_bpp": {name: points[0].bpp for name, points in means.items()},
    }
    text = "nowhere" if meeting is None else f"below {meeting:.3f} bpp, means of {len(found)} images"
    bar = Bar("half size beats plain in PSNR", "at some rate that both reach", text, meeting is not None)
    return finish(NAME, given.out, results=results, bars=[bar])


def measure(codec: Codec, picture: Pixels) -> Curves:
    """Curves of one picture (H, W, 3); the encoder network runs once for each size."""
    analysed = codec.analyse(picture)
    plain = []
    for quality in PLAIN_QUALITIES:
        data = codec.write(analysed, codec.attempt(analysed, quality_to_u16(quality)))
        plain.append(point(data, picture, codec.decompress(data)))
    analysed = codec.analyse(picture, downscale=2)
    half, half_bicubic = [], []
    for quality in HALF_QUALITIES:
        data = codec.write(analysed, codec.attempt(analysed, quality_to_u16(quality)))
        half.append(point(data, picture, codec.decompress(data)))
        height, width = picture.shape[:2]
        half_bicubic.append(point(data, picture, bicubic(coded_picture(codec, data), 2)[:height, :width]))
    return {PLAIN: plain, HALF: half, HALF_BICUBIC: half_bicubic}


def coded_picture(codec: Codec, data: bytes) -> Pixels:
    """What a file of a down-scaled photo decodes to before it is enlarged."""
    stream = bitstream.parse_photo(data)
    header = stream.header
    small = replace(header, kind=Kind.PHOTO, width=header.coded_width, height=header.coded_height)
    return codec.decompress(bitstream.write(replace(stream, header=small)))


def point(data: bytes, picture: Pixels, decoded: Pixels) -> Point:
    """Rate and fidelity of one file."""
    similar = ms_ssim(picture, decoded)
    require(similar is not None, "a picture is too small for MS-SSIM")
    return Point(8 * len(data) / (picture.shape[0] * picture.shape[1]), psnr(picture, decoded), float(similar or 0))


def mean(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """Means over pictures, quality by quality."""
    columns = [[(p.bpp, p.psnr, p.ms_ssim) for p in column] for column in zip(*curves, strict=True)]
    return [Point(*(round(float(value), 5) for value in np.mean(column, axis=0))) for column in columns]


def interpolated(points: Sequence[Point], measure: str) -> Any:
    """A curve as a function of log(bpp), NaN outside its range."""
    x, y = np.log([p.bpp for p in points]), [getattr(p, measure) for p in points]
    require(bool((np.diff(x) > 0).all()), "a rate does not grow with quality")
    return PchipInterpolator(x, y, extrapolate=False)


def at(points: Sequence[Point], rate: float, measure: str) -> float | None:
    """A curve's value at a rate, None outside its range."""
    value = float(interpolated(points, measure)(np.log(rate)))
    return None if np.isnan(value) else round(value, 4)


def crossing(plain: Sequence[Point], half: Sequence[Point], *, measure: str = "psnr") -> float | None:
    """The highest rate up to which `half` is better than `plain` wherever both are; None if it never is."""
    rates = np.exp(np.linspace(np.log(plain[0].bpp), np.log(min(plain[-1].bpp, half[-1].bpp)), 2001))
    gain = interpolated(half, measure)(np.log(rates)) - interpolated(plain, measure)(np.log(rates))
    worse = np.nonzero(~(gain > 0))[0]
    if len(worse) and worse[0] == 0:
        return None
    return round(float(rates[worse[0] if len(worse) else -1]), 4)


if __name__ == "__main__":
    raise SystemExit(main())
