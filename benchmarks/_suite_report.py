"""The report of one run of `pytest benchmarks/ --benchmark`: tables and plots in Markdown.

Beside the run's JSON it is written by the run itself; `benchmarks.report` makes a part of docs/results.md of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import _suite_beside, _suite_plots, _suite_sections, _suite_tables
from benchmarks._machine import verdict
from benchmarks._markdown import table
from benchmarks._suite_tables import Row, three_way
from vaert.atomic import write_atomic

Tables = Callable[[Sequence[Row]], Iterator[str]]
SECTIONS: dict[str, tuple[str, Tables]] = {
    "throughput": ("Throughput", _suite_tables.throughput),
    "stages": ("Stages", _suite_sections.stages),
    "roofline": ("Roofline", _suite_sections.roofline),
    "rate_distortion": ("Rate and distortion", _suite_beside.rate_distortion),
    "peers": ("Peers", _suite_beside.peers),
    "scaling": ("Scaling", _suite_sections.scaling),
    "cold_start": ("Cold start", _suite_sections.cold_start),
}
SHORT_SIZES, SHORT_PRECISIONS = ((768, 512), (1920, 1080)), ("fp32", "int8")
NO_PLOTS = "No plots: they need matplotlib and Pillow, pip install 'vaert[eval]'.\n"


def report(record: Mapping[str, Any], plots: Mapping[str, str], *, level: int) -> Iterator[str]:
    """The run's tables under headings of this level: the three-way table, the bars, then every section.

    plots: where the page finds each plot, by the plot's name (see `_suite_plots.PLOTS`).
    """
    sections, mark = record["results"]["sections"], "#" * level
    yield f"{mark} CPU, ORT-CUDA and TensorRT\n"
    yield from three_way(sections.get("throughput", []))
    yield f"{mark} Bars of this run\n"
    bars = [(bar["what"], bar["bar"], bar["measured"], verdict(bar["met"])) for bar in record["bars"]]
    yield table(("what", "bar", "measured", ""), bars) if bars else "None: the sections that have bars were not run.\n"
    for name in (*SECTIONS, *(name for name in sections if name not in SECTIONS)):
        if sections.get(name):
            title, tables = SECTIONS.get(name, (name.replace("_", " ").capitalize(), _suite_sections.other))
            yield f"{mark} {title}\n"
            plot = _suite_plots.PLOTS.get(name)
            if plot and plot.name in plots:
                yield f"![{plot.alternative}]({plots[plot.name]})\n"
            yield from tables(sections[name])


def short(record: Mapping[str, Any]) -> Iterator[str]:
    """For the README: models of photographs one by one in two sizes and precisions."""
    rows: list[Row] = record["results"]["sections"].get("throughput", [])
    wanted = [
        row
        for row in rows
        if row["parameters"].get("batch") == 1
        and (row["parameters"]["width"], row["parameters"]["height"]) in SHORT_SIZES
        and row["parameters"]["precision"] in SHORT_PRECISIONS
    ]
    yield from three_way(rows, wanted)


def about(record: Mapping[str, Any]) -> Iterator[str]:
    """What was run, on what."""
    facts = record["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    gpus = "".join(f", {gpu['name']} (driver {gpu['driver_version']})" for gpu in facts.get("gpus", []))
    load = ", ".join(map(str, facts["load_average"]))
    yield f"{record['question']}\n"
    yield f"```\n{record['command']}\n```\n"
    yield (
        f"{facts['cpu']}, {facts['cores']} cores{gpus}, load average at the start {load}; {facts['system']}, Python "
        f"{facts['python']}, {versions}; commit {facts['commit'] or 'unknown'}.\n"
    )


def totals(record: Mapping[str, Any]) -> str:
    """When, how long, how many rows."""
    rows = [row for rows in record["results"]["sections"].values() for row in rows]
    found = sum(row["value"] is not None for row in rows)
    checks = sum(len(row["checks"]) for row in rows)
    failed = sum(str(row["not_measured"]).startswith("failed:") for row in rows)
    wrong = f" (**{failed} of them failed**)" if failed else ""
    quick = ", --quick" if record["options"]["quick"] else ""
    return (
        f"{record['started']}, {record['seconds'] / 60:.1f} minutes{quick}, {record['options']['threads']} threads: "
        f"{found} rows measured, {len(rows) - found} explained{wrong}; {checks} checks of what was timed held.\n"
    )


def write(path: Path) -> Path:
    """Write `run-NAME.md` and its plots beside the run's JSON `path`; the page's path. OutputError."""
    record = json.loads(path.read_text("utf-8"))
    plots = _suite_plots.draw(record, path.parent, path.stem) if drawable() else {}
    parts = [f"# Benchmark run {record['name']}\n", totals(record)]
    parts += [] if drawable() else [NO_PLOTS]
    parts += report(record, {name: plot.name for name, plot in plots.items()}, level=2)
    parts += ["## The run\n", *about(record)]
    page = path.with_suffix(".md")
    write_atomic(page, ("\n".join(parts).rstrip("\n") + "\n").encode(), force=True)
    return page


def drawable() -> bool:
    """Whether what draws plots is installed."""
    return bool(find_spec("matplotlib") and find_spec("PIL"))


def anchor(title: str) -> str:
    """Of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
