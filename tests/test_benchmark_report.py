"""The report of a run of `pytest benchmarks/ --benchmark`, from a small made run: its order, tables, reasons, plots."""

from __future__ import annotations

import copy
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmark_run import CUDA, SLOW, TENSORRT, rate_distortion, record, row, scaling, throughput, whole
from PIL import Image

from benchmarks import _suite_curves, _suite_plots, _suite_report
from benchmarks._suite_plots import PLOTS, draw
from benchmarks._suite_tables import explained, number, three_way
from benchmarks.report import filled, page, read, write_pages

SIZE_LIMIT = 60_000


def write(folder: Path, made: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"run-{made['name']}.json"
    path.write_text(json.dumps(made), "utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    assert _suite_report.write(write(folder, whole())) == folder / "run-full.md"
    return folder


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "run-full.md").read_text("utf-8")


def columns(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line))


def test_the_three_way_table_comes_first_then_bars_then_sections(text: str) -> None:
    titles = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "CPU, ORT-CUDA and TensorRT",
        "Bars of this run",
        "Throughput",
        "Stages",
        "Roofline",
        "Rate and distortion",
        "Peers",
        "Scaling",
        "Cold start",
        "New thing",
        "The run",
    ]
    first = next(line for line in text.splitlines() if line.startswith("|"))
    assert first.split(" | ")[-4:] == ["CPU", "ORT-CUDA", "TensorRT", "ORT-TensorRT |"]


def test_figures_stand_in_their_tables(text: str) -> None:
    for line in (
        "| fast | compress | 768x512 | 1 | fp32 | 10.0 · 25.4 | – | – | – |",
        "| fast | compress | 768x512 | 1 | fp32 | cpu | 21.5 | 23.2 | 24.5 | 7 | 300 | 200 | – |",
        "| speed \\| made | fast | 7 ms | met |",
        "| encoder | 30.0 ms, 75 % | 30.0 ms, 75 % |",
        "| sum of stages | 40.0 ms | 40.0 ms |",
        "| sum / whole | 0.976 | 0.976 |",
        "| call to graphs | 1.25 (25.0 ms / 20.0 ms) | 1.25 (25.0 ms / 20.0 ms) |",
        "| compress, two stages | 44.0 | +10% |",
        "| product, cpu 64x64x64 | 450 | 450 | 450 | GFLOP/s |",
        "| copy | 40.0 | 40.0 | 40.0 | GB/s |",
        "| ceiling | tensorrt, int8 tensor cores | 90 | made |",
        "| fast | encoder | 768x512 | 6,276 | 75 % (75 %), 338, 21.5 ms | 150 % (150 %), 675, 21.5 ms |",
        "| JPEG | measured here | -47.3 %* |",
        "\\* only a part.",
        "| ELIC (paper) | published, Kodak | +33.2 % |",
        "| vaert fast, int8 | 50 | 0.700 | 33.25 | 31.5 | 31.5 | 12.5 | 12.5 |",
        "| vaert fast, int8 | 50 | 1.050 | 31.25 | – | 5.00 | 6.00 |",
        "| CompressAI | compress | 768x512 | 754 | 111 (vaert fast) | 6.79 | untrained: its time only |",
        "| 768x512 | upscale x4 | ESPCN | 14.5 | 0.149 |  |",
        "| fast | compress | 8000x6250 | 50.0 | 2 | 4,000 | 80.0 | 300 | 99 |",
        "| fast | compress, fitted | 2 | 1.50 ms | 79.5 | 5.0 % |  |",
        "| vaert --help | 61.0 | 23.2 | 7 |",
        "| unheard of | model fast | 3.5 made | fact 9 |",
    ):
        assert line in text.splitlines()


def test_absent_backends_are_told_once_under_the_table(text: str) -> None:
    above, bars, _ = text.partition("## Bars")
    assert bars
    assert above.count(CUDA) == 1
    assert f"- ORT-CUDA, ORT-TensorRT: absent: {CUDA}" in above
    assert f"- TensorRT: absent: {TENSORRT}" in above
    assert "TensorRT was never available" in above
    there = [*throughput(), *copy.deepcopy(throughput()[:4])]
    for one in there[-4:]:
        one["parameters"]["backend"] = "tensorrt"
    there = [one for one in there if one["name"] != "all"]
    shown = "\n".join(three_way(there))
    assert "| fast | compress | 768x512 | 1 | fp32 | 10.0 · 25.4 | – | 10.0 · 25.4 | – |" in shown
    assert "- ORT-CUDA, ORT-TensorRT: not part of this run" in shown
    assert "never available" not in shown


