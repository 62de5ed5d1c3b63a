"""How exactly are `--bpp`, `--size` and `--psnr` met?"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._machine import Bar, add_pictures, finish, model_facts, parser, pictures, require
from vaert.errors import TargetError
from vaert.evaluate import read_rgb
from vaert.metrics import psnr
from vaert.runtime.codec import Codec

NAME = "targets"
TARGETS: dict[str, tuple[float, ...]] = {
    "bpp": (0.15, 0.3, 0.6, 1.0, 1.5),
    "size": (8_000, 15_000, 30_000, 60_000),
    "psnr": (28.0, 30.0, 32.0, 34.0, 36.0),
}
BARS = {"bpp": "within 2 %", "size": "within 2 %, never above", "psnr": "at most 0.1 dB above, never below"}
Pixels = npt.NDArray[np.uint8]


def main() -> int:
    """Measure, check and write."""
    options = parser(str(__doc__), NAME)
    add_pictures(options)
    given = options.parse_args()
    codec = Codec(given.model)
    rows = []
    for path in pictures(given):
        picture = read_rgb(path)
        ends = [measured(codec, picture, codec.compress(picture, quality)) for quality in (1, 100)]
        for kind, targets in TARGETS.items():
            rows += [attempt(codec, picture, kind, target, reach=(ends[0][kind], ends[1][kind])) for target in targets]
        print(f"{path.name} done", flush=True)
    counted = [row for row in rows if row["found"] is not None]
    for kind in TARGETS:
        require(any(row["kind"] == kind for row in counted), f"no {kind} target lies in any image's range")
    results = {"model": model_facts(codec.package), "images": given.count, "attempts": rows}
    return finish(NAME, given.out, results=results, bars=[bar(kind, counted) for kind in TARGETS])


def measured(codec: Codec, picture: Pixels, data: bytes) -> dict[str, float]:
    """What a file reaches: bits per pixel, bytes, and PSNR in dB of the decoded file."""
    rate = 8 * len(data) / (picture.shape[0] * picture.shape[1])
    return {"bpp": rate, "size": len(data), "psnr": psnr(picture, codec.decompress(data))}


def attempt(codec: Codec, picture: Pixels, kind: str, target: float, *, reach: tuple[float, float]) -> dict[str, Any]:
    """Ask for a target; one outside the picture's range must be refused with the range named, and is not counted."""
    value: Any = int(target) if kind == "size" else target
    wanted: dict[str, Any] = {kind: value}
    row = {"kind": kind, "target": value, "found": None, "low": round(reach[0], 4), "high": round(reach[1], 4)}
    try:
        data = codec.compress(picture, **wanted)
    except TargetError:
        require(not reach[0] * 1.001 < target < reach[1] * 0.999, f"{kind} {target} was refused, the range is {reach}")
        return row
    return row | {"found": round(measured(codec, picture, data)[kind], 5)}


def bar(kind: str, rows: list[dict[str, Any]]) -> Bar:
    """The worst cases of one kind of target beside its bar."""
    excess = [
        row["found"] - row["target"] if kind == "psnr" else 100 * (row["found"] / row["target"] - 1)
        for row in rows
        if row["kind"] == kind
    ]
    low, high = min(excess), max(excess)
    met = {"bpp": low >= -2 and high <= 2, "size": low >= -2 and high <= 0, "psnr": low >= 0 and high <= 0.1}[kind]
    unit = "dB" if kind == "psnr" else "%"
    return Bar(f"--{kind}", BARS[kind], f"{low:+.3f} to {high:+.3f} {unit} in {len(excess)} cases", met)


if __name__ == "__main__":
    raise SystemExit(main())
