"""How many bits per pixel do lossless digits take, against gzip, bzip2, PNG and WebP, raw and in black and white?

Coded are the digits that nothing was trained on. Both pictures' formats also get all digits as one picture, a sheet of
rows of digits, and gzip and bzip2 all pixels as one file: the forms in which they can use what digits have in common.
"""

from __future__ import annotations

import bz2
import gzip
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks._machine import Bar, finish, model_facts, parser, require
from vaert.idx import SIDE, load_split
from vaert.package import find_package
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.runtime.lossless import LosslessDigits

NAME = "lossless_digits"
SEED = 5  # of the black and white digits
BAR_BINARY, REFERENCE_BINARY = 0.22, 0.19
COUNTS = (1, 10, 100)  # digits of smaller files
ROW = 40  # digits of a sheet's row, as far as they go

Digits = npt.NDArray[np.uint8]
Coder = Callable[[Digits], int]


def main() -> int:
    """Measure, check and write."""
    options = parser(str(__doc__), NAME)
    options.set_defaults(model="mnist-lossless")
    options.add_argument("--binary-model", default="mnist-lossless-binary", help="model of black and white digits")
    options.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    options.add_argument("--threads", type=int, default=1, help="of the networks (default: 1)")
    given = options.parse_args()
    split = load_split(given.data)
    sets = {"raw": (given.model, split.test), "binary": (given.binary_model, binarised(split.test))}
    results: dict[str, Any] = {"data": split.description, "digits": len(split.test), "seed": SEED}
    for kind, (model, digits) in sets.items():
        results[kind] = ours(model, digits, threads=given.threads) | {"others": others(digits)}
        print(kind, results[kind]["bits_per_pixel"], results[kind]["others"], flush=True)
    return finish(NAME, given.out, results=results, bars=bars(results))


def binarised(digits: Digits) -> Digits:
    """Black and white by chance, the grey value being the probability of white; the same every time."""
    chance = np.random.default_rng(SEED).random(digits.shape) * 255
    return np.where(chance < digits, 255, 0).astype(np.uint8)


def ours(model: str, digits: Digits, *, threads: int) -> dict[str, Any]:
    """Rate and speed of one model, every digit compared after decoding, by two configurations of the engine."""
    package = find_package(model)
    codec = LosslessDigits(package, OnnxRuntimeCpu(threads=threads))
    started = time.perf_counter_ns()
    coded = codec.compress(digits)
    encoded = time.perf_counter_ns()
    decoded = codec.decompress(coded, len(digits))
    finished = time.perf_counter_ns()
    require(np.array_equal(decoded, digits), f"{model}: digits changed")
    other = LosslessDigits(package, OnnxRuntimeCpu(threads=2, optimisation="none"))
    require(np.array_equal(other.decompress(coded, len(digits)), digits), f"{model}: the engine's options matter")
    return {
        "model": model_facts(package),
        "package_bytes": package.size,
        "bits_per_pixel": rate(len(coded.words), digits),
        "bits_per_pixel_of_small_files": {str(n): small(codec, digits, n) for n in COUNTS},
        "encode_ms_per_digit": round((encoded - started) / 1e6 / len(digits), 3),
        "decode_ms_per_digit": round((finished - encoded) / 1e6 / len(digits), 3),
        "threads": threads,
    }


def small(codec: LosslessDigits, digits: Digits, count: int) -> float:
    """Mean rate of files of `count` digits, over a hundred digits."""
    some = digits[:100]
    words = sum(len(codec.compress(some[i : i + count]).words) for i in range(0, len(some), count))
    return rate(words, some)


def rate(size: int, digits: Digits) -> float:
    """Bits per pixel, without any container."""
    return round(8 * size / digits.size, 4)


def others(digits: Digits) -> dict[str, dict[str, float]]:
    """Bits per pixel of other formats: a file per digit, and all in one."""
    bilevel = len(np.unique(digits)) == 2
    coders: dict[str, Coder] = {
        "gzip -9": lambda x: len(gzip.compress(x.tobytes(), 9, mtime=0)),
        "bzip2 -9": lambda x: len(bz2.compress(x.tobytes(), 9)),
        "PNG (Pillow, optimised)": lambda x: pillow(x, "PNG", bilevel=bilevel, optimize=True),
        "PNG (OpenCV, level 9)": lambda x: opencv_png(x, bilevel=bilevel),
        "WebP lossless": lambda x: pillow(x, "WEBP", bilevel=False, lossless=True, quality=100, method=6),
    }
    if bilevel:  # eight pixels per byte
        coders["gzip -9, packed"] = lambda x: len(gzip.compress(np.packbits(x > 0).tobytes(), 9, mtime=0))
        coders["bzip2 -9, packed"] = lambda x: len(bz2.compress(np.packbits(x > 0).tobytes(), 9))
    whole = sheet(digits)
    return {
        name: {
            "per digit": rate(sum(coder(digit) for digit in digits), digits),
            "all in one": rate(coder(digits if name.startswith(("gzip", "bzip2")) else whole), digits),
        }
        for name, coder in coders.items()
    }


def sheet(digits: Digits) -> Digits:
    """All digits in one picture, ROW in a row where that divides them."""
    row = ROW if len(digits) % ROW == 0 else 1
    return np.ascontiguousarray(
        digits.reshape(-1, row, SIDE, SIDE).transpose(0, 2, 1, 3).reshape(-1, row * SIDE), np.uint8
    )


def pillow(picture: Digits, kind: str, *, bilevel: bool, **options: Any) -> int:
    """Size of Pillow's file, checked to be lossless."""
    from PIL import Image

    image, buffer = Image.fromarray(picture), io.BytesIO()
    (image.convert("1", dither=Image.Dither.NONE) if bilevel else image).save(buffer, kind, **options)
    again = np.array(Image.open(buffer).convert("L"))
    require(np.array_equal(again, picture), f"{kind} changed a digit")
    return len(buffer.getvalue())


def opencv_png(picture: Digits, *, bilevel: bool) -> int:
    """Size of OpenCV's file, checked to be lossless."""
    options = [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_BILEVEL, int(bilevel)]
    data = cv2.imencode(".png", picture, options)[1]
    again = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    require(again is not None and np.array_equal(again, picture), "PNG changed a digit")
    return len(data)


def bars(results: dict[str, Any]) -> list[Bar]:
    """Better than every other format in its better form, and the bar on black and white digits."""
    made = []
    for kind in ("raw", "binary"):
        least = {name: min(rates.values()) for name, rates in results[kind]["others"].items()}
        best = min(least, key=lambda name: least[name])
        found = results[kind]["bits_per_pixel"]
        made.append(
            Bar(f"{kind} digits", f"below {best}, {least[best]}", f"{found} bits per pixel", found < least[best])
        )
    found = results["binary"]["bits_per_pixel"]
    what = f"at most {BAR_BINARY} bits per pixel (reference {REFERENCE_BINARY})"
    return [*made, Bar("binary digits", what, f"{found}", found <= BAR_BINARY)]


if __name__ == "__main__":
    raise SystemExit(main())