def test_every_row_is_there_by_its_name_or_its_reason(text: str) -> None:
    plain = text.replace("\\|", "|")
    for rows in whole()["results"]["sections"].values():
        for one in rows:
            if one["not_measured"] is None:
                assert one["name"] in plain or one["name"] in ("point", "points"), one
            elif "would take" not in one["not_measured"]:
                assert one["not_measured"] in plain, one
    assert "**1 of them failed**" in plain


def test_rows_of_one_reason_are_one_line() -> None:
    rows = [row("a", None, reason=SLOW.format(seconds), batch=seconds) for seconds in (101, 23, 30)]
    rows += [row("b", None, reason="left | out", model="fast"), row("measured", 1.0)]
    made = "\n".join(explained(rows)).splitlines()
    assert made[0] == "Without a figure: 4 rows."
    assert made[-2:] == [
        f"| 3 | {SLOW.format('23 to 101')} | a; batch 101, 23, 30 |",
        "| 1 | left \\| out | b; model fast |",
    ]
    assert list(explained([row("measured", 1.0)])) == []
    assert "| failed: &lt;made> |" in "\n".join(explained([row("a", None, reason="failed: <made>")]))
    many = [row("a", None, reason="left out", setting=count) for count in range(13)]
    assert "| 13 | left out | a; setting 13 different |" in "\n".join(explained(many))


def test_seconds_of_rows_that_take_too_long_are_a_range(text: str) -> None:
    (line,) = (line for line in text.splitlines() if "would take" in line)
    which = "compress, decompress, restore; backend cpu; model fast, restore; precision fp32, int8; batch 8; 1920x1080"
    assert line == f"| 6 | 3 runs would take 33 to 53 s, over the 20 s of a row: see --row-limit | {which} |"


def test_bars_show_photographs_one_by_one_else_digits_by_the_most() -> None:
    rows = [one for one in throughput() if one["value"] is not None]
    shown, title = _suite_plots._shown(rows)
    assert title == "Megapixels per second, 768x512, one picture at a time"
    assert {(one["parameters"]["width"], one["parameters"]["batch"]) for one in shown} == {(768, 1)}
    shown, title = _suite_plots._shown([one for one in rows if one["parameters"]["model"] == "digits"])
    assert title == "Images per second, 8 at a time"
    assert {one["parameters"]["batch"] for one in shown} == {8}


def test_tables_keep_their_columns(text: str) -> None:
    width = 0
    for line in text.splitlines():
        if line.startswith("|"):
            width = width or columns(line)
            assert columns(line) == width, line
        else:
            width = 0


def test_plots_are_small_pictures_that_the_page_shows(folder: Path, text: str) -> None:
    found = {path.name for path in folder.glob("*.png")}
    assert found == {f"run-full-{plot.name}.png" for plot in PLOTS.values()}
    for plot in PLOTS.values():
        data = (folder / f"run-full-{plot.name}.png").read_bytes()
        assert len(data) < SIZE_LIMIT
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == "PNG"
            assert picture.width == 1200
            assert len(picture.convert("L").getcolors() or []) > 5  # something is drawn
        assert f"![{plot.alternative}](run-full-{plot.name}.png)" in text
        assert len(plot.alternative) > 20


def test_published_curves_are_drawn_beside_kodak_only() -> None:
    assert _suite_curves.of_section(rate_distortion(kodak=True))[1:] == ("means over the 24 pictures of Kodak", True)
    curves, over, kodak = _suite_curves.of_section(rate_distortion(kodak=False))
    assert (over, kodak) == ("made, one picture", False)
    assert curves[0].bpp == (0.2, 1.0, 1.8)
    assert curves[0].psnr == (26.25, 31.25, 36.25)


@pytest.mark.parametrize("section", [*PLOTS, "roofline", "peers", "cold_start", "new_thing"])
def test_a_run_of_one_section_has_its_page(section: str, tmp_path: Path) -> None:
    made = whole("part")
    made["results"]["sections"] = {section: made["results"]["sections"][section]}
    made_page = _suite_report.write(write(tmp_path, made)).read_text("utf-8")
    expected = {f"run-part-{PLOTS[section].name}.png"} if section in PLOTS else set()
    assert {path.name for path in tmp_path.glob("*.png")} == expected
    assert ("No row of throughput was measured." in made_page) == (section != "throughput")


