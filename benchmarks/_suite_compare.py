"""Two runs of `pytest benchmarks/ --benchmark`: ratios row by row, and which differences are more than noise.

A median of n times with the quartile range q has the standard error 1.2533 * (q / 1.349) / sqrt(n), if times were
normal. Quartiles of few times are themselves uncertain and mostly too narrow, so the error grows by 1 + 4 / n: with it
three standard errors of the difference are exceeded by chance in less than one row of a hundred from n = 3 on (without
it in one of 14). Two medians differ beyond noise if they do by more than that and by more than a floor: clocks, caches
and memory differ between two runs in ways that no spread within one of them shows.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._suite import SCHEMA, VERSION
from benchmarks._suite_load import DISTURBED

Record = Mapping[str, Any]
Row = Mapping[str, Any]
ERRORS, FEW = 3.0, 4.0  # standard errors, and what few runs add to one
FLOOR, FLOOR_ALONE, FLOOR_DISTURBED = 0.05, 0.10, 0.25  # with times in both runs, without, with others at work
EXACT_UNITS = ("bits/pixel", "%", "settings")  # figures that no clock enters
EXACT = 0.002
FACTS = {  # of a row, compared as well: unit, which way they improve, what they may differ by
    "psnr_db": ("dB", "higher", EXACT),
    "restored_db": ("dB", "higher", EXACT),
    "ms_ssim": ("MS-SSIM", "higher", EXACT),
    "bpp": ("bits/pixel", "lower", EXACT),
    "bytes_per_digit": ("bytes", "lower", EXACT),
    "peak_bytes": ("bytes", "lower", FLOOR_ALONE),
    "gpu_bytes": ("bytes", "lower", FLOOR_ALONE),
    "share_of_ceiling": ("of the ceiling", "higher", FLOOR_ALONE),
}
WITHIN = 0.10  # medians that agree
SLOWER, FASTER, SAME = "slower", "faster", "within noise"
MACHINE = (
    "cpu",
    "cores",
    "threads_per_core",
    "memory_bytes",
    "vector_extensions",
    "gpus",
    "system",
    "python",
    "commit",
)
FIELDS = {"name", "parameters", "value", "unit", "better", "stats", "facts", "not_measured"}


class NotARun(ValueError):
    """A file that is not a run, in one line."""


@dataclass(frozen=True)
class Pair:
    """A figure of both runs. ratio: above 1 is better; noise: what it may differ from 1 by chance."""

    section: str
    what: str
    old: str
    new: str
    ratio: float
    noise: float
    timed: bool = False  # a median of times in both runs
    disturbed: bool = False  # by others, in one of them
    fact: str = ""  # its name, where this is not the row's own value

    @property
    def verdict(self) -> str:
        """Slower, faster, or within noise."""
        if abs(math.log(self.ratio)) <= math.log1p(self.noise):
            return SAME
        return FASTER if self.ratio > 1 else SLOWER


@dataclass(frozen=True)
class Comparison:
    """All figures that both runs have, the other rows with their reasons, and what else differs between the runs."""

    names: tuple[str, str]  # new, old
    pairs: tuple[Pair, ...]
    unpaired: tuple[tuple[str, str], ...]  # row, reason
    remarks: tuple[str, ...]

    def of(self, verdict: str) -> list[Pair]:
        """Pairs of that verdict, the largest difference first."""
        found = (pair for pair in self.pairs if pair.verdict == verdict)
        return sorted(found, key=lambda pair: abs(math.log(pair.ratio)), reverse=True)

    def agreement(self, within: float = WITHIN, *, quiet: bool = False) -> tuple[int, int]:
        """How many rows with times have medians that agree, and how many there are; quiet: of those not disturbed."""
        timed = [pair for pair in self.pairs if pair.timed and not (quiet and pair.disturbed)]
        return sum(max(pair.ratio, 1 / pair.ratio) <= 1 + within for pair in timed), len(timed)

    def means(self) -> dict[str, float]:
        """Geometric mean of the ratios of rows with times, by section."""
        sections: dict[str, list[float]] = {}
        for pair in self.pairs:
            if pair.timed:
                sections.setdefault(pair.section, []).append(math.log(pair.ratio))
        return {name: math.exp(math.fsum(logs) / len(logs)) for name, logs in sections.items()}


def agreement(new: Record, old: Record, within: float = WITHIN) -> tuple[int, int]:
    """How many rows have medians that agree within a share, and how many there are: those with times in both runs."""
    return compare(new, old).agreement(within)


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
    try:
        rows = [row for rows in record["results"]["sections"].values() for row in rows]
        missing = {"name", "started", "machine", "options"} - set(record) | set().union(
            *(FIELDS - set(r) for r in rows)
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise NotARun(f"{path} is damaged: it has no rows by section") from error
    if missing:
        raise NotARun(f"{path} is damaged: it lacks {', '.join(sorted(missing))}")
    return record


def newest_run(folder: Path, *, besides: Path) -> dict[str, Any]:
    """The run of a folder that was started last. NotARun, also if there is none besides that one."""
    paths = [path for path in sorted(folder.glob("run-*.json")) if path.resolve() != besides.resolve()]
    if not paths:
        raise NotARun(f"{folder} holds no run to compare with {besides}: give both")
    return max(map(read_run, paths), key=lambda record: str(record["started"]))


def compare(new: Record, old: Record) -> Comparison:
    """Pair the rows of two runs by section, name and parameters."""
    rows, before = _by_key(new), _by_key(old)
    pairs: list[Pair] = []
    unpaired = []
    for key in dict.fromkeys((*rows, *before)):
        section, what = key[0], _what(rows.get(key) or before[key])
        if reason := _unpaired(rows.get(key), before.get(key)):
            unpaired.append((f"{section} {what}", reason))
        else:
            pairs += _pairs(section, what, new=rows[key], old=before[key])
    return Comparison((new["name"], old["name"]), tuple(pairs), tuple(unpaired), tuple(_remarks(new, old)))


def _by_key(record: Record) -> dict[tuple[str, str, str, int], Row]:
    """Rows that share section, name and parameters are counted, so that none is lost."""
    found, seen = {}, Counter[tuple[str, str, str]]()
    for section, rows in record["results"]["sections"].items():
        for row in rows:
            key = section, row["name"], json.dumps(row["parameters"], sort_keys=True)
            found[*key, seen[key]] = row
            seen[key] += 1
    return found


def _what(row: Row) -> str:
    given = {name: value for name, value in row["parameters"].items() if value != row["name"]}
    size = [f"{given.pop('width')}x{given.pop('height')}"] if {"width", "height"} <= given.keys() else []
    others = (value if isinstance(value, str) else f"{name} {value}" for name, value in given.items())
    return " ".join((row["name"], *size, *others))


def _unpaired(new: Row | None, old: Row | None) -> str:
    if new is None or old is None:
        return f"only in the {'old' if new is None else 'new'} run"
    if new["value"] is None or old["value"] is None:
        if new["value"] is None and old["value"] is None:
            return f"measured in neither run: {new['not_measured']}"
        which = "new" if new["value"] is None else "old"
        return f"not measured in the {which} run: {new['not_measured'] or old['not_measured']}"
    if new["unit"] != old["unit"]:
        return f"other units: {old['unit']}, then {new['unit']}"
    if _ratio(*_values(new, old), new["better"]) is None:
        return f"no ratio: {old['value']:g} {old['unit']}, then {new['value']:g}"
    return ""


def _values(new: Row, old: Row) -> tuple[float, float]:
    """A difference of percents is that of what they were taken of."""
    base = 100 if new["unit"] == "%" else 0
    return base + new["value"], base + old["value"]


def _ratio(new: float, old: float, better: str) -> float | None:
    """Above 1 if better; None if there is no such number."""
    if new == old:
        return 1.0
    if not (0 < new < math.inf and 0 < old < math.inf):
        return None
    return new / old if better == "higher" else old / new


def _pairs(section: str, what: str, *, new: Row, old: Row) -> Iterator[Pair]:
    """The rows' values, then their facts."""
    exact, stats = new["unit"] in EXACT_UNITS, [new["stats"], old["stats"]]
    noise = EXACT if exact else _noise(new["stats"], old["stats"])
    then, now = (f"{row['value']:g} {row['unit']}" for row in (old, new))
    ratio = _ratio(*_values(new, old), new["better"])
    assert ratio is not None, "rows without a ratio are not paired"
    disturbed = any(map(_disturbed, stats))
    yield Pair(section, what, then, now, ratio, noise, timed=not exact and all(stats), disturbed=disturbed)
    for name, (unit, better, floor) in FACTS.items():
        first, second = old["facts"].get(name), new["facts"].get(name)
        if first is None or second is None or (ratio := _ratio(second, first, better)) is None:
            continue
        limit = floor if floor == EXACT else max(floor, noise if all(stats) else 0.0)
        yield Pair(section, what, f"{first:g} {unit}", f"{second:g} {unit}", ratio, limit, fact=name)


