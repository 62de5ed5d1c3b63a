"""`--compare`: what is paired, what counts as noise, and what a file must be."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks._suite_compare import FASTER, SAME, SLOWER, NotARun, compare, read_run


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
        "not_measured": None if value is not None else "no GPU",
        **more,
    }


def record(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    machine = {"cpu": "A", "cores": 2, "gpus": [], "versions": {"numpy": "2"}}
    return {
        "schema": "vaert-benchmark-run",
        "version": 1,
        "name": "a",
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


def test_what_others_disturbed_has_a_wide_floor() -> None:
    quiet, disturbed = record(row("encoder", 10.0)), record(row("encoder", 12.0))
    assert compare(disturbed, quiet).of(SLOWER)
    disturbed["results"]["sections"]["stages"][0]["stats"]["others_cores"] = 0.5
    assert not compare(disturbed, quiet).of(SLOWER)


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
    assert compare(new, old).agreement() == (2, 3)


def test_rows_that_cannot_be_paired_are_told() -> None:
    old = record(row("a", 10.0), row("gone", 1.0), row("gpu", None), row("unit", 1.0))
    new = record(row("a", 10.0), row("came", 1.0), row("gpu", 2.0), row("unit", 1.0, "megapixels/s"))
    found = compare(new, old)
    assert [pair.what for pair in found.pairs] == ["a fast"]
    reasons = {what.split()[1]: reason for what, reason in found.unpaired}
    assert reasons["gone"] == "only in the old run"
    assert reasons["came"] == "only in the new run"
    assert reasons["gpu"] == "not measured in the old run: no GPU"
    assert "other units" in reasons["unit"]
    assert "4 not compared" in " ".join(found.text())


def test_other_machines_and_options_are_said_first() -> None:
    old = record(row("a", 10.0))
    new = copy.deepcopy(old)
    new["machine"]["cpu"], new["options"]["threads"] = "B", 1
    lines = list(compare(new, old).text())
    assert "cpu was A, is B" in lines[1]
    assert "threads was 2, is 1" in lines[2]


def test_pages_hold_every_row_and_mark_slowdowns() -> None:
    old = record(row("one", 10.0), row("two", 10.0))
    page = "\n".join(compare(record(row("one", 15.0), row("two", 10.0)), old).markdown())
    assert "| one fast | 10 ms | 15 ms | 0.67 |" in page
    assert page.count("**slower**") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no json", "not JSON"),
        ("[]", "not a run"),
        ('{"schema": "vaert-benchmark-run", "version": 2}', "version 2"),
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
    assert report(str(tmp_path / "none.json"), files[0]).stderr.strip().startswith(str(tmp_path))
    assert report(str(tmp_path / "none.json"), files[0]).returncode == 1


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
