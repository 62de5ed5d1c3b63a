"""One command of the codec on one size, in a process of its own: times and peak memory as JSON on standard output.

`python -m benchmarks._suite_worker compress|decompress WIDTH HEIGHT --file F ...`: F is written, or read.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks._suite import NotMeasured, Pace
from benchmarks._suite_memory import status
from benchmarks.memory import mirrored
from vaert.evaluate import Pixels, read_rgb
from vaert.metrics import psnr
from vaert.runtime.backends import open_backend
from vaert.runtime.codec import Codec

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "kodim23.png"
BAND = 512  # rows that are compared at once


def main() -> int:
    """Measure; what cannot be measured is said in the JSON."""
    options = argparse.ArgumentParser()
    options.add_argument("operation", choices=("compress", "decompress"))
    options.add_argument("width", type=int)
    options.add_argument("height", type=int)
    options.add_argument("--model", required=True)
    options.add_argument("--threads", type=int, required=True)
    options.add_argument("--file", type=Path, required=True)
    options.add_argument("--budget", type=float, required=True, help="seconds to spend on runs")
    options.add_argument("--limit", type=float, required=True, help="seconds for the least number of runs")
    given = options.parse_args()
    codec = Codec(given.model, backend=open_backend("cpu", threads=given.threads))
    warm = mirrored(read_rgb(EXAMPLE), 256, 256)
    codec.decompress(codec.compress(warm))  # loads every graph
    loaded = status("VmRSS")
    pace = Pace(budget_s=given.budget, least=3, most=40, limit_s=given.limit)
    try:
        facts = measure(codec, given, pace)
    except NotMeasured as reason:
        facts = {"not_measured": str(reason)}
    print(json.dumps(facts | {"loaded_bytes": loaded}))
    return 0


def measure(codec: Codec, given: argparse.Namespace, pace: Pace) -> dict[str, object]:
    """Times in seconds; the peak is read before anything else is done with the result."""
    if given.operation == "compress":
        picture = original(given.width, given.height)
        data, times = repeated(lambda: codec.compress(picture), pace)
        peak = status("VmHWM")
        assert isinstance(data, bytes)
        given.file.write_bytes(data)
        return {"seconds": times, "peak_bytes": peak, "file_bytes": len(data), "picture_bytes": picture.nbytes}
    coded = given.file.read_bytes()
    decoded, times = repeated(lambda: codec.decompress(coded), pace)
    peak = status("VmHWM")
    assert isinstance(decoded, np.ndarray)
    picture = original(given.width, given.height)
    worst = min(psnr(picture[top : top + BAND], decoded[top : top + BAND]) for top in range(0, given.height, BAND))
    return {"seconds": times, "peak_bytes": peak, "least_psnr_db": round(worst, 3), "picture_bytes": picture.nbytes}


def original(width: int, height: int) -> Pixels:
    """The example picture, mirrored to any size."""
    return mirrored(read_rgb(EXAMPLE), height, width)


def repeated(action: Callable[[], object], pace: Pace) -> tuple[object, list[float]]:
    """The last result and the times in seconds, after a run that warms up where that is cheap."""
    started = time.perf_counter()
    result = action()
    times = [time.perf_counter() - started]
    if times[0] < pace.budget_s:
        times.clear()
        started = time.perf_counter()
        result = action()
        times.append(time.perf_counter() - started)
    while len(times) < pace.runs(times[0]):
        del result  # two results at once are not what a user holds
        started = time.perf_counter()
        result = action()
        times.append(time.perf_counter() - started)
    return result, times


if __name__ == "__main__":
    raise SystemExit(main())
