"""What all benchmarks share: the machine's facts, timing, bars and the JSON that results are kept in."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import vaert
from vaert.atomic import write_atomic
from vaert.evaluate import find_images
from vaert.package import Package

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = (
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "pycuda",
    "constriction",
    "Pillow",
    "torch",
)
VECTORS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimd", "sve")
THREADS = 2
LOAD = tuple(round(value, 2) for value in os.getloadavg())  # before the benchmark adds its own
FAILED = 1


@dataclass(frozen=True)
class Bar:
    """One promise beside what was measured. `met` is None where the run could not tell."""

    what: str
    bar: str
    measured: str
    met: bool | None


@dataclass(frozen=True)
class Timing:
    """Times of repeated runs, in milliseconds."""

    p50_ms: float
    p95_ms: float
    least_ms: float
    runs: int


def parser(question: str, name: str, *, model: str | None = "fast") -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have: --out, and --model unless `model`, its default, is None."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=question)
    if model is not None:
        made.add_argument("--model", default=model, help=f"bundled name or package folder (default: {model})")
    made.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / f"{name}.json", help="JSON file")
    return made


def add_pictures(options: argparse.ArgumentParser) -> None:
    """Add --images and --count, which `pictures` reads."""
    options.add_argument("--images", type=Path, required=True, help="folder of pictures")
    options.add_argument("--count", type=int, default=6, help="how many of them, evenly spread (default: 6)")


def pictures(given: argparse.Namespace) -> list[Path]:
    """The pictures that were asked for, evenly spread over the folder."""
    paths = find_images(given.images)
    require(1 <= given.count <= len(paths), f"--count {given.count}, expected 1 to {len(paths)}")
    return paths[:: len(paths) // given.count][: given.count]


def machine() -> dict[str, Any]:
    """CPU, cores, clocks, memory, GPUs, load, Python and library versions, commit."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads_per_core": _threads_per_core(),
        "clock_mhz": _clocks(),
        "vector_extensions": [name for name in VECTORS if name in _field("flags", _field("Features", "")).split()],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": gpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": LOAD,
        "python": platform.python_version(),
        "versions": {"vaert": vaert.__version__} | {name: found for name in LIBRARIES if (found := _version(name))},
        "commit": _commit(),
    }


def gpus() -> list[dict[str, str]]:
    """NVIDIA GPUs as their driver describes them, none without a driver."""
    names = ("name", "driver_version", "memory.total", "clocks.max.sm", "power.limit")
    line = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []
    return [dict(zip(names, map(str.strip, row.split(",")), strict=False)) for row in done.stdout.splitlines()]


def _cpu() -> str:
    return _field("model name", platform.processor() or "unknown")


def _field(name: str, otherwise: str) -> str:
    """What /proc/cpuinfo says of the first processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return otherwise
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == name), otherwise)


def _threads_per_core() -> int | None:
    """Hardware threads of one core; None where the system does not tell."""
    try:
        siblings = Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list").read_text("ascii").strip()
    except OSError:
        return None
    parts = [part.split("-") for part in siblings.split(",")]
    return sum(int(part[-1]) - int(part[0]) + 1 for part in parts)


def _clocks() -> dict[str, float]:
    """Of the first processor in MHz: `now`, and `max` where the system tells; virtual machines often do not."""
    found = {"now": float(_field("cpu MHz", "0"))}
    with contextlib.suppress(OSError, ValueError):
        limit = Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").read_text("ascii")
        found["max"] = int(limit) / 1000
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Short hash of the checkout's commit, with `+` if files differ from it; None outside a repository."""
    try:
        head, changes = (
            subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True).stdout
            for arguments in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + ("+" if changes.strip() else "")


def command(name: str) -> str:
    """The command line; of paths outside the checkout only the last part, since folders differ between machines."""
    parts = [Path(part).name if part.startswith(("/", "../")) else part for part in sys.argv[1:]]
    return " ".join(["python", "-m", f"benchmarks.{name}", *parts])


def summary(times_ns: Sequence[int]) -> Timing:
    """Median, 95th percentile (nearest points interpolated) and least of at least two times in nanoseconds."""
    ms = [value / 1e6 for value in times_ns]
    p95 = quantiles(ms, n=20, method="inclusive")[-1]
    return Timing(round(median(ms), 3), round(p95, 3), round(min(ms), 3), len(ms))


def interleaved(
    actions: Mapping[str, Callable[[], object]], *, runs: int, warm_up: int, pause_s: float = 0.0
) -> dict[str, list[int]]:
    """Times of every action in nanoseconds, one run of each in turn, so that the machine's drift meets all alike."""
    times: dict[str, list[int]] = {name: [] for name in actions}
    for number in range(warm_up + runs):
        for name, action in actions.items():
            started = time.perf_counter_ns()
            action()
            elapsed = time.perf_counter_ns() - started
            if number >= warm_up:
                times[name].append(elapsed)
            time.sleep(pause_s)
    return times


def require(condition: bool, message: str) -> None:
    """Stop the benchmark: a figure of a run that is not correct says nothing."""
    if not condition:
        raise SystemExit(f"not correct: {message}")


def finish(name: str, out: Path, *, results: Mapping[str, Any], bars: Sequence[Bar]) -> int:
    """Write the JSON, print the bars and return the exit code: 1 if a bar is missed."""
    question = sys.modules["__main__"].__doc__ or name
    record = {
        "benchmark": name,
        "question": " ".join(question.split()),
        "command": command(name),
        "machine": machine(),
        "bars": [asdict(bar) for bar in bars],
        "results": results,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, (json.dumps(record, indent=1) + "\n").encode(), force=True)
    for bar in bars:
        print(f"{verdict(bar.met):6} {bar.what}: {bar.measured} (bar: {bar.bar})")
    return FAILED if any(bar.met is False for bar in bars) else 0


def verdict(met: bool | None) -> str:
    """How a bar is reported."""
    return {True: "met", False: "missed", None: "open"}[met]


def model_facts(package: Package) -> dict[str, Any]:
    """Which model was measured."""
    manifest = package.manifest
    return {"name": manifest.name, "model_id": f"{manifest.model_id:016x}", "training": dict(manifest.training)}
