"""How large are the files at which fidelity, beside JPEG, WebP, AVIF and published codecs?

For a model in any folder, before it is bundled; the suite measures the bundled ones with `test_rate_distortion.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks._formats import FORMATS
from benchmarks._machine import THREADS, finish, model_facts, parser, require
from benchmarks._rate_distortion import (
    CLI_QUALITIES,
    QUALITIES,
    Sample,
    bd_rates,
    check_command_line,
    curve,
    mean_points,
    of_codec,
    of_format,
    quality_bars,
)
from vaert.anchors import published_curves
from vaert.evaluate import find_images, read_rgb
from vaert.runtime.codec import Codec

NAME = "rate_distortion"


def main() -> int:
    """Measure, check and write."""
    options = parser(str(__doc__), NAME)
    options.add_argument("--images", type=Path, required=True, help="folder of pictures (Kodak for published curves)")
    given = options.parse_args()
    paths = find_images(given.images)
    codec = Codec(given.model)
    forms = [form for form in FORMATS if not form.missing()]
    ours: list[list[Sample]] = []
    others: dict[str, list[list[Sample]]] = {form.name: [] for form in forms}
    for path in paths:
        picture = read_rgb(path)
        ours.append(of_codec(codec, picture, QUALITIES))
        wanted = [(s.bpp, s.psnr) for s in (ours[-1][QUALITIES.index(quality)] for quality in CLI_QUALITIES)]
        differs = check_command_line(path, given.model, values=wanted)
        require(not differs, differs)
        for form in forms:
            others[form.name].append(of_format(form, picture, form.settings, threads=THREADS))
        print(f"{path.name} done", flush=True)
    points = mean_points(QUALITIES, ours)
    curves = [curve(form.name, mean_points(form.settings, others[form.name])) for form in forms]
    against = bd_rates(curve(codec.package.manifest.name, points), curves[0], curves[1:], published_curves())
    results: dict[str, Any] = {
        "model": model_facts(codec.package),
        "images": len(paths),
        "units": {"bpp": "bits per pixel of whole files, mean", "psnr": "dB, RGB, 8 bit, mean", "percent": "BD-rate"},
        "points": [asdict(point) for point in points],
        "curves": [asdict(one) for one in curves],
        "bd_rates": [asdict(comparison) for comparison in against],
        "command_line_qualities": CLI_QUALITIES,
    }
    bars = quality_bars(points, against[0])
    return finish(NAME, given.out, results=json.loads(json.dumps(results), parse_float=_short), bars=bars)


def _short(text: str) -> float:
    return round(float(text), 5)


if __name__ == "__main__":
    raise SystemExit(main())
