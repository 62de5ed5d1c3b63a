"""Two runs of `pytest benchmarks/ --benchmark`: ratios row by row, and which differences are more than noise.

A median of n times with the quartile range q has the standard error 1.2533 * (q / 1.349) / sqrt(n), if times were
normal. Two medians differ beyond noise if they do by more than three standard errors of their difference, and by more
than a floor: clocks and caches differ between two runs in ways that no spread within one of them shows.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._markdown import table
from benchmarks._suite import SCHEMA, VERSION
from benchmarks._suite_load import DISTURBED

Record = Mapping[str, Any]
Row = Mapping[str, Any]
ERRORS = 3.0  # standard errors
FLOOR, FLOOR_ALONE, FLOOR_DISTURBED = 0.05, 0.10, 0.25  # with times in both runs, without, with others at work
EXACT_UNITS = ("bits/pixel", "%", "settings")  # figures that no clock enters
EXACT = 0.002
WITHIN = 0.10  # medians that agree
SHOWN = 20  # lines on a terminal
SLOWER, FASTER, SAME = "slower", "faster", "within noise"
MACHINE = ("cpu", "cores", "gpus", "system", "python", "versions", "vector_extensions")
OPTIONS = ("quick", "threads", "images", "row_limit_s")


class NotARun(ValueError):
    """A file that is not a run, in one line."""


@dataclass(frozen=True)
class Pair:
    """A row of both runs. ratio: above 1 is better; noise: what it may differ from 1 by chance."""

    section: str
    what: str
    old: str
    new: str
    ratio: float
    noise: float
    timed: bool

    @property
    def verdict(self) -> str:
        """Slower, faster, or within noise."""
        if abs(math.log(self.ratio)) <= math.log1p(self.noise):
            return SAME
        return FASTER if self.ratio > 1 else SLOWER


@dataclass(frozen=True)
class Comparison:
    """All rows that both runs measured, the others with their reasons, and what else differs between the runs."""

    names: tuple[str, str]
    pairs: tuple[Pair, ...]
    unpaired: tuple[tuple[str, str], ...]  # row, reason
    remarks: tuple[str, ...]

    def of(self, verdict: str) -> list[Pair]:
        """Pairs of that verdict, the largest difference first."""
        found = (pair for pair in self.pairs if pair.verdict == verdict)
        return sorted(found, key=lambda pair: abs(math.log(pair.ratio)), reverse=True)

    def agreement(self, within: float = WITHIN) -> tuple[int, int]:
        """How many timed rows have medians that agree within a share, and how many timed rows there are."""
        timed = [pair for pair in self.pairs if pair.timed]
        return sum(max(pair.ratio, 1 / pair.ratio) <= 1 + within for pair in timed), len(timed)

    def means(self) -> dict[str, float]:
        """Geometric mean of the ratios of timed rows, by section."""
        sections: dict[str, list[float]] = {}
        for pair in self.pairs:
            if pair.timed:
                sections.setdefault(pair.section, []).append(math.log(pair.ratio))
        return {name: math.exp(math.fsum(logs) / len(logs)) for name, logs in sections.items()}

    def text(self) -> Iterator[str]:
        """For a terminal."""
        new, old = self.names
        yield f"{new} compared with {old}; ratios above 1 are better"
        yield from self.remarks
        for verdict in (SLOWER, FASTER):
            found = self.of(verdict)
            for pair in found[:SHOWN]:
                yield f"{verdict:7} {pair.ratio:6.2f}  {pair.section} {pair.what}: {pair.old} -> {pair.new}"
            if len(found) > SHOWN:
                yield f"{verdict:7} and {len(found) - SHOWN} more"
        yield from self._summary()

    def markdown(self) -> Iterator[str]:
        """All rows."""
        new, old = self.names
        yield f"# {new} compared with {old}\n"
        yield "Ratios above 1 are better; noise is what they may differ from 1 by chance.\n"
        yield from (f"- {line}" for line in (*self.remarks, *self._summary()))
        for section in dict.fromkeys(pair.section for pair in self.pairs):
            yield f"\n## {section}\n"
            own = [pair for pair in self.pairs if pair.section == section]
            rows = [(p.what, p.old, p.new, f"{p.ratio:.2f}", f"{p.noise:.0%}", _mark(p.verdict)) for p in own]
            yield table(("", old, new, "ratio", "noise", ""), rows)
        if self.unpaired:
            yield "\n## Not compared\n"
            yield from (f"- {reason} ({count})" for reason, count in Counter(r for _, r in self.unpaired).items())

    def _summary(self) -> Iterator[str]:
        counts = Counter(pair.verdict for pair in self.pairs)
        numbers = f"{counts[SLOWER]} {SLOWER}, {counts[FASTER]} {FASTER}, {counts[SAME]} {SAME}"
        yield f"{len(self.pairs)} rows compared: {numbers}; {len(self.unpaired)} not compared"
        agreeing, timed = self.agreement()
        if timed:
            share = f"{agreeing} of {timed} rows with times ({agreeing / timed:.0%})"
            yield f"medians agree within {WITHIN:.0%} in {share}"
        for section, mean in self.means().items():
            yield f"{section}: geometric mean of the ratios {mean:.3f}"


def read_run(path: Path) -> dict[str, Any]:
    """A run's file. NotARun."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise NotARun(f"{path}: {error.strerror or 'cannot be read'}") from error
    except ValueError as error:
        raise NotARun(f"{path} is not JSON: expected the run-NAME.json of a run") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise NotARun(f"{path} is not a run: expected the run-NAME.json of `pytest benchmarks/ --benchmark`")
    if record.get("version") != VERSION:
        raise NotARun(f"{path} has version {record.get('version')} of the format, this is for {VERSION}")
    return record


