"""Runs of `pytest benchmarks/ --benchmark` as Markdown: every row, measured or explained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks._markdown import table


def suite(results: dict[str, Any]) -> Iterator[str]:
    """A table for each section."""
    for name, rows in results["sections"].items():
        yield f"### {name}\n"
        yield table(("what", "with", "median", "p95", "further"), [_row(row) for row in rows])


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    given = ", ".join(f"{key} {value}" for key, value in row["parameters"].items())
    if row["not_measured"]:
        return row["name"], given, "not measured", "", row["not_measured"]
    stats = row["stats"] or {}
    p95 = f"{stats['p95_ms']:.1f} ms" if "p95_ms" in stats else ""
    further = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in row["facts"].items())
    return row["name"], given, f"{row['value']:g} {row['unit']}", p95, further
