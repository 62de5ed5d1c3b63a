"""How long does `vaert train mnist-mlp` take for 20 epochs, the whole command with its entropy tables at the end?"""

from __future__ import annotations

import csv
import math
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._machine import THREADS, Bar, finish, parser, require
from benchmarks.latency import vaert_program
from vaert.idx import load_split

NAME = "digits_training"
EPOCHS = 20
BATCH = 100  # digits per step, of the schedule
BAR_SECONDS = 120.0
BAR_CORES = 2


def main() -> int:
    """Train in a temporary folder, check the log, write."""
    options = parser(str(__doc__), NAME)
    options.set_defaults(model="mnist-mlp")
    options.add_argument("--data", type=Path, required=True, help="folder of MNIST's IDX files")
    given = options.parse_args()
    split = load_split(given.data)
    cores = sorted(os.sched_getaffinity(0))[:BAR_CORES]
    with tempfile.TemporaryDirectory() as folder:
        seconds, rows = train(given.model, given.data.resolve(), Path(folder, "run"), cores=cores)
    steps = EPOCHS * math.ceil(len(split.train) / BATCH)
    require(int(rows[-1]["step"]) == steps, f"the log ends at step {rows[-1]['step']}, expected {steps}")
    first, last = float(rows[0]["elbo"]), float(rows[-1]["elbo"])
    require(last > first, f"the training went from an ELBO of {first} to {last} nats")
    results = {
        "command_line": f"vaert train {given.model} --epochs {EPOCHS}",
        "data": split.description,
        "seconds": round(seconds, 1),
        "seconds_in_steps": float(rows[-1]["seconds"]),
        "steps": steps,
        "cores": len(cores),
        "threads": THREADS,
        "elbo_first_row": round(first, 2),
        "elbo_last_row": round(last, 2),
    }
    enough = len(cores) == BAR_CORES and len(split.train) == 9000
    bar = Bar(
        f"{given.model}, {EPOCHS} epochs of {len(split.train)} digits on {len(cores)} cores",
        f"under {BAR_SECONDS:g} s",
        f"{seconds:.1f} s",
        seconds < BAR_SECONDS if enough else None,
    )
    return finish(NAME, given.out, results=results, bars=[bar])


def train(model: str, data: Path, out: Path, *, cores: list[int]) -> tuple[float, list[dict[str, Any]]]:
    """Wall clock of the whole command on these cores, in seconds, and the rows of its log."""
    line = [*vaert_program(), "train", model, "--epochs", str(EPOCHS), "--data", str(data), "--out", str(out)]
    started = time.perf_counter()
    done = subprocess.run(
        line,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": str(THREADS)},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    seconds = time.perf_counter() - started
    require(done.returncode == 0, f"vaert train ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    require((out / "checkpoint.pt").is_file(), "vaert train left no checkpoint")
    with (out / "log.csv").open(encoding="utf-8", newline="") as file:
        return seconds, list(csv.DictReader(file))


if __name__ == "__main__":
    raise SystemExit(main())