def compare(new: Record, old: Record) -> Comparison:
    """Pair the rows of two runs by section, name and parameters."""
    rows, before = _by_key(new), _by_key(old)
    pairs, unpaired = [], []
    for key in dict.fromkeys((*rows, *before)):
        section, what = key[0], _what(rows.get(key) or before[key])
        if reason := _unpaired(rows.get(key), before.get(key)):
            unpaired.append((f"{section} {what}", reason))
        else:
            pairs.append(_pair(section, what, new=rows[key], old=before[key]))
    return Comparison((new["name"], old["name"]), tuple(pairs), tuple(unpaired), tuple(_remarks(new, old)))


def _by_key(record: Record) -> dict[tuple[str, str, str], Row]:
    sections = record["results"]["sections"]
    return {
        (name, row["name"], json.dumps(row["parameters"], sort_keys=True)): row
        for name, rows in sections.items()
        for row in rows
    }


def _what(row: Row) -> str:
    return " ".join((row["name"], *(str(value) for value in row["parameters"].values())))


def _unpaired(new: Row | None, old: Row | None) -> str:
    if new is None or old is None:
        return f"only in the {'old' if new is None else 'new'} run"
    for which, row in (("new", new), ("old", old)):
        if row["value"] is None:
            return f"not measured in the {which} run: {row['not_measured']}"
    if new["unit"] != old["unit"]:
        return f"other units: {old['unit']}, then {new['unit']}"
    return ""


def _pair(section: str, what: str, *, new: Row, old: Row) -> Pair:
    exact = new["unit"] in EXACT_UNITS
    values = old["value"], new["value"]
    if exact and new["unit"] == "%":  # a difference of percents, as a factor
        values = 100 + old["value"], 100 + new["value"]
    ratio = values[1] / values[0] if min(values) > 0 else (1.0 if values[0] == values[1] else math.inf)
    ratio = ratio if new["better"] == "higher" else 1 / ratio
    then, now = (f"{row['value']:g} {row['unit']}" for row in (old, new))
    timed = not exact and new["stats"] is not None and old["stats"] is not None
    return Pair(section, what, then, now, ratio, EXACT if exact else _noise(new, old), timed)


def _noise(new: Row, old: Row) -> float:
    stats = [row["stats"] for row in (new, old)]
    if not all(stats):
        return FLOOR_ALONE
    disturbed = any((found.get("others_cores") or 0) > DISTURBED for found in stats)
    errors = [1.2533 * found["iqr_ms"] / 1.349 / found["p50_ms"] / math.sqrt(found["runs"]) for found in stats]
    return max(FLOOR_DISTURBED if disturbed else FLOOR, ERRORS * math.hypot(*errors))


def _remarks(new: Record, old: Record) -> Iterator[str]:
    for part, names in (("machine", MACHINE), ("options", OPTIONS)):
        for name in names:
            then, now = old[part].get(name), new[part].get(name)
            if then != now:
                yield f"another {part.removesuffix('s')} or setting: {name} was {then}, is {now}"


def _mark(verdict: str) -> str:
    return f"**{verdict}**" if verdict == SLOWER else verdict
