"""Would a second compressed version of the same picture, a reference, help to restore it? By simple ways to use one.

Two cases: a version of higher quality, and one of the same quality whose JPEG grid lies half a block further.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._machine import finish, model_facts, parser
from benchmarks.restoration import clean_pictures
from vaert.evaluate import Pixels, read_rgb
from vaert.evaluate_restorer import CHROMA, compressed, mean
from vaert.package import find_package
from vaert.runtime.restorer import Restorer
from vaert.super_resolution import luma_psnr

NAME = "restoration_reference"
LOW, HIGH = 10, 20  # qualities
HALF_BLOCK = 4


def main() -> int:
    """Measure and write."""
    options = parser(str(__doc__), NAME, model="restore")
    options.add_argument("--images", type=Path, required=True, help="folder of clean pictures, or with HR: bsd100")
    given = options.parse_args()
    package = find_package(given.model)
    restorer, paths = Restorer(package), clean_pictures(given.images)
    cases: dict[str, list[dict[str, float]]] = {f"quality {LOW} and {HIGH}": [], f"quality {LOW}, grids apart": []}
    for path in paths:
        clean = read_rgb(path)
        first, better = jpeg(clean, LOW), jpeg(clean, HIGH)
        shifted = first.copy()
        shifted[HALF_BLOCK:, HALF_BLOCK:] = jpeg(clean[HALF_BLOCK:, HALF_BLOCK:], LOW)
        for name, other in zip(cases, (better, shifted), strict=True):
            cases[name].append(ways(restorer, clean, first, other))
    results: dict[str, Any] = {
        "model": model_facts(package),
        "images": given.images.name,
        "pictures": len(paths),
        "psnr_on_y_db": {
            name: {way: round(mean([row[way] for row in rows]), 3) for way in rows[0]} for name, rows in cases.items()
        },
    }
    print(results["psnr_on_y_db"])
    return finish(NAME, given.out, results=results, bars=[])


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    """A picture as it comes back from a JPEG file."""
    return compressed(pixels, "JPEG", quality=quality, subsampling=CHROMA)


def ways(restorer: Restorer, clean: Pixels, damaged: Pixels, reference: Pixels) -> dict[str, float]:
    """PSNR on Y in dB of what can be made of a damaged picture and a reference."""
    restored = restorer.restore(damaged), restorer.restore(reference)
    both = average(damaged, reference)
    made = {
        "damaged": damaged,
        "reference": reference,
        "average": both,
        "damaged, restored": restored[0],
        "reference, restored": restored[1],
        "average, restored": restorer.restore(both),
        "average of both restored": average(*restored),
    }
    return {way: luma_psnr(clean, pixels, shave=0) for way, pixels in made.items()}


def average(one: Pixels, two: Pixels) -> Pixels:
    """Mean of two pictures, rounded up."""
    return ((one.astype(np.uint16) + two + 1) // 2).astype(np.uint8)


if __name__ == "__main__":
    raise SystemExit(main())
