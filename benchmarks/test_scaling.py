"""How do time and peak memory grow with the picture and with threads, and how long does a cold command take?"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks._machine import ROOT
from benchmarks._suite import LEFT_OUT, NotMeasured, Pace, Row, Run, Settings, Stats, timed
from benchmarks._suite_engines import EXAMPLE
from benchmarks._suite_load import Load
from benchmarks.latency import vaert_program
from vaert.evaluate import read_rgb
from vaert.metrics import psnr
from vaert.package import CODEC, find_package

SECTION, COLD = "scaling", "cold_start"
SIZES = ((256, 256), (512, 512), (768, 512), (1024, 1024), (1920, 1080), (3840, 2160), (6000, 4000), (8000, 6250))
THREADS_SIZE, QUICK_LARGEST = (1920, 1080), 1920 * 1080
FLAT, FLAT_FROM = 0.15, 1e6  # megapixels from which time per megapixel is held to be flat
MEMORY_FROM = 8e6  # above this every network runs on tiles of full size
LEAST_DB = 25.0
COLD_BARS_MS = {"--help": 200.0}


@dataclass(frozen=True)
class Case:
    """One codec on one size with a number of threads."""

    model: str
    width: int
    height: int
    threads: int

    @property
    def id(self) -> str:
        """For pytest."""
        return f"{self.model}-{self.width}x{self.height}-threads{self.threads}"


def cases(settings: Settings) -> list[Case]:
    """All sizes with all threads; one size with 1, 2, 4, ... threads."""
    codecs = codecs_of(settings)
    fewer = [2**power for power in range(12) if 2**power < settings.threads]
    made = [Case(model, *size, settings.threads) for model in codecs for size in SIZES]
    return made + [Case(model, *THREADS_SIZE, threads) for model in codecs for threads in fewer]


def codecs_of(settings: Settings) -> list[str]:
    """Codecs among the models that were asked for."""
    return [model for model in settings.models if find_package(model).manifest.kind == CODEC]


def test_scaling(case: Case, run: Run, tmp_path: Path) -> None:
    """Rows: compress and decompress in processes of their own; these take the times, for they alone see the memory."""
    pace = replace(run.settings.pace, limit_s=4 * run.settings.row_limit_s)
    reasons: list[NotMeasured] = []
    file = tmp_path / "a.vaert"
    for operation in ("compress", "decompress"):
        parameters = {**asdict(case), "backend": "cpu", "precision": "fp32"}
        try:
            with run.row(SECTION, operation, **parameters) as row:
                refuse(run.settings, case)
                if operation == "decompress" and not file.exists():
                    raise NotMeasured(f"there is no file to decompress: {reasons[0]}")
                fill(row, case, child(operation, case, file, pace=pace))
        except NotMeasured as reason:
            reasons.append(reason)
    if reasons:
        raise reasons[0]


def refuse(settings: Settings, case: Case) -> None:
    """NotMeasured for what --quick leaves out."""
    if settings.quick and case.width * case.height > QUICK_LARGEST:
        raise NotMeasured(f"{LEFT_OUT}, which goes up to {QUICK_LARGEST / 1e6:.1f} megapixels")


def child(operation: str, case: Case, file: Path, *, pace: Pace) -> dict[str, Any]:
    """What the worker says. NotMeasured."""
    line = [sys.executable, "-m", "benchmarks._suite_worker", operation, str(case.width), str(case.height)]
    line += ["--model", case.model, "--threads", str(case.threads), "--file", str(file)]
    line += ["--budget", str(pace.budget_s), "--limit", str(pace.limit_s)]
    load = Load.begin()
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    others = load.others_cores()
    assert done.returncode == 0, f"the worker ended with {done.returncode}: {done.stderr.strip()[-300:]}"
    found: dict[str, Any] = json.loads(done.stdout)
    if reason := found.get("not_measured"):
        raise NotMeasured(reason)
    return {**found, "others_cores": others}


def fill(row: Row, case: Case, found: dict[str, Any]) -> None:
    """Median time, and what memory the picture and everything else took."""
    if "least_psnr_db" in found:
        row.check(found["least_psnr_db"] > LEAST_DB, f"every band of the decoded picture is above {LEAST_DB:g} dB")
    else:
        row.check(found["file_bytes"] < found["picture_bytes"] / 4, "the file is smaller than the picture")
    stats, megapixels = Stats.of(found["seconds"], found["others_cores"]), case.width * case.height / 1e6
    row.facts |= {name: found[name] for name in ("peak_bytes", "loaded_bytes", "picture_bytes")}
    if None not in row.facts.values():
        row.facts["beyond_bytes"] = found["peak_bytes"] - found["loaded_bytes"] - found["picture_bytes"]
    row.facts |= {"megapixels": round(megapixels, 4), "ms_per_megapixel": round(stats.p50_ms / megapixels, 3)}
    row.set(stats.p50_ms, "ms", stats, better="lower")


def test_fits(run: Run) -> None:
    """Rows: fixed cost and cost per megapixel of what was measured above; bars on growth."""
    for model in codecs_of(run.settings):
        for operation in ("compress", "decompress"):
            with run.row(SECTION, f"{operation}, fitted", model=model, threads=run.settings.threads) as row:
                rows = [
                    other
                    for other in run.sections.get(SECTION, [])
                    if other.name == operation
                    and other.value is not None
                    and (other.parameters["model"], other.parameters["threads"]) == (model, run.settings.threads)
                ]
                fit(row, rows)
                bars(run, f"{model} {operation}", rows)


def fit(row: Row, rows: Sequence[Row]) -> None:
    """Least squares of relative errors: time = fixed + slope * megapixels."""
    if len(rows) < 3:
        raise NotMeasured(f"a fit needs 3 sizes, found {len(rows)}")
    size = np.array([one.facts["megapixels"] for one in rows])
    time = np.array([one.value for one in rows], np.float64)
    system = np.stack([np.ones_like(size), size], 1) / time[:, None]
    (fixed, slope), *_ = np.linalg.lstsq(system, np.ones_like(time), rcond=None)
    error = np.abs((fixed + slope * size) / time - 1).max()
    row.check(slope > 0, "larger pictures take longer")
    row.facts |= {"fixed_ms": round(float(fixed), 3), "sizes": len(rows), "largest_error": round(float(error), 4)}
    row.set(float(slope), "ms/megapixel", better="lower")


def bars(run: Run, what: str, rows: Sequence[Row]) -> None:
    """Time per megapixel and memory beside the picture, flat or not; open where too few sizes were measured."""
    large = [one.facts for one in rows if one.facts["megapixels"] * 1e6 >= FLAT_FROM]
    if len(large) > 1:
        costs = [facts["ms_per_megapixel"] for facts in large]
        spread = max(costs) / min(costs) - 1
        sizes = f"{large[0]['megapixels']:.0f} to {large[-1]['megapixels']:.0f} megapixels"
        text = f"{spread:.0%} ({min(costs):.0f} to {max(costs):.0f} ms, {sizes})"
        complete = large[-1]["megapixels"] >= 49
        flat = spread <= FLAT
        others = max((one.stats.others_cores or 0.0) for one in rows if one.stats)
        bar = f"at most {FLAT:.0%}"
        run.bar(f"{what}, spread of time per megapixel", bar, text, met=flat if complete else None, others=others)
    tiled = [facts for facts in large if facts["megapixels"] * 1e6 >= MEMORY_FROM and "beyond_bytes" in facts]
    if len(tiled) > 1:
        first, last = tiled[0], tiled[-1]
        growth = (last["beyond_bytes"] - first["beyond_bytes"]) / 1e6 / (last["megapixels"] - first["megapixels"])
        text = (
            f"{growth:.1f} bytes per pixel more from {first['megapixels']:.0f} to {last['megapixels']:.0f} megapixels"
        )
        text += f" ({first['beyond_bytes'] / 1e6:.0f} to {last['beyond_bytes'] / 1e6:.0f} MB)"
        met = last["beyond_bytes"] <= (1 + FLAT) * first["beyond_bytes"]
        run.bar(f"{what}, peak memory beside picture and program", "flat above one tile's worth", text, met=met)


@pytest.mark.parametrize("name", ["python", "--help", "compress", "decompress"])
def test_cold_start(name: str, run: Run, tmp_path: Path, stopwatch: Callable[[], Any]) -> None:
    """A row for each: the whole process, from its start to its end; `python` does nothing."""
    with run.row(COLD, name, threads=run.settings.threads) as row:
        coded, decoded = tmp_path / "a.vaert", tmp_path / "a.png"
        shared = ["--threads", str(run.settings.threads), "--force", "--quiet"]
        lines = {
            "python": [sys.executable, "-c", "pass"],
            "--help": [*vaert_program(), "--help"],
            "compress": [*vaert_program(), "compress", str(EXAMPLE), str(coded), *shared],
            "decompress": [*vaert_program(), "decompress", str(coded), str(decoded), *shared],
        }
        if name == "decompress":
            process(lines["compress"], tmp_path)
        pace = Pace(budget_s=2 * run.settings.pace.budget_s, least=5, most=20, limit_s=run.settings.row_limit_s)
        stats = timed(stopwatch, partial(process, lines[name], tmp_path), pace)
        if name == "decompress":
            row.check(psnr(read_rgb(EXAMPLE), read_rgb(decoded)) > LEAST_DB, f"the file is above {LEAST_DB:g} dB")
        row.set(stats.p50_ms, "ms", stats, better="lower")
    if (limit := COLD_BARS_MS.get(name)) is not None:
        bar, text = f"below {limit:.0f} ms", f"{stats.p50_ms:.0f} ms"
        run.bar(f"cold vaert {name}", bar, text, met=stats.p50_ms < limit, others=stats.others_cores)


def process(line: Sequence[str], folder: Path) -> None:
    """One process, outside the checkout. AssertionError if it fails."""
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(line[-6:])} ended with {done.returncode}: {done.stderr.strip()[-300:]}"