def _noise(*stats: Mapping[str, Any] | None) -> float:
    """Of the ratio of two rows' values."""
    errors = []
    for found in stats:
        if not found:
            return FLOOR_ALONE
        runs, median = found["runs"], max(found["p50_ms"], 1e-4)  # as it is rounded
        errors.append(1.2533 * found["iqr_ms"] / 1.349 / median / math.sqrt(runs) * (1 + FEW / runs))
    return max(FLOOR_DISTURBED if any(map(_disturbed, stats)) else FLOOR, ERRORS * math.hypot(*errors))


def _disturbed(stats: Mapping[str, Any] | None) -> bool:
    return stats is not None and (stats.get("others_cores") or 0) > DISTURBED


def _remarks(new: Record, old: Record) -> Iterator[str]:
    """What differs besides the figures, a line each."""
    machines, options = [run["machine"] for run in (old, new)], [run["options"] for run in (old, new)]
    versions = [machine.get("versions") or {} for machine in machines]
    for part, runs, names in (
        ("machine", machines, MACHINE),
        ("versions", versions, tuple(dict.fromkeys((*versions[0], *versions[1])))),
        ("options", options, tuple(dict.fromkeys((*options[0], *options[1])))),
    ):
        for name in names:
            then, now = (run.get(name) for run in runs)
            if then != now:
                yield f"{part}: {name} was {_plain(then)}, is {_plain(now)}"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
