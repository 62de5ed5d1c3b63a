"""How large are the files at which fidelity, beside JPEG, WebP, AVIF and published codecs?"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._machine import ROOT, Bar, finish, model_facts, parser, require
from vaert.anchors import (
    DRAWN,
    JPEG_OPTIONS,
    JPEG_QUALITIES,
    mean_curve,
    pillow_rate_psnr,
    published_curves,
)
from vaert.bd_rate import Curve
from vaert.cli import main as vaert_main
from vaert.evaluate import JPEG_NAME, Point, compare, find_images, measure, read_rgb
from vaert.plot import write_plot
from vaert.runtime.codec import Codec

NAME = "rate_distortion"
QUALITIES = (1.0, *(float(q) for q in range(5, 101, 5)))
CLI_QUALITIES = (1.0, 60.0, 100.0)
BAR_PERCENT, BAR_BPP = -40.0, (0.1, 1.8)
FORMATS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    JPEG_NAME: ("JPEG", JPEG_QUALITIES, dict(JPEG_OPTIONS)),
    "WebP (Pillow, method 6)": ("WEBP", (1, 10, 25, 40, 55, 70, 80, 90, 95), {"method": 6}),
    "AVIF (Pillow, speed 6, 4:2:0)": ("AVIF", (10, 25, 40, 50, 60, 70, 80, 90), {"speed": 6, "subsampling": "4:2:0"}),
}
Pixels = npt.NDArray[np.uint8]


def main() -> int:
    """Measure, check and write."""
    options = parser(str(__doc__), NAME)
    options.add_argument("--images", type=Path, required=True, help="folder of pictures (Kodak for published curves)")
    options.add_argument("--plot", type=Path, default=ROOT / "docs" / "images" / "rd.png", help="PNG of the curves")
    given = options.parse_args()
    paths = find_images(given.images)
    codec = Codec(given.model)
    ours: list[list[tuple[float, float, float | None]]] = []
    others: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in FORMATS}
    for path in paths:
        picture = read_rgb(path)
        ours.append(measure(codec, picture, QUALITIES))
        check_command_line(path, given.model, values=ours[-1])
        for name, (kind, qualities, extra) in FORMATS.items():
            others[name].append([pillow_rate_psnr(picture, kind, quality=q, **extra) for q in qualities])
        print(f"{path.name} done", flush=True)
    points = mean_points(ours)
    curve = Curve(f"vaert {codec.package.manifest.name}", tuple(p.bpp for p in points), tuple(p.psnr for p in points))
    measured = [mean_curve(name, values) for name, values in others.items()]
    return report(given, model_facts(codec.package), points=points, curves=[curve, *measured], images=len(paths))


def check_command_line(path: Path, model: str, *, values: Sequence[tuple[float, float, float | None]]) -> None:
    """`vaert compress` and `vaert decompress` give files of the sizes, and pictures of the fidelity, just measured."""
    from vaert.metrics import psnr

    original = read_rgb(path)
    with tempfile.TemporaryDirectory() as folder:
        coded, decoded = Path(folder, "coded.vaert"), Path(folder, "decoded.png")
        for quality in CLI_QUALITIES:
            shared = ["--model", model, "--quiet", "--force"]
            codes = [
                vaert_main(["compress", str(path), str(coded), "--quality", str(quality), *shared]),
                vaert_main(["decompress", str(coded), str(decoded), *shared]),
            ]
            require(codes == [0, 0], f"{path.name}: the command line ended with {codes}")
            rate = 8 * coded.stat().st_size / (original.shape[0] * original.shape[1])
            found, wanted = (rate, psnr(original, read_rgb(decoded))), values[QUALITIES.index(quality)][:2]
            require(found == wanted, f"{path.name}: {found} from the command line, {wanted} from the library")


def mean_points(images: Sequence[Sequence[tuple[float, float, float | None]]]) -> list[Point]:
    """Means over images, per quality."""
    points = []
    for quality, column in zip(QUALITIES, zip(*images, strict=True), strict=True):
        bpp, fidelity = (float(np.mean([value[index] for value in column], dtype=np.float64)) for index in (0, 1))
        similar = [value[2] for value in column if value[2] is not None]
        points.append(Point(quality, bpp, fidelity, float(np.mean(similar)) if len(similar) == len(column) else None))
    return points


def report(
    given: argparse.Namespace, model: dict[str, Any], *, points: list[Point], curves: list[Curve], images: int
) -> int:
    """Compare the curves, draw them and write the results."""
    ours, jpeg, *others = curves
    against = [*compare(ours, jpeg, others, measured=True), *compare(ours, jpeg, published_curves())[1:]]
    strict = all(b.bpp > a.bpp and b.psnr > a.psnr for a, b in pairwise(points))
    reach = (points[0].bpp, points[-1].bpp)
    first = against[0]
    bars = [
        Bar(
            "BD-rate against JPEG",
            f"{BAR_PERCENT:g} % or better",
            "none"
            if first.percent is None
            else f"{first.percent:.1f} %" + (f" ({first.remark})" if first.remark else ""),
            first.percent is not None and first.complete and first.percent <= BAR_PERCENT,
        ),
        Bar(
            "mean rate and PSNR grow strictly with quality",
            f"over at least {BAR_BPP[0]} to {BAR_BPP[1]} bpp",
            f"{'strictly' if strict else 'not strictly'}, {reach[0]:.3f} to {reach[1]:.3f} bpp",
            strict and reach[0] <= BAR_BPP[0] and reach[1] >= BAR_BPP[1],
        ),
    ]
    given.plot.parent.mkdir(parents=True, exist_ok=True)
    title = f"{images} images, means; vaert: whole files"
    write_plot(
        given.plot,
        curves,
        published=published_curves([name for name in DRAWN if name != "WebP"]),
        title=title,
        force=True,
    )
    results = {
        "model": model,
        "images": images,
        "units": {"bpp": "bits per pixel of whole files, mean", "psnr": "dB, RGB, 8 bit, mean", "percent": "BD-rate"},
        "points": [asdict(point) for point in points],
        "curves": [asdict(curve) for curve in curves[1:]],
        "bd_rates": [asdict(comparison) for comparison in against],
        "command_line_qualities": CLI_QUALITIES,
    }
    return finish(NAME, given.out, results=json.loads(json.dumps(results), parse_float=_short), bars=bars)


def _short(text: str) -> float:
    return round(float(text), 5)


if __name__ == "__main__":
    raise SystemExit(main())
