"""How few bytes does a digit take at a fidelity: the VAEs against PCA, PNG, JPEG, WebP and AVIF of the same digits?

Coded are the digits that nothing was trained on, all of them in one file. Fidelity is the mean over digits of PSNR.
Every coder is asked for the least that reaches 20 dB, and what digits scaled down to 16x16 pixels (256 bytes) reach.
PCA has its basis, symbol values and tables from the digits that the VAEs were trained on; its settings are those that
do best on the last of them when fitted to the others. Neither its basis nor the models are counted, as both sides have
them.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _digit_formats as formats
from benchmarks import _pca
from benchmarks._digit_formats import Digits, measured
from benchmarks._machine import Bar, finish, model_facts, parser, require
from vaert.bitstream import parse_digits
from vaert.errors import TargetError
from vaert.idx import load_split
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.runtime.digits import DigitCodec

NAME = "digits"
TARGET_DB = 20.0
BAR_BYTES = 12.0
RAW_BYTES = 784
QUALITIES = (1.0, 25.0, 50.0, 75.0, 100.0)  # of the curve
SINGLE = 200  # digits that are also written one by one
Row = dict[str, Any]


def main() -> int:
    """Measure, check and write."""
    given = _options()
    split = load_split(given.data)
    digits = split.test
    pair, small = formats.scaled_down(digits)
    targets = (TARGET_DB, small.psnr_db)
    results: dict[str, Any] = {
        "data": split.description,
        "digits": len(digits),
        "raw_bytes": RAW_BYTES,
        "targets_db": targets,
        "scaled_down": {"filters": pair, **asdict(small)},
        "threads": given.threads,
    }
    models = [ours(model, digits, targets, threads=given.threads) for model in (given.model, *given.others)]
    results |= {"model": models[0]["model"], "models": models}
    results["pca"] = [asdict(row) for row in _pca.best(split.train, digits, targets, _pca.SETTINGS)]
    print(results["pca"], flush=True)
    results["formats"] = others(digits, targets)
    return finish(NAME, given.out, results=results, bars=bars(results))


def _options() -> argparse.Namespace:
    options = parser(str(__doc__), NAME)
    options.set_defaults(model="mnist-conv")
    options.add_argument("--others", nargs="*", default=[], help="more models of digits: names or package folders")
    options.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    options.add_argument("--threads", type=int, default=2, help="of the networks (default: 2)")
    return options.parse_args()


def ours(model: str, digits: Digits, targets: tuple[float, ...], *, threads: int) -> Row:
    """One model: the least that reaches each target, and points of its curve."""
    codec = DigitCodec(model, threads=threads)
    other = DigitCodec(model, backend=OnnxRuntimeCpu(threads=1, optimisation="none"))
    row = {
        "model": model_facts(codec.package),
        "package_bytes": codec.package.size,
        "latents": int(codec.package.manifest.geometry["latents"]),
        "at_targets": [_at(codec, other, digits, psnr=target) for target in targets],
        "curve": [_at(codec, other, digits, quality=quality) for quality in QUALITIES],
    }
    print(model, row["at_targets"], flush=True)
    return row


def _at(
    codec: DigitCodec, other: DigitCodec, digits: Digits, *, quality: float | None = None, psnr: float | None = None
) -> Row | None:
    """All digits in one file, decoded again on two engines' settings; None where a target cannot be reached."""
    names = [f"{number:04d}.png" for number in range(len(digits))]
    try:
        data = codec.compress(digits, quality, psnr=psnr, names=names)
    except TargetError as error:
        print(codec.package.manifest.name, error, flush=True)
        return None
    stream = parse_digits(data)
    latents = codec.decode_latents(stream)
    require(np.array_equal(latents, other.decode_latents(stream)), "the engine's settings change the latents")
    found = measured(digits, codec.decompress(data), size=len(data))
    require(psnr is None or found.psnr_db >= psnr, f"{found.psnr_db} dB, asked for {psnr}")
    single = [codec.compress(digits[i : i + 1], stream.header.quality) for i in range(min(SINGLE, len(digits)))]
    unnamed = codec.compress(digits[:1], stream.header.quality)
    container = len(unnamed) - len(parse_digits(unnamed).words)
    return asdict(found) | {
        "quality": stream.header.quality,
        "payload_bytes_per_digit": round(len(stream.words) / len(digits), 3),
        "names_bytes_per_digit": round((len(data) - len(stream.words) - container) / len(digits), 3),
        "container_bytes": container,  # header, the digits' section beside its words, end marker
        "single_file_bytes": round(sum(map(len, single)) / len(single), 2),
    }


def others(digits: Digits, targets: tuple[float, ...]) -> dict[str, Any]:
    """Formats of pictures: name -> form -> one row per target."""
    lossless = {form: asdict(coded) for form, coded in formats.png(digits).items()}
    found: dict[str, Any] = {"PNG": {form: [row] * len(targets) for form, row in lossless.items()}}
    for name in formats.LOWEST:
        each = [asdict(formats.one_file_each(name, digits, target)) for target in targets]
        found[name] = {"one file each": each, "sheet": [asdict(formats.sheet(name, digits, t)) for t in targets]}
        print(name, found[name], flush=True)
    return found


def bars(results: dict[str, Any]) -> list[Bar]:
    """Of the first model, at 20 dB."""
    row, pca = results["models"][0]["at_targets"][0], results["pca"][0]
    name = results["model"]["name"]
    if row is None:
        return [Bar(f"{name}, digits at {TARGET_DB:g} dB", f"at most {BAR_BYTES:g} bytes", "cannot be reached", False)]
    payload, whole = row["payload_bytes_per_digit"], row["bytes_per_digit"]
    at, least = f"at {row['psnr_db']} dB", f"at most {BAR_BYTES:g} bytes"
    against = f"below PCA's {pca['bytes_per_digit']} at {pca['psnr_db']} dB"
    return [
        Bar(f"{name}, payload of a digit", least, f"{payload} {at}", payload <= BAR_BYTES),
        Bar(f"{name}, share of a digit in the whole file", least, f"{whole} {at}", whole <= BAR_BYTES),
        Bar(f"{name}, payload of a digit against PCA", against, f"{payload} {at}", payload < pca["bytes_per_digit"]),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
