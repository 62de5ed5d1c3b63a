"""How long do compressing and decompressing one picture take, in a warm library and as a whole cold command?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks._machine import THREADS, Bar, Timing, finish, interleaved, model_facts, parser, require, summary
from vaert import bitstream
from vaert.evaluate import Pixels, read_rgb
from vaert.metrics import psnr
from vaert.runtime.codec import Codec, quality_to_u16

NAME = "latency"
QUALITY = 60.0
WARM_MS, COLD_MS, HELP_MS = 90.0, 800.0, 200.0
PARTS = {
    "analyse": "encoder network",
    "write": "hyper-encoder network, prior, rounding, entropy coding, container",
    "decode_latents": "parsing, prior and entropy decoding; the rest of decompress is the decoder network",
}
HEAVY = ("torch", "onnx", "onnxscript")  # never loaded by the command line's compress and decompress
WATCHED = f"""
import sys
from vaert.cli import main
code = main(sys.argv[1:])
loaded = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit(f"loaded {{loaded}}" if loaded else code)
"""


def main() -> int:
    """Measure, check and write."""
    options = parser(str(__doc__), NAME)
    options.add_argument("--image", type=Path, required=True, help="one picture (kodim23 for the bars)")
    options.add_argument("--runs", type=int, default=50, help="runs of the warm library (default: 50)")
    options.add_argument("--cold-runs", type=int, default=15, help="runs of each cold command (default: 15)")
    given = options.parse_args()
    picture = read_rgb(given.image)
    codec = Codec(given.model, threads=THREADS)
    warm = library(codec, picture, runs=given.runs)
    # The commands run in another folder, where relative paths would lead elsewhere.
    model = str(Path(given.model).resolve()) if os.sep in given.model else given.model
    cold = commands(given.image.resolve(), model, runs=given.cold_runs)
    data = codec.compress(picture, QUALITY)
    results = {
        "model": model_facts(codec.package),
        "image": given.image.name,
        "width": picture.shape[1],
        "height": picture.shape[0],
        "quality": QUALITY,
        "bytes": len(data),
        "psnr_db": round(psnr(picture, codec.decompress(data)), 3),
        "threads": THREADS,
        "warm": {name: asdict(timing) for name, timing in warm.items()},
        "cold": {name: asdict(timing) for name, timing in cold.items()},
        "parts": PARTS,
    }
    return finish(NAME, given.out, results=results, bars=bars(warm, cold))


def library(codec: Codec, picture: Pixels, *, runs: int) -> dict[str, Timing]:
    """Whole calls and their parts, in turn, after checking that the parts give what the calls give."""
    step = quality_to_u16(QUALITY)
    data = codec.compress(picture, QUALITY)
    analysed = codec.analyse(picture)
    tried = codec.attempt(analysed, step)
    require(codec.write(analysed, tried) == data, "the parts of compress give another file than compress")
    decoded = codec.decompress(data)
    require(np.array_equal(codec.reconstruct(analysed, tried), decoded), "encoder and decoder disagree")
    times = interleaved(
        {
            "compress": lambda: codec.compress(picture, QUALITY),
            "decompress": lambda: codec.decompress(data),
            "analyse": lambda: codec.analyse(picture),
            "write": lambda: codec.write(analysed, tried),
            "decode_latents": lambda: codec.decode_latents(bitstream.parse_photo(data)),
        },
        runs=runs,
        warm_up=5,
    )
    require(codec.compress(picture, QUALITY) == data, "compress is not deterministic")
    return {name: summary(values) for name, values in times.items()}


def commands(image: Path, model: str, *, runs: int) -> dict[str, Timing]:
    """Whole processes of the command line, in turn; before that, a check that they load no training library."""
    with tempfile.TemporaryDirectory() as folder:
        coded, decoded = str(Path(folder, "a.vaert")), str(Path(folder, "a.png"))
        shared = ["--model", model, "--threads", str(THREADS), "--force", "--quiet"]
        lines = {
            "compress": ["compress", str(image), coded, "--quality", str(QUALITY), *shared],
            "decompress": ["decompress", coded, decoded, *shared],
            "help": ["--help"],
        }
        for line in lines.values():
            run([sys.executable, "-c", WATCHED, *line], folder)
        program = vaert_program()
        times = interleaved(
            {name: partial(run, [*program, *line], folder) for name, line in lines.items()},
            runs=runs,
            warm_up=1,
        )
        require(psnr(read_rgb(image), read_rgb(Path(decoded))) > 20, "the command line's picture is not the original")
    return {name: summary(values) for name, values in times.items()}


def vaert_program() -> list[str]:
    """The installed `vaert`, beside this Python; else the module, which starts alike."""
    installed = shutil.which("vaert", path=str(Path(sys.executable).parent))
    return [installed] if installed else [sys.executable, "-m", "vaert"]


def run(line: list[str], folder: str) -> None:
    """Run a command outside the checkout, with byte code kept as in any ordinary installation."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    require(done.returncode == 0, f"{' '.join(line[-8:])} ended with {done.returncode}: {done.stderr.strip()[-300:]}")


def bars(warm: dict[str, Timing], cold: dict[str, Timing]) -> list[Bar]:
    """Medians beside the bars."""
    made = []
    for kind, timings, names, limit in (
        ("warm library, ", warm, ("compress", "decompress"), WARM_MS),
        ("cold vaert ", cold, ("compress", "decompress"), COLD_MS),
        ("vaert --", cold, ("help",), HELP_MS),
    ):
        for name in names:
            found = timings[name]
            text = f"{found.p50_ms:.0f} ms (p95 {found.p95_ms:.0f} ms, {found.runs} runs)"
            made.append(Bar(f"{kind}{name}, median", f"below {limit:.0f} ms", text, found.p50_ms < limit))
    return made


if __name__ == "__main__":
    raise SystemExit(main())
