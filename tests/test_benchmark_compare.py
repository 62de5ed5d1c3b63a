"""`--compare`: what is paired, what counts as noise, and what a file must be."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks._suite import Stats
from benchmarks._suite_compare import FASTER, SAME, SLOWER, NotARun, agreement, compare, newest_run, read_run
from benchmarks._suite_compared import MOST, markdown, text


def row(
    name: str, value: float | None, unit: str = "ms", *, iqr: float = 0.1, better: str = "lower", **more: Any
) -> dict[str, Any]:
    stats = {"runs": 20, "p50_ms": 10.0, "iqr_ms": iqr, "others_cores": 0.0} if value is not None else None
    return {
        "name": name,
        "parameters": {"model": "fast"},
        "value": value,
        "unit": unit,
        "better": better,
        "stats": stats,
        "facts": {},
        "not_measured": None if value is not None else "no GPU",
        **more,
    }


def record(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    machine = {"cpu": "A", "cores": 2, "gpus": [], "versions": {"numpy": "2"}}
    return {
        "schema": "vaert-benchmark-run",
        "version": 1,
        "name": "a",
        "started": "2026-01-01T00:00:00Z",
        "machine": machine,
        "options": {"quick": True, "threads": 2},
        "results": {"sections": {"stages": list(rows)}},
        **more,
    }


@pytest.mark.parametrize(
    ("old", "new", "better", "iqr", "verdict"),
    [
        (10.0, 13.0, "lower", 0.1, SLOWER),
        (10.0, 7.0, "lower", 0.1, FASTER),
        (10.0, 13.0, "higher", 0.1, FASTER),
        (10.0, 7.0, "higher", 0.1, SLOWER),
        (10.0, 10.4, "lower", 0.1, SAME),  # below the floor
        (10.0, 13.0, "lower", 6.0, SAME),  # three standard errors are more than 30 %
        (10.0, 30.0, "lower", 6.0, SLOWER),
    ],
)
def test_verdicts(old: float, new: float, better: str, iqr: float, verdict: str) -> None:
    before, after = (record(row("encoder", value, better=better, iqr=iqr)) for value in (old, new))
    (pair,) = compare(after, before).pairs
    assert pair.verdict == verdict
    assert (pair.ratio > 1) == (new > old) ^ (better == "lower")
    (mirrored,) = compare(before, after).pairs
    assert mirrored.ratio == pytest.approx(1 / pair.ratio)
    assert mirrored.noise == pair.noise
    assert mirrored.verdict == {SLOWER: FASTER, FASTER: SLOWER, SAME: SAME}[verdict]


def test_more_runs_mean_less_noise() -> None:
    few, many = record(row("encoder", 10.0, iqr=3.0)), record(row("encoder", 10.0, iqr=3.0))
    for one in many["results"]["sections"]["stages"]:
        one["stats"]["runs"] = 100
    assert compare(few, few).pairs[0].noise > compare(many, many).pairs[0].noise > 0.05


def timed(name: str, generator: np.random.Generator, *, runs: int, spread: float, factor: float) -> dict[str, Any]:
    times = factor * (1 + spread * generator.standard_normal(runs)) / 100
    stats = Stats.of([float(abs(value)) for value in times], 0.0)
    return row(name, stats.p50_ms, stats={"runs": runs, "p50_ms": stats.p50_ms, "iqr_ms": stats.iqr_ms})


@pytest.mark.parametrize("runs", [3, 4, 6, 10, 30])
def test_chance_alone_seldom_marks_a_row(runs: int) -> None:
    """A spread of 10 %, beside which the floor is small, 2000 times: few runs may not mark more rows than many."""
    generator = np.random.default_rng(runs)
    old, new = (
        record(*(timed(f"row {n}", generator, runs=runs, spread=0.1, factor=1) for n in range(2000))) for _ in range(2)
    )
    found = compare(new, old)
    marked = len(found.of(SLOWER)) + len(found.of(FASTER))
    assert marked <= 20
    assert found.agreement() != (2000, 2000)


@pytest.mark.parametrize("runs", [3, 10, 100])
def test_a_planted_slowdown_is_found(runs: int) -> None:
    """30 % where times spread by 2 %: found in all but a few of 200 rows of 3 runs, in all of more."""
    generator = np.random.default_rng(runs)
    old, new = (
        record(*(timed(f"row {n}", generator, runs=runs, spread=0.02, factor=factor) for n in range(200)))
        for factor in (1.0, 1.3)
    )
    found = compare(new, old)
    assert len(found.of(SLOWER)) >= (180 if runs == 3 else 200)
    assert not found.of(FASTER)
    assert found.agreement() == (0, 200)
    assert found.means()["stages"] == pytest.approx(1 / 1.3, rel=0.02)


def test_what_others_disturbed_has_a_wide_floor() -> None:
    quiet, disturbed = record(row("encoder", 10.0)), record(row("encoder", 12.0))
    assert compare(disturbed, quiet).of(SLOWER)
    rows = disturbed["results"]["sections"]["stages"]
    rows[0]["stats"]["others_cores"] = 0.5
    assert not compare(disturbed, quiet).of(SLOWER)
    rows.append(row("decoder", 10.0))
    quiet["results"]["sections"]["stages"].append(row("decoder", 10.0))
    found = compare(disturbed, quiet)
    assert (found.agreement(), found.agreement(quiet=True)) == ((1, 2), (1, 1))
    assert "where others disturbed neither run, in 1 of 1 (100%)" in list(text(found))


@pytest.mark.parametrize(
    ("unit", "old", "new", "better", "verdict"),
    [
        ("bits/pixel", 0.5, 0.51, "lower", SLOWER),
        ("bits/pixel", 0.5, 0.5, "lower", SAME),
        ("%", -40.0, -41.0, "lower", FASTER),
        ("%", -40.0, -39.0, "lower", SLOWER),
        ("%", 0.0, 0.0, "lower", SAME),
        ("settings", 11.0, 10.0, "higher", SLOWER),
        ("ratio", 1.2, 1.25, "lower", SAME),
    ],
)
def test_figures_without_times(unit: str, old: float, new: float, better: str, verdict: str) -> None:
    before, after = (record(row("x", value, unit, better=better, stats=None)) for value in (old, new))
    found = compare(after, before)
    assert found.pairs[0].verdict == verdict
    assert found.agreement() == (0, 0)


def test_a_run_agrees_with_itself() -> None:
    rows = [row(f"stage {n}", 1.0 + n, iqr=n / 10) for n in range(9)]
    found = compare(record(*rows), record(*rows))
    assert found.agreement() == (9, 9)
    assert not found.of(SLOWER) + found.of(FASTER)
    assert not found.remarks
    assert found.means()["stages"] == pytest.approx(1)


def test_agreement_counts_rows_within_ten_percent() -> None:
    old = record(row("a", 10.0), row("b", 10.0), row("c", 10.0))
    new = record(row("a", 10.9), row("b", 9.2), row("c", 11.2))
    assert agreement(new, old) == agreement(old, new) == (2, 3)
    assert agreement(new, old, 0.05) == (0, 3)
    assert agreement(new, old, 0.15) == (3, 3)
    assert "medians agree within 10% in 2 of 3 rows with times (67%)" in list(text(compare(new, old)))


@pytest.mark.parametrize(
    ("fact", "old", "new", "verdict"),
    [
        ("psnr_db", 33.0, 32.9, SLOWER),
        ("psnr_db", 33.0, 33.0, SAME),
        ("ms_ssim", 0.95, 0.97, FASTER),
        ("bpp", 0.5, 0.51, SLOWER),
        ("peak_bytes", 100, 108, SAME),
        ("peak_bytes", 100, 150, SLOWER),
        ("share_of_ceiling", 0.8, 0.75, SAME),
        ("share_of_ceiling", 0.8, 0.5, SLOWER),
    ],
)
def test_facts_are_compared_too(fact: str, old: float, new: float, verdict: str) -> None:
    before, after = (record(row("encoder", 10.0, facts={fact: value, "remark": "none"})) for value in (old, new))
    found = compare(after, before)
    value, own = found.pairs
    assert (value.fact, value.verdict, own.fact, own.verdict) == ("", SAME, fact, verdict)
    assert found.agreement() == (1, 1)
    assert f"| encoder fast, {fact.replace('_', ' ')} |" in "\n".join(markdown(found))
    words = {SLOWER: "worse", FASTER: "better"}
    assert verdict == SAME or any(line.startswith(words[verdict]) for line in text(found))


def test_a_share_of_the_ceiling_is_as_noisy_as_its_time() -> None:
    before, after = (record(row("encoder", 10.0, iqr=6.0, facts={"share_of_ceiling": s})) for s in (0.8, 0.6))
    assert not compare(after, before).of(SLOWER)


@pytest.mark.parametrize(("old", "new"), [(0.0, 5.0), (5.0, 0.0), (-1.0, 2.0), (1.0, float("inf"))])
@pytest.mark.parametrize("better", ["lower", "higher"])
def test_figures_without_a_ratio_are_told(old: float, new: float, better: str) -> None:
    before, after = (record(row("x", value, better=better)) for value in (old, new))
    found = compare(after, before)
    assert not found.pairs
    assert found.unpaired[0][1].startswith("no ratio: ")
    assert compare(before, before).pairs[0].ratio == 1


def test_a_median_that_is_rounded_to_nothing_has_a_noise() -> None:
    rows = [row("x", 0.0001, stats={"runs": 3, "p50_ms": 0.0, "iqr_ms": 0.0001, "others_cores": None})]
    assert compare(record(*rows), record(*rows)).pairs[0].noise > 1


def test_rows_of_one_name_are_all_kept() -> None:
    old, new = record(row("x", 10.0), row("x", 20.0)), record(row("x", 10.0), row("x", 30.0), row("x", 1.0))
    found = compare(new, old)
    assert [pair.verdict for pair in found.pairs] == [SAME, SLOWER]
    assert found.unpaired == (("stages x fast", "only in the new run"),)


def test_rows_that_cannot_be_paired_are_told() -> None:
    old = record(
        row("a", 10.0), row("gone", 1.0), row("gpu", None), row("unit", 1.0), row("lost", 1.0), row("no", None)
    )
    new = record(
        row("a", 10.0),
        row("came", 1.0),
        row("gpu", 2.0),
        row("unit", 1.0, "megapixels/s"),
        row("lost", None),
        row("no", None),
    )
    found = compare(new, old)
    assert [pair.what for pair in found.pairs] == ["a fast"]
    reasons = {what.split()[1]: reason for what, reason in found.unpaired}
    assert reasons["gone"] == "only in the old run"
    assert reasons["came"] == "only in the new run"
    assert reasons["gpu"] == "not measured in the old run: no GPU"
    assert "other units" in reasons["unit"]
    assert reasons["no"] == "measured in neither run: no GPU"
    lines, page = list(text(found)), "\n".join(markdown(found))
    assert "lost     stages lost fast: not measured in the new run: no GPU" in lines
    assert any(line.startswith("6 rows not compared: ") and "1 only in the old run" in line for line in lines)
    for name, reason in reasons.items():
        assert f"| stages {name} fast | {reason} |" in page


def test_other_machines_and_options_are_said_first() -> None:
    old = record(row("a", 10.0))
    new = copy.deepcopy(old)
    new["machine"]["cpu"], new["options"]["threads"], new["options"]["models"] = "B", 1, ["fast", "restore"]
    new["machine"]["versions"] = {"numpy": "2", "onnxruntime": "1"}
    assert list(text(compare(new, old)))[1:6] == [
        "machine: cpu was A, is B",
        "versions: onnxruntime was None, is 1",
        "options: threads was 2, is 1",
        "options: models was None, is fast, restore",
        "ratios tell of these differences as well",
    ]


def test_pages_hold_every_row_and_mark_slowdowns() -> None:
    old = record(row("one", 10.0), row("two", 10.0))
    page = "\n".join(markdown(compare(record(row("one", 15.0), row("two", 10.0)), old)))
    assert "| one fast | 10 ms | 15 ms | 0.667 |" in page
    assert page.count("**slower**") == 1


def test_a_terminal_shows_the_worst_and_says_what_it_leaves_out() -> None:
    count = MOST[SLOWER] + 7
    old = record(*(row(f"row {n}", 10.0) for n in range(count)))
    found = compare(record(*(row(f"row {n}", 12.0 + n) for n in range(count))), old)
    lines = list(text(found))
    shown = [line for line in lines if line.startswith("slower ")]
    assert [f"row {count - 1 - n} fast:" in line for n, line in enumerate(shown)] == [True] * MOST[SLOWER]
    assert any(line.startswith("and 7 more that are slower") for line in lines)
    assert "\n".join(markdown(found)).count("**slower**") == count


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no json", "not JSON"),
        ("[]", "not a run"),
        ('{"schema": "vaert-benchmark-run", "version": 2}', "version 2"),
        ('{"schema": "vaert-benchmark-run", "version": 1}', "damaged"),
        (json.dumps(record({"name": "x"})), "lacks better, facts, not_measured"),
        (json.dumps({**record(), "machine": 0}).replace('"started"', '"ended"'), "lacks started"),
        (None, "No such"),
    ],
)
def test_files_that_are_no_runs(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "run.json"
    if text is not None:
        path.write_text(text, "utf-8")
    with pytest.raises(NotARun, match=said) as error:
        read_run(path)
    assert "\n" not in str(error.value)


def test_the_newest_run_of_a_folder_is_the_one_that_started_last(tmp_path: Path) -> None:
    for day, name in enumerate(("old", "new", "between")):
        when = f"2026-01-0{(1, 3, 2)[day]}T00:00:00Z"
        (tmp_path / f"run-{name}.json").write_text(json.dumps(record(name=name, started=when)), "utf-8")
        os.utime(tmp_path / f"run-{name}.json", (day, day))
    old, new = (tmp_path / f"run-{name}.json" for name in ("old", "new"))
    assert newest_run(tmp_path, besides=old)["name"] == "new"
    assert newest_run(tmp_path, besides=new)["name"] == "between"
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotARun, match="holds no run to compare with"):
        newest_run(tmp_path / "empty", besides=old)


def test_the_command_compares_two_files(root: Path, tmp_path: Path) -> None:
    for name, value in (("old", 10.0), ("new", 15.0)):
        (tmp_path / f"run-{name}.json").write_text(json.dumps(record(row("one", value), name=name)), "utf-8")

    def report(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "benchmarks.report", "--compare", *arguments]
        return subprocess.run(line, cwd=root, capture_output=True, text=True, check=False, timeout=60)

    files = [str(tmp_path / f"run-{name}.json") for name in ("old", "new")]
    done = report(*files)
    assert (done.returncode, "slower" in done.stdout) == (0, True)
    assert report(*files, "--fail-on-slowdown").returncode == 1
    assert report(*reversed(files), "--fail-on-slowdown").returncode == 0
    newest = report(files[0], "--results", str(tmp_path), "--fail-on-slowdown")
    assert (newest.returncode, "new compared with old" in newest.stdout) == (1, True)
    wrong = report(str(tmp_path / "none.json"), files[0])
    assert wrong.returncode == 1
    assert wrong.stderr.strip() == f"--compare: {tmp_path}/none.json: No such file or directory"


def test_a_run_is_compared_with_an_earlier_one(root: Path, tmp_path: Path) -> None:
    tiny = ["benchmarks/test_scaling.py", "-k", "cold_start and help", "--benchmark", "--quick", "--out", str(tmp_path)]

    def suite(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *tiny, *arguments]
        return subprocess.run(line, cwd=root, capture_output=True, text=True, check=False, timeout=120)

    assert suite("--run-name", "one").returncode == 0
    done = suite("--run-name", "two", "--compare", str(tmp_path / "run-one.json"))
    assert done.returncode == 0, done.stdout
    assert "two compared with one" in done.stdout
    assert "cold_start" in (tmp_path / "run-two-compared.md").read_text("utf-8")
    wrong = suite("--compare", str(tmp_path / "run-two-compared.md"))
    assert wrong.returncode == pytest.ExitCode.USAGE_ERROR
    assert "not JSON" in wrong.stderr
