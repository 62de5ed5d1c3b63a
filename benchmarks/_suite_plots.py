"""Plots of a run's report: speeds, stages and growth. docs/benchmarks.md says what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _suite_curves
from benchmarks._suite import BACKENDS
from benchmarks._suite_figure import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PINK,
    RED,
    SKY,
    new,
    plain_ticks,
    save,
    styled,
)
from benchmarks._suite_tables import DIGIT_WIDTH, TITLES, Row, labels, measured, number, of, ordered, size

PREFERRED = ("768x512", "256x256", "1920x1080", "3840x2160")
PRECISIONS = {"fp32": BLUE, "fp16": SKY, "int8": ORANGE}
LEAST_SHARE, LABELLED = 0.02, 0.07  # of a bar: stages that get a colour of their own, and those with a figure inside
STAGES = (BLUE, ORANGE, GREEN, PINK, SKY, RED, INK)
TICKS = (0.1, 0.3, 1, 3, 10, 30, 100)  # megapixels
OTHER = "all other stages"


@dataclass(frozen=True)
class Plot:
    """A plot's name in file names, the text that stands for it, and what draws a section's rows, if it can."""

    name: str
    alternative: str
    draw: Callable[[Path, Sequence[Row]], bool]


def draw(record: Mapping[str, Any], folder: Path, stem: str) -> dict[str, Path]:
    """Write `STEM-NAME.png` for every plot that the run has rows for; NAME -> path. OutputError."""
    folder.mkdir(parents=True, exist_ok=True)
    sections, made = record["results"]["sections"], {}
    for section, plot in PLOTS.items():
        path = folder / f"{stem}-{plot.name}.png"
        with styled():
            if plot.draw(path, measured(sections.get(section, []))):
                made[plot.name] = path
    return made


def rate_distortion(path: Path, rows: Sequence[Row]) -> bool:
    """Curves, with published ones where the pictures are those of Kodak."""
    curves, over, kodak = _suite_curves.of_section(rows)
    if curves:
        _suite_curves.draw(path, curves, over, kodak=kodak)
    return bool(curves)


def throughput(path: Path, rows: Sequence[Row]) -> bool:
    """A panel for each model and operation, backends as groups, precisions as colours; one size, one by one."""
    shown, title = _shown(rows)
    panels = ordered(of(row, "model", "operation") for row in shown)
    if not panels:
        return False
    backends = [name for name in BACKENDS if any(of(row, "backend") == (name,) for row in shown)]
    precisions = [name for name in PRECISIONS if any(of(row, "precision") == (name,) for row in shown)]
    values = {of(row, "model", "operation", "backend", "precision"): _speed(row) for row in shown}
    if len(backends) == 1 and len(precisions) == 1:  # a bar for each panel: one panel of them
        places = {", ".join(ordered(panel)): (*panel, backends[0]) for panel in panels}
        groups = {f"{TITLES[backends[0]]}, {precisions[0]}": places}
    else:
        groups = {", ".join(ordered(p)): {TITLES[name]: (*p, name) for name in backends} for p in panels}
    columns = min(2, len(groups))
    lines = -(-len(groups) // columns)
    tall = 0.55 + max(map(len, groups.values())) * (0.2 * len(precisions) + 0.1)
    figure = new(0.8 + tall * lines, title)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, (name, places) in zip(grid.flat, groups.items(), strict=False):
        _bars(axes, values, places, precisions)
        axes.set_title(name)
    for axes in grid.flat[len(groups) :]:
        axes.set_axis_off()
    if len(precisions) > 1:
        figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    save(figure, path)
    return True


def _shown(rows: Sequence[Row]) -> tuple[list[Row], str]:
    """Photographs of one size, one by one; without any, digits by the most at once."""
    single = [row for row in rows if row["parameters"]["batch"] == 1 and row["parameters"]["width"] != DIGIT_WIDTH]
    chosen = next((name for name in PREFERRED if any(size(row) == name for row in single)), None)
    if chosen:
        return [row for row in single if size(row) == chosen], f"Megapixels per second, {chosen}, one picture at a time"
    most = max((row["parameters"]["batch"] for row in rows), default=0)
    return [r for r in rows if r["parameters"]["batch"] == most], f"Images per second, {most} at a time"


def _speed(row: Row) -> float:
    digits = row["parameters"]["width"] == DIGIT_WIDTH
    return float(row["facts"]["pictures_per_s"] if digits else row["value"])


def _bars(
    axes: Any, values: Mapping[Any, float], places: Mapping[str, tuple[str, ...]], precisions: Sequence[str]
) -> None:
    """Horizontal bars with their figures, from the top; places: label -> key of `values` without its precision."""
    thick = 0.8 / len(precisions)
    longest = 0.0
    for count, precision in enumerate(precisions):
        at = [place - 0.4 + (count + 0.5) * thick for place in range(len(places))]
        found = [values.get((*key, precision), 0.0) for key in places.values()]
        bars = axes.barh(at, found, thick * 0.9, color=PRECISIONS[precision], label=precision)
        axes.bar_label(bars, [number(value) if value else "" for value in found], padding=3, fontsize=9)
        longest = max(longest, *found)
    axes.set_yticks(range(len(places)), list(places))
    axes.set_ylim(len(places) - 0.45, -0.55)
    axes.set_xlim(0, 1.15 * longest)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)


def stages(path: Path, rows: Sequence[Row]) -> bool:
    """A panel for each operation, a bar for each model and size: milliseconds per megapixel, stage by stage."""
    stage = [row for row in rows if "share" in row["facts"]]
    panels = ordered(of(row, "operation") for row in stage)
    if not panels:
        return False
    names = ordered(row["name"] for row in sorted(stage, key=lambda r: -r["facts"]["share"]))
    large = [n for n in names if any(r["name"] == n and r["facts"]["share"] >= LEAST_SHARE for r in stage)][
        : len(STAGES)
    ]
    colours = dict(zip(large, STAGES, strict=False)) | {OTHER: "#BBBBBB"}
    own = {panel: [row for row in stage if of(row, "operation") == panel] for panel in panels}
    counts = [len(set(labels(rows, "model", "size"))) for rows in own.values()]
    figure = new(1.6 + 0.75 * len(panels) + 0.36 * sum(counts), "Where the time goes, milliseconds per megapixel")
    grid = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": counts})
    for axes, panel in zip(grid.flat, panels, strict=True):
        _stacks(axes, own[panel], colours)
        axes.set_title(panel[0])
    handles = {
        label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    shown = [name for name in colours if name in handles]
    figure.legend([handles[n] for n in shown], shown, loc="outside lower left", ncols=4, fontsize=9)
    save(figure, path)
    return True


def _stacks(axes: Any, rows: Sequence[Row], colours: Mapping[str, str]) -> None:
    """One bar for each model and size."""
    names = labels(rows, "model", "size")
    bars = ordered(names)
    left = [0.0] * len(bars)
    for name, colour in colours.items():
        cost, share = [0.0] * len(bars), [0.0] * len(bars)
        for row, label in zip(rows, names, strict=True):
            if row["name"] == name or (name == OTHER and row["name"] not in colours):
                place, p = bars.index(label), row["parameters"]
                cost[place] += row["value"] * 1e6 / (p["width"] * p["height"])
                share[place] += row["facts"]["share"]
        if not any(cost):
            continue
        drawn = axes.barh(range(len(bars)), cost, 0.72, left=left, color=colour, label=name, edgecolor="white", lw=0.8)
        dark = colour in (BLUE, INK, RED, GREEN)
        texts = [f"{100 * value:.0f} %" if value >= LABELLED else "" for value in share]
        axes.bar_label(drawn, texts, label_type="center", fontsize=9, color="white" if dark else INK)
        left = [a + b for a, b in zip(left, cost, strict=True)]
    for place, total in enumerate(left):
        axes.text(total, place, f"  {number(total)}", va="center", fontsize=9, fontweight="bold")
    axes.set_yticks(range(len(bars)), bars)
    axes.set(ylim=(len(bars) - 0.5, -0.5), xlim=(0, 1.1 * max(left)))
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)


def scaling(path: Path, rows: Sequence[Row]) -> bool:
    """Time per megapixel and peak memory against megapixels, with all threads."""
    sizes = [row for row in rows if "megapixels" in row["facts"]]
    threads = max((row["parameters"]["threads"] for row in sizes), default=0)
    sizes = [row for row in sizes if row["parameters"]["threads"] == threads]
    if not sizes:
        return False
    figure = new(3.6, f"Growth with the picture, {threads} thread{'' if threads == 1 else 's'}")
    left, right = figure.subplots(1, 2)
    names = labels(sizes, "model", "name")
    for line, colour, mark in zip(ordered(names), (BLUE, ORANGE, GREEN, PINK, RED, SKY), "osD^vP", strict=False):
        own = [row["facts"] for row, name in zip(sizes, names, strict=True) if name == line]
        own.sort(key=lambda facts: facts["megapixels"])
        look: Any = {"color": colour, "marker": mark, "markersize": 4.5, "linewidth": 1.8, "label": line}
        left.plot([f["megapixels"] for f in own], [f["ms_per_megapixel"] for f in own], **look)
        known = [facts for facts in own if facts.get("peak_bytes")]
        right.plot([f["megapixels"] for f in known], [f["peak_bytes"] / 1e6 for f in known], **look)
    pictures = sorted({(r["facts"]["megapixels"], r["facts"]["picture_bytes"] / 1e6) for r in sizes})
    right.plot(*zip(*pictures, strict=True), color=MUTED, linestyle="--", linewidth=1.2, label="the picture itself")
    left.set(title="ms per megapixel", ylim=(0, 1.15 * left.dataLim.y1))
    right.set(title="peak memory (MB)", ylim=(0, 1.1 * right.dataLim.y1))
    for axes in (left, right):
        axes.set(xscale="log", xlabel="megapixels")
        plain_ticks(axes, "x", [v for v in TICKS if pictures[0][0] / 1.2 <= v <= 1.2 * pictures[-1][0]])
        axes.grid(color=FAINT)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower left", ncols=4)
    save(figure, path)
    return True


PLOTS = {
    "throughput": Plot("throughput", "Bars: speed of every model, by backend and precision", throughput),
    "rate_distortion": Plot("rd", "Curves: PSNR over bits per pixel of vaert and other codecs", rate_distortion),
    "stages": Plot(
        "stages", "Bars: milliseconds per megapixel of every stage of compress, decompress and upscale", stages
    ),
    "scaling": Plot("scaling", "Lines: milliseconds per megapixel, and peak memory, over megapixels", scaling),
}
