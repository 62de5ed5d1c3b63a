"""What a run says on the terminal: the table CPU / CUDA / TensorRT, the bars, and where everything else is."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks._machine import verdict
from benchmarks._suite import BACKENDS, Row, Run

SHOWN_BATCHES = (1, 64)


def summary(run: Run) -> Iterator[str]:
    """Lines of plain text."""
    rows = [row for rows in run.sections.values() for row in rows]
    if not rows:
        return
    yield from three_way(run.sections.get("throughput", []))
    yield ""
    for bar in run.bars:
        yield f"{verdict(bar.met):6} {bar.what}: {bar.measured} (bar: {bar.bar})"
    measured = sum(row.value is not None for row in rows)
    yield f"{measured} rows measured, {len(rows) - measured} explained"
    yield f"{run.path}, report: {run.path.with_suffix('.md')}" if run.path else "interrupted: no file was written"


def three_way(rows: list[Row]) -> Iterator[str]:
    """Megapixels per second of every backend side by side; photographs one by one, digits by 64."""
    found: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for row in rows:
        p = row.parameters
        if row.value is not None and p["batch"] in SHOWN_BATCHES:
            size = f"{p['width']}x{p['height']}" + ("" if p["batch"] == 1 else f" x{p['batch']}")
            found.setdefault((p["model"], p["operation"], size, p["precision"]), {})[p["backend"]] = row.value
    absent = {row.parameters["backend"]: row.not_measured for row in rows if row.name == "all"}
    columns = [name for name in BACKENDS if name in absent or any(name in values for values in found.values())]
    yield ""
    yield f"{'megapixels/s':52}" + "".join(f"{name:>14}" for name in columns)
    for key, values in found.items():
        cells = (f"{values[name]:.2f}" if name in values else "-" for name in columns)
        yield f"{'  '.join(key):52}" + "".join(f"{cell:>14}" for cell in cells)
    for name, reason in absent.items():
        yield f"{name}: not measured: {reason}"
