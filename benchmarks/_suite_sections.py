"""The sections of a run's report after the three-way table: stages, ceilings, growth, cold commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median as middle

from benchmarks._markdown import table
from benchmarks._suite_tables import NONE, Row, explained, measured, megabytes, ms, number, of, ordered, percent, size

BESIDES = ("whole", "call to graphs", "overlap")  # rows of the stages that are no stages


def stages(rows: Sequence[Row]) -> Iterator[str]:
    """A table for each command: stages down, sizes across; then ways to overlap."""
    found = measured(rows)
    commands = ordered(of(row, "model", "operation", "precision", "backend") for row in found if row["name"] == "whole")
    for command in commands:
        own = [row for row in found if of(row, "model", "operation", "precision", "backend") == command]
        model, operation, precision, backend = command
        yield f"**{model}, {operation}** ({precision}, {backend}), from file to file:\n"
        yield _stages_of(own)
    for row in found:
        if row["name"] == "overlap":
            yield from _overlap(row)
    yield from explained(rows)


def _stages_of(rows: Sequence[Row]) -> str:
    sizes = ordered(map(size, rows))
    cells = {(row["name"], size(row)): row for row in rows}
    names = [name for name in ordered(row["name"] for row in rows) if name not in BESIDES]
    names.sort(key=lambda name: -max(cells[name, s]["facts"]["share"] for s in sizes if (name, s) in cells))
    lines = [(name, *(_stage(cells.get((name, s))) for s in sizes)) for name in names]
    whole = [cells.get(("whole", s)) for s in sizes]
    calls = [cells.get(("call to graphs", s)) for s in sizes]
    facts = [{**row["facts"], "whole": row["value"]} if row else {} for row in whole]
    lines += [
        ("sum of stages", *(ms(found.get("sum_of_stages_ms")) for found in facts)),
        ("whole, unwatched", *(ms(found.get("whole")) for found in facts)),
        ("sum / whole", *(number(found.get("sum_to_whole")) for found in facts)),
        ("call to graphs", *(_call(row) for row in calls)),
    ]
    return table(("stage", *sizes), lines)


def _stage(row: Row | None) -> str:
    return NONE if row is None else f"{ms(row['value'])}, {percent(row['facts']['share'])}"


def _call(row: Row | None) -> str:
    if row is None:
        return NONE
    facts = row["facts"]
    return f"{row['value']:.2f} ({ms(facts['call_ms'])} / {ms(sum(facts['graphs_ms'].values()))})"


def _overlap(row: Row) -> Iterator[str]:
    """Pictures per second of every way, and what each wins over one picture after the other."""
    ways = row["facts"]
    yield f"**{row['parameters']['model']}, overlap** of the stages of several pictures, {size(row)}:\n"
    lines = []
    for name, speed in ways.items():
        alone = ways.get(f"{name.split()[0].rstrip(',')} in turn")
        lines.append(
            (name, number(speed), NONE if not alone or name.endswith(" in turn") else f"{speed / alone - 1:+.0%}")
        )
    yield table(("way", "images/s", "won"), lines)


def roofline(rows: Sequence[Row]) -> Iterator[str]:
    """Ceilings, then graphs down and precisions across: share of the ceiling, and multiply-adds per second."""
    found = measured(rows)
    yield from _ceilings([row for row in found if row["name"] == "ceiling"])
    graphs = [row for row in found if row["name"] != "ceiling"]
    columns = ordered(of(row, "backend", "precision") for row in graphs)
    cells: dict[tuple[str, ...], dict[tuple[str, ...], Row]] = {}
    for row in graphs:
        cells.setdefault((*of(row, "model"), row["name"], size(row)), {})[of(row, "backend", "precision")] = row
    lines = []
    for key, own in cells.items():
        first = next(iter(own.values()))
        lines.append(
            (*key, number(first["facts"].get("multiply_adds_per_pixel")), *(_share(own.get(c)) for c in columns))
        )
    if lines:
        yield "Share of the ceiling of the same rounds (of the best runs), with GFLOP/s and time:\n"
        head = ("model", "graph", "size", "multiply-adds per pixel", *(", ".join(column) for column in columns))
        yield table(head, lines)
    yield from explained(rows)


def _share(row: Row | None) -> str:
    if row is None:
        return NONE
    facts, best = row["facts"], row["facts"].get("share_in_best_run")
    share = percent(facts.get("share_of_ceiling")) + ("" if best is None else f" ({percent(best)})")
    return f"{share}, {number(row['value'])}, {ms(row['stats']['p50_ms'])}"


def _ceilings(rows: Sequence[Row]) -> Iterator[str]:
    """Every product with its medians over all cases; what has none, as it is."""
    speeds: dict[str, list[float]] = {}
    plain = []
    for row in rows:
        for name, speed in row["facts"].get("products_gflops", {row["name"]: None}).items():
            if speed is None:
                plain.append(
                    ("ceiling", ", ".join(map(str, row["parameters"].values())), f"{row['value']:g}", row["unit"])
                )
            else:
                speeds.setdefault(f"product, {name}", []).append(speed)
        if copied := row["facts"].get("copy_gb_per_s"):
            speeds.setdefault("copy", []).append(copied)
    if speeds:
        lines = [
            (name, number(middle(v)), number(min(v)), number(max(v)), "GB/s" if name == "copy" else "GFLOP/s")
            for name, v in speeds.items()
        ]
        count = len(rows) - len(plain)
        yield f"The machine's ceiling, measured {count} times, once beside each model, precision and size:\n"
        yield table(("ceiling", "median", "least", "most", ""), lines)
    if plain:
        yield table(("", "of", "ceiling", ""), plain)


def scaling(rows: Sequence[Row]) -> Iterator[str]:
    """Sizes and threads, then the fitted costs."""
    found = measured(rows)
    lines, fits = [], []
    for row in found:
        facts = row["facts"]
        if "megapixels" in facts:
            what = (*of(row, "model"), row["name"], size(row), number(facts["megapixels"]), *of(row, "threads"))
            memory = (megabytes(facts.get("peak_bytes")), megabytes(facts.get("beyond_bytes")))
            lines.append((*what, number(row["value"]), number(facts["ms_per_megapixel"]), *memory))
        else:
            error = percent(facts.get("largest_error"))
            what = (*of(row, "model"), row["name"], *of(row, "threads"))
            fits.append((*what, ms(facts.get("fixed_ms")), number(row["value"]), error, str(facts.get("sizes", ""))))
    if fits:
        head = ("model", "operation", "threads", "fixed", "ms per megapixel", "largest error", "sizes")
        yield table(head, fits)
    if lines:
        head = ("model", "operation", "size", "megapixels", "threads", "time (ms)", "ms per megapixel")
        yield table((*head, "peak memory (MB)", "beyond picture and program (MB)"), lines)
    yield from explained(rows)


def cold_start(rows: Sequence[Row]) -> Iterator[str]:
    """Whole processes."""
    lines = []
    for row in measured(rows):
        name = "python, doing nothing" if row["name"] == "python" else f"vaert {row['name']}"
        stats = row["stats"] or {}
        lines.append((name, number(row["value"]), number(stats.get("p95_ms")), str(stats.get("runs", ""))))
    if lines:
        yield table(("command", "median (ms)", "p95 (ms)", "runs"), lines)
    yield from explained(rows)


def other(rows: Sequence[Row]) -> Iterator[str]:
    """A section that this report does not know."""
    lines = []
    for row in measured(rows):
        given = ", ".join(f"{key} {value}" for key, value in row["parameters"].items())
        further = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in row["facts"].items())
        lines.append((row["name"], given, f"{row['value']:g} {row['unit']}", further))
    if lines:
        yield table(("what", "with", "", "further"), lines)
    yield from explained(rows)
