"""How much memory do compressing and decompressing a 48-megapixel photograph take?"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._machine import Bar, finish, model_facts, parser, require
from benchmarks.latency import vaert_program
from vaert.evaluate import Pixels, read_rgb
from vaert.image import encode_image
from vaert.metrics import psnr
from vaert.package import find_package

NAME = "memory"
BAR_BYTES = 1.5e9
QUALITY = 60.0
# A process's peak counts what its parent held when it was started, so a small process starts the one that is measured.
LAUNCHER = """
import json, os, sys, time
started = time.perf_counter()
pid = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
facts = {"code": os.waitstatus_to_exitcode(status), "peak_bytes": 1024 * usage.ru_maxrss}
print(json.dumps(facts | {"seconds": round(time.perf_counter() - started, 2)}))
"""


def main() -> int:
    """Measure, check and write."""
    options = parser(str(__doc__), NAME)
    options.add_argument("--image", type=Path, required=True, help="photograph that is mirrored to the full size")
    options.add_argument("--size", default="8000x6000", help="width x height (default: 8000x6000)")
    options.add_argument("--format", choices=("png", "jpg"), default="jpg", help="of the input (default: jpg)")
    given = options.parse_args()
    width, height = (int(side) for side in given.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        source, coded, decoded = (str(Path(folder, name)) for name in (f"in.{given.format}", "a.vaert", "out.png"))
        Path(source).write_bytes(encode_image(mirrored(read_rgb(given.image), height, width), format=given.format))
        shared = ["--model", given.model, "--quiet"]
        found = {
            "compress": launch(["compress", source, coded, "--quality", str(QUALITY), *shared]),
            "decompress": launch(["decompress", coded, decoded, *shared]),
        }
        size, fidelity = Path(coded).stat().st_size, compared(Path(source), Path(decoded))
    require(fidelity > 25, f"the decoded picture is at {fidelity:.2f} dB")
    results = {
        "model": model_facts(find_package(given.model)),
        "input": f"{given.image.name} mirrored to {width}x{height}, {given.format}",
        "quality": QUALITY,
        "bpp": round(8 * size / (width * height), 4),
        "psnr_db": round(fidelity, 3),
        "processes": found,
        "units": {"peak_bytes": "peak resident set of the whole process", "seconds": "wall clock"},
    }
    bars = [
        Bar(
            f"vaert {name}, {width * height / 1e6:.0f} megapixels, peak memory",
            f"below {BAR_BYTES / 1e9:g} GB",
            f"{facts['peak_bytes'] / 1e9:.2f} GB ({facts['seconds']:.0f} s)",
            facts["peak_bytes"] < BAR_BYTES,
        )
        for name, facts in found.items()
    ]
    return finish(NAME, given.out, results=results, bars=bars)


def mirrored(picture: Pixels, height: int, width: int) -> Pixels:
    """The picture continued by reflection to height x width, without seams."""
    rows, columns = (
        np.abs((np.arange(side) + length) % (2 * length) - length + 0.5).astype(np.intp)
        for side, length in ((height, picture.shape[0]), (width, picture.shape[1]))
    )
    return np.ascontiguousarray(picture[rows][:, columns])


def launch(arguments: list[str]) -> dict[str, Any]:
    """Run `vaert` and return its exit code, peak memory and time."""
    line = [sys.executable, "-c", LAUNCHER, *vaert_program(), *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    require(done.returncode == 0, f"the launcher failed: {done.stderr.strip()[-300:]}")
    facts: dict[str, Any] = json.loads(done.stdout)
    require(facts["code"] == 0, f"vaert {arguments[0]} ended with {facts['code']}: {done.stderr.strip()[-300:]}")
    return facts


def compared(source: Path, decoded: Path) -> float:
    """PSNR in dB between two files, in bands of rows to spare memory."""
    one, two = read_rgb(source), read_rgb(decoded)
    require(one.shape == two.shape, f"the decoded picture has shape {two.shape}, the original {one.shape}")
    values = [psnr(one[top : top + 500], two[top : top + 500]) for top in range(0, len(one), 500)]
    return min(values)


if __name__ == "__main__":
    raise SystemExit(main())
