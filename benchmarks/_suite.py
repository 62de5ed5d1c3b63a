"""The suite's frame: what was asked for, rows with their figures or the reason for none, and the file of a run.

docs/benchmarks.md describes that file.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._machine import Bar, machine
from benchmarks._suite_load import DISTURBED, Load
from vaert.atomic import write_atomic

SCHEMA, VERSION = "vaert-benchmark-run", 1
BENCHMARK = "suite"
QUESTION = "How fast is everything, where does the time go, and how near is it to what the machine can do?"
BACKENDS = ("cpu", "cuda", "tensorrt", "ort-tensorrt")
LEFT_OUT = "left out by --quick"


class NotMeasured(Exception):
    """A row that has no figure, and why, in one line."""


@dataclass(frozen=True)
class Settings:
    """What was asked for on the command line."""

    quick: bool
    backends: tuple[str, ...]
    models: tuple[str, ...]
    precisions: tuple[str, ...]
    threads: int
    images: Path | None
    packages: tuple[Path, ...]
    out: Path
    name: str
    row_limit_s: float
    asked_precisions: bool = False  # by name, so that --quick makes them as well

    @property
    def pace(self) -> Pace:
        """How long a row of the suite is measured."""
        if self.quick:
            return Pace(budget_s=0.4, least=3, most=30, limit_s=min(10.0, self.row_limit_s))
        return Pace(budget_s=1.5, least=3, most=100, limit_s=self.row_limit_s)

    def facts(self) -> dict[str, Any]:
        """For the JSON: of folders only the last part, since they differ between machines."""
        found = asdict(self)
        for name in ("out", "name", "asked_precisions"):
            del found[name]
        found["images"] = None if self.images is None else self.images.name
        found["packages"] = [path.name for path in self.packages]
        return found


@dataclass(frozen=True)
class Pace:
    """Runs of one row: as many as fit `budget_s`, from `least` to `most`; none if `least` would exceed `limit_s`."""

    budget_s: float
    least: int
    most: int
    limit_s: float

    def runs(self, seconds: float) -> int:
        """How often something that takes so long is run. NotMeasured if that takes too long."""
        if self.least * seconds > self.limit_s:
            raise NotMeasured(
                f"{self.least} runs would take {self.least * seconds:.0f} s, over the {self.limit_s:g} s of a row: "
                "see --row-limit"
            )
        return max(self.least, min(self.most, int(self.budget_s / max(seconds, 1e-9))))


@dataclass(frozen=True)
class Stats:
    """Times of repeated runs in milliseconds, percentiles interpolated between the nearest."""

    runs: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    least_ms: float
    mean_ms: float
    iqr_ms: float
    others_cores: float | None  # busy with other processes meanwhile, None if unknown

    @staticmethod
    def of(seconds: Sequence[float], others_cores: float | None = None) -> Stats:
        """From at least one time in seconds."""
        ms = sorted(1000 * value for value in seconds)
        return Stats(
            runs=len(ms),
            p50_ms=round(statistics.median(ms), 4),
            p95_ms=round(_percentile(ms, 95), 4),
            p99_ms=round(_percentile(ms, 99), 4),
            least_ms=round(ms[0], 4),
            mean_ms=round(statistics.fmean(ms), 4),
            iqr_ms=round(_percentile(ms, 75) - _percentile(ms, 25), 4),
            others_cores=others_cores,
        )


def _percentile(ordered: Sequence[float], percent: float) -> float:
    position = (len(ordered) - 1) * percent / 100
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


@dataclass
class Row:
    """One figure. `better` tells which way it improves; `facts` holds further figures, `checks` what was proved."""

    name: str
    parameters: dict[str, Any]
    value: float | None = None
    unit: str = ""
    better: str = "higher"
    stats: Stats | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)
    not_measured: str | None = None

    def set(self, value: float, unit: str, stats: Stats | None = None, *, better: str = "higher") -> None:
        """Fill in the figure."""
        self.value, self.unit, self.stats, self.better = float(f"{value:.6g}"), unit, stats, better

    def check(self, true: object, what: str) -> None:
        """Hold what the figure rests on; AssertionError if it is not so."""
        assert true, f"not correct: {what}"
        self.checks.append(what)


class Run:
    """Everything one session measures."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sections: dict[str, list[Row]] = {}
        self.bars: list[Bar] = []
        self.path: Path | None = None
        self._started = time.time()

    @contextmanager
    def row(self, section: str, name: str, **parameters: Any) -> Iterator[Row]:
        """A row to fill in; an error or NotMeasured within becomes its reason, and goes on to the caller."""
        row = Row(name, parameters)
        try:
            yield row
            assert row.value is not None or row.not_measured, "the row was left without a figure"
        except NotMeasured as reason:
            row.not_measured = str(reason)
            raise
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            row.value, row.stats, row.not_measured = None, None, f"failed: {text[:300]}"
            raise
        finally:
            if row.value is not None or row.not_measured:  # not when interrupted
                self.sections.setdefault(section, []).append(row)

    def bar(self, what: str, bar: str, measured: str, *, met: bool | None, others: float | None = None) -> None:
        """Add a promise and what was found; it is left open if `others`, cores busy with other things, disturbed it."""
        if others is not None and others > DISTURBED:
            measured, met = f"{measured}; disturbed: others used {others:.2f} cores", None
        self.bars.append(Bar(what, bar, measured, met))

    def record(self) -> dict[str, Any]:
        """The whole run as JSON: see docs/benchmarks.md."""
        sections = {name: [asdict(row) for row in rows] for name, rows in self.sections.items()}
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "benchmark": BENCHMARK,
            "question": QUESTION,
            "name": self.settings.name,
            "command": command(sys.argv),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "seconds": round(time.time() - self._started, 1),
            "machine": machine(),
            "options": self.settings.facts(),
            "bars": [asdict(bar) for bar in self.bars],
            "results": {"sections": sections},
        }

    def write(self) -> Path | None:
        """Write `run-<name>.json`, whole or not at all; nothing where there are no rows."""
        if not self.sections:
            return None
        self.settings.out.mkdir(parents=True, exist_ok=True)
        self.path = self.settings.out / f"run-{self.settings.name}.json"
        write_atomic(self.path, (json.dumps(self.record(), indent=1) + "\n").encode(), force=True)
        return self.path


def command(arguments: Sequence[str]) -> str:
    """The command line; of paths outside the checkout only the last part, since folders differ between machines."""
    parts = [Path(part).name if part.startswith(("/", "../")) else part for part in arguments[1:]]
    return " ".join(["pytest", *parts])


def timed(
    stopwatch: Callable[[], Any], action: Callable[[], object], pace: Pace, *, expected_s: float | None = None
) -> Stats:
    """Times of `action` by pytest-benchmark, after one to three runs that warm up.

    stopwatch: gives the fixture `benchmark`. expected_s: what one run should take, by smaller ones, so that far too
    long ones need not begin. NotMeasured.
    """
    if expected_s is not None:
        pace.runs(expected_s)
    started = time.perf_counter()
    action()
    first = time.perf_counter() - started
    if first < pace.budget_s:  # the first run may have loaded and planned much
        started = time.perf_counter()
        action()
        first = time.perf_counter() - started
    rounds = pace.runs(first)
    benchmark, load = stopwatch(), Load.begin()
    benchmark.pedantic(action, rounds=rounds, warmup_rounds=1 if first < pace.budget_s / 4 else 0)
    return Stats.of(benchmark.stats.stats.data, load.others_cores())