def test_sections_without_figures_and_empty_ones_have_no_plots(tmp_path: Path) -> None:
    made = whole("none")
    for rows in made["results"]["sections"].values():
        for one in rows:
            if one["value"] is not None:
                one |= {"value": None, "stats": None, "facts": {}, "not_measured": "nothing works today"}
    assert draw(made, tmp_path / "plots", "run-none") == {}
    assert list((tmp_path / "plots").iterdir()) == []
    made_page = _suite_report.write(write(tmp_path, made)).read_text("utf-8")
    assert made_page.count("| nothing works today |") == len(made["results"]["sections"])
    assert "![" not in made_page
    empty = _suite_report.write(write(tmp_path, record("empty", throughput=[], stages=[]))).read_text("utf-8")
    assert "## Stages" not in empty
    assert "No row of throughput was measured." in empty


def test_without_what_draws_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_suite_report, "find_spec", lambda name: None)
    made = _suite_report.write(write(tmp_path, whole())).read_text("utf-8")
    assert "No plots: they need matplotlib and Pillow" in made
    assert list(tmp_path.glob("*.png")) == []


def test_the_readme_shows_the_full_run_and_no_other(tmp_path: Path) -> None:
    before = "a\n<!-- begin three_way -->\nlater\n<!-- end three_way -->\nb\n"
    assert filled(before, [whole("other")]) == before
    after = filled(before, [whole("other"), whole()])
    assert after.startswith("a\n<!-- begin three_way -->\nMegapixels/s")
    assert after.endswith("\n<!-- end three_way -->\nb\n")
    assert "later" not in after
    assert "| restore | restore | 1920x1080 | 1 | int8 | 20.0 · 9.65 | – | – | – |" in after
    assert "TensorRT was never available" in after
    assert " | 8 | " not in after
    assert "digits" not in after
    assert filled(after, [whole()]) == after


def test_the_readme_has_the_marks(root: Path) -> None:
    text = (root / "README.md").read_text("utf-8")
    assert text.count("<!-- begin three_way -->") == text.count("<!-- end three_way -->") == 1
    assert "docs/images/rd.png" in text


def test_pages_are_made_of_all_results(tmp_path: Path, root: Path) -> None:
    results, out = tmp_path / "results", tmp_path / "docs" / "results.md"
    old = root / "benchmarks" / "results" / "rate_distortion.json"
    results.mkdir()
    (results / old.name).write_bytes(old.read_bytes())
    (out.parent / "images").mkdir(parents=True)
    (out.parent / "images" / "run-gone-rd.png").write_bytes(b"of a run that is no more")
    (tmp_path / "README.md").write_text("<!-- begin three_way -->\n<!-- end three_way -->\n", "utf-8")
    write_pages(read(results), out)
    images = {path.name for path in (out.parent / "images").iterdir()}
    assert images == {"rd.png"}
    first = (out.parent / "images" / "rd.png").read_bytes()
    assert out.read_text("utf-8").count("](images/rd.png)") == 1

    write(results, whole())
    write(results, record("20260101", scaling=scaling()))
    write_pages(read(results), out)
    text = out.read_text("utf-8")
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == ["## run-full", "## run-20260101", "## Bars", "## rate_distortion"]
    assert text.count("](images/rd.png)") == 1
    shown = set(re.findall(r"\]\(images/(.*?)\)", text))
    assert shown == {path.name for path in (out.parent / "images").iterdir()}
    assert shown == {
        "rd.png",
        "run-full-throughput.png",
        "run-full-stages.png",
        "run-full-scaling.png",
        "run-20260101-scaling.png",
    }
    assert (out.parent / "images" / "rd.png").read_bytes() != first
    assert "| fast | compress | 768x512 | 1 | fp32 |" in (tmp_path / "README.md").read_text("utf-8")
    assert page(read(results), {}) != text  # nothing is shown that was not drawn


def test_a_page_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no results: run the benchmarks first"):
        read(tmp_path)


def test_the_command_writes_where_it_is_told(tmp_path: Path, root: Path) -> None:
    write(tmp_path / "results", record("one", scaling=scaling()))
    line = [sys.executable, "-m", "benchmarks.report", "--results", str(tmp_path / "results")]
    line += ["--out", str(tmp_path / "docs" / "page.md")]
    done = subprocess.run(line, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 benchmarks, 1 plots" in done.stdout
    assert "## run-one" in (tmp_path / "docs" / "page.md").read_text("utf-8")


def test_numbers_have_three_digits() -> None:
    given = (None, 0.0432, 0.8, 1.0, 9.996, 42.16, 99.96, 12345.6)
    assert [number(value) for value in given] == ["–", "0.0432", "0.800", "1.00", "10.0", "42.2", "100", "12,346"]
