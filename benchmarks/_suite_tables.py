"""What the report of a run is made of: figures as text, rows as tables, and rows without a figure grouped by reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks._markdown import table
from benchmarks._suite import BACKENDS

Row = Mapping[str, Any]
NONE = "–"
MOST_VALUES = 12  # of one parameter, that are listed one by one
SECONDS = re.compile(r"\b\d+(?:\.\d+)? s\b")
DIGIT_WIDTH = 28
TITLES = {"cpu": "CPU", "cuda": "ORT-CUDA", "tensorrt": "TensorRT", "ort-tensorrt": "ORT-TensorRT"}
NOT_ASKED = "not part of this run"


def number(value: float | None) -> str:
    """Three digits that count, or a dash."""
    if value is None:
        return NONE
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.{2 if abs(value) < 9.995 else 1}f}" if abs(value) >= 1 else f"{value:#.3g}"


def percent(value: float | None) -> str:
    """A share of 1."""
    return NONE if value is None else f"{100 * value:.{1 if abs(value) < 0.0995 else 0}f} %"


def ms(value: float | None) -> str:
    """Milliseconds."""
    return NONE if value is None else f"{number(value)} ms"


def megabytes(value: float | None) -> str:
    """Of bytes."""
    return NONE if value is None else f"{value / 1e6:,.0f}"


def measured(rows: Iterable[Row]) -> list[Row]:
    """Those with a figure."""
    return [row for row in rows if row["value"] is not None]


def size(row: Row) -> str:
    """Width x height, or nothing."""
    p = row["parameters"]
    return f"{p['width']}x{p['height']}" if "width" in p else ""


def of(row: Row, *names: str) -> tuple[str, ...]:
    """Parameters as text."""
    return tuple(str(row["parameters"].get(name, "")) for name in names)


def labels(rows: Sequence[Row], *names: str) -> list[str]:
    """What each row is about: these of its parameters ("name" and "size" too), and others only where rows differ."""
    several = [n for n in ("precision", "backend") if len({of(row, n) for row in rows}) > 1]
    made = []
    for row in rows:
        given = {**row["parameters"], "name": row["name"], "size": size(row)}
        made.append(", ".join(ordered(str(given.get(name, "")) for name in (*names, *several))))
    return made


def ordered(values: Iterable[Any]) -> list[Any]:
    """Each once, in the order in which they come."""
    return list(dict.fromkeys(values))


def folded(summary: str, lines: Iterable[str]) -> Iterator[str]:
    """Lines that open on a click."""
    yield f"<details><summary>{summary}</summary>\n"
    yield from lines
    yield "</details>\n"


def explained(rows: Iterable[Row]) -> Iterator[str]:
    """Rows without a figure: one line for each reason, with how many they are and which; seconds may differ."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["not_measured"]:
            groups.setdefault(SECONDS.sub("# s", row["not_measured"]), []).append(row)
    if not groups:
        return
    count = sum(map(len, groups.values()))
    yield f"Without a figure: {count} row{'s' if count > 1 else ''}.\n"
    lines = [(str(len(group)), reason_of(group).replace("<", "&lt;"), which(group)) for group in groups.values()]
    yield table(("rows", "why", "which"), lines)


def reason_of(rows: Sequence[Row]) -> str:
    """The reason that all share; where seconds differ, the least and the most of them."""
    found = [SECONDS.findall(row["not_measured"]) for row in rows]
    places = iter([sorted({text[:-2] for text in column}, key=float) for column in zip(*found, strict=True)])

    def span(_: re.Match[str]) -> str:
        values = next(places)
        return f"{values[0]} s" if len(values) == 1 else f"{values[0]} to {values[-1]} s"

    return SECONDS.sub(span, str(rows[0]["not_measured"]))


