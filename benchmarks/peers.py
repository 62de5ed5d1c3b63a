"""How much faster than CompressAI's hyperprior is vaert, entropy coding included, on the same picture and threads?"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._machine import THREADS, Bar, finish, model_facts, parser, require, summary
from vaert.evaluate import Pixels, read_rgb
from vaert.metrics import psnr
from vaert.runtime.codec import Codec

NAME = "peers"
QUALITY, PEER_QUALITY = 60.0, 4
BAR_RATIO = 5.0
PAUSE_S = 0.2  # idle threads of one side spin for a while after a run; let them fall asleep before the other's turn
WORKER = Path(__file__).with_name("_compressai_worker.py")


class Peer:
    """The other codec's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.facts = self._read()

    def time_ns(self, action: str) -> int:
        """Nanoseconds that one `compress` or `decompress` took there."""
        stdin = self._process.stdin
        require(stdin is not None, "the other process has no input")
        print(action, file=stdin, flush=True)
        return int(self._read())

    def _read(self) -> Any:
        line = self._process.stdout.readline() if self._process.stdout else ""
        require(bool(line), "the other codec's process ended; its message is above")
        return json.loads(line)


@contextmanager
def peer(python: str, picture: Pixels) -> Iterator[Peer]:
    """Start the other codec under `python` and end it afterwards."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with tempfile.TemporaryDirectory() as folder:
        pixels = Path(folder, "pixels.npy")
        np.save(pixels, picture)
        line = [python, str(WORKER), "--pixels", str(pixels), "--threads", str(THREADS), "--quality", str(PEER_QUALITY)]
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        try:
            yield Peer(process)
        finally:
            if process.stdin:
                process.stdin.close()
            process.wait(timeout=60)


def main() -> int:
    """Measure, check and write."""
    options = parser(str(__doc__), NAME)
    options.add_argument("--image", type=Path, required=True, help="one picture, sides multiples of 64 (kodim23)")
    options.add_argument("--python", required=True, help="Python of an environment with torch, torchvision, compressai")
    options.add_argument("--runs", type=int, default=20, help="rounds (default: 20)")
    given = options.parse_args()
    picture = read_rgb(given.image)
    require(picture.shape[0] % 64 == 0 and picture.shape[1] % 64 == 0, "the picture's sides are not multiples of 64")
    codec = Codec(given.model, threads=THREADS)
    data = codec.compress(picture, QUALITY)
    require(psnr(picture, codec.decompress(data)) > 25, "vaert's picture is not the original")
    times: dict[str, list[int]] = {
        f"{who} {what}": [] for who in ("vaert", "peer") for what in ("compress", "decompress")
    }
    with peer(given.python, picture) as other:
        for number in range(given.runs + 2):
            found = one_round(codec, picture, data, other=other)
            for name, value in found.items():
                if number >= 2:  # the first two rounds warm both up
                    times[name].append(value)
        facts = other.facts
    timings = {name: summary(values) for name, values in times.items()}
    bars = []
    for what in ("compress", "decompress"):
        ours, theirs = timings[f"vaert {what}"].p50_ms, timings[f"peer {what}"].p50_ms
        text = f"{theirs / ours:.1f} times ({theirs:.0f} ms / {ours:.0f} ms, medians of {given.runs} rounds)"
        bars.append(
            Bar(f"{what}, against CompressAI", f"at least {BAR_RATIO:g} times faster", text, theirs >= BAR_RATIO * ours)
        )
    results = {
        "model": model_facts(codec.package),
        "image": given.image.name,
        "threads": THREADS,
        "quality": QUALITY,
        "peer": {"network": "bmshj2018-hyperprior", "quality": PEER_QUALITY, "weights": "untrained", **facts},
        "times": {name: asdict(timing) for name, timing in timings.items()},
        "remark": "vaert: uint8 pixels to a whole file and back; the peer: float tensor to strings and back",
    }
    return finish(NAME, given.out, results=results, bars=bars)


def one_round(codec: Codec, picture: Pixels, data: bytes, *, other: Peer) -> dict[str, int]:
    """One run of everything, the two codecs in turn, in nanoseconds."""
    found = {}
    for what in ("compress", "decompress"):
        started = time.perf_counter_ns()
        _ = codec.compress(picture, QUALITY) if what == "compress" else codec.decompress(data)
        found[f"vaert {what}"] = time.perf_counter_ns() - started
        time.sleep(PAUSE_S)
        found[f"peer {what}"] = other.time_ns(what)
        time.sleep(PAUSE_S)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