def which(rows: Sequence[Row]) -> str:
    """Names and parameters of rows in one line: every value once."""
    values: dict[str, list[str]] = {"name": [row["name"] for row in rows]}
    for row in rows:
        for name, value in {**row["parameters"], "size": size(row)}.items():
            told = name == "operation" and value == row["name"]
            if not told and name not in ("width", "height", "kind") and value not in ("", None):
                values.setdefault(name, []).append(str(value))
    parts = []
    for name, found in values.items():
        each = ordered(found)
        listed = ", ".join(each) if len(each) <= MOST_VALUES or name == "name" else f"{len(each)} different"
        parts.append(listed if name in ("name", "size") else f"{name.replace('_', ' ')} {listed}")
    return "; ".join(parts)


def three_way(rows: Sequence[Row], wanted: Sequence[Row] | None = None) -> Iterator[str]:
    """Every backend side by side: photographs, which backends were absent and why, then digits.

    rows: the section. wanted: those of it to show, all if left out.
    """
    shown = measured(rows if wanted is None else wanted)
    digits = [row for row in shown if row["parameters"]["width"] == DIGIT_WIDTH]
    photographs = [row for row in shown if row["parameters"]["width"] != DIGIT_WIDTH]
    yield "Megapixels/s · images/s\n" if shown else "No row of throughput was measured.\n"
    if photographs:
        yield _side_by_side(photographs)
    elif digits:
        yield _side_by_side(digits)
    yield from absent(rows)
    if photographs and digits:
        yield from folded(f"The same of digits, {len(digits)} figures", [_side_by_side(digits)])


def _side_by_side(rows: Sequence[Row]) -> str:
    """A column for each backend; precisions of one thing below each other."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        model, operation, batch, precision = of(row, "model", "operation", "batch", "precision")
        cell = f"{number(row['value'])} · {number(row['facts'].get('pictures_per_s'))}"
        key = (model, operation, size(row), batch, precision)
        found.setdefault(key, {})[row["parameters"]["backend"]] = cell
    models, operations = (ordered(key[place] for key in found) for place in (0, 1))

    def place(key: tuple[str, ...]) -> tuple[int, ...]:
        width, height = map(int, key[2].split("x"))
        return models.index(key[0]), operations.index(key[1]), width * height, int(key[3])

    lines = [(*key, *(found[key].get(name, NONE) for name in BACKENDS)) for key in sorted(found, key=place)]
    return table(("model", "operation", "size", "batch", "precision", *(TITLES[name] for name in BACKENDS)), lines)


def absent(rows: Sequence[Row]) -> Iterator[str]:
    """One line for each reason why backends have no figures."""
    reasons: dict[str, list[str]] = {}
    for name in BACKENDS:
        own = [row for row in rows if row["parameters"].get("backend") == name]
        if not own:
            reasons.setdefault(NOT_ASKED, []).append(name)
        for row in own:
            if row["name"] == "all":
                reasons.setdefault(f"absent: {row['not_measured']}", []).append(name)
    lines = [f"- {', '.join(TITLES[name] for name in names)}: {reason}" for reason, names in reasons.items()]
    if {"tensorrt", "ort-tensorrt"} <= {name for names in reasons.values() for name in names}:
        lines.append("- TensorRT was never available here: nothing of it was measured")
    if lines:
        yield "\n".join(lines) + "\n"


def throughput(rows: Sequence[Row]) -> Iterator[str]:
    """Percentiles and memory of every row of the table above, then why others have no figure."""
    found = measured(rows)
    lines = []
    for row in found:
        stats, facts = row["stats"], row["facts"]
        times = (number(stats[name]) for name in ("p50_ms", "p95_ms", "p99_ms"))
        memory = (megabytes(facts.get(name)) for name in ("host_peak_bytes", "host_before_bytes", "gpu_bytes"))
        what = (*of(row, "model", "operation"), size(row), *of(row, "batch", "precision", "backend"))
        lines.append((*what, *times, str(stats["runs"]), *memory))
    head = ("model", "operation", "size", "batch", "precision", "backend", "p50 (ms)", "p95 (ms)", "p99 (ms)", "runs")
    if found:
        memory_head = ("host memory, peak (MB)", "before (MB)", "GPU memory (MB)")
        yield from folded(f"Percentiles and memory of {len(found)} rows", [table((*head, *memory_head), lines)])
    yield from explained(row for row in rows if row["name"] != "all")
