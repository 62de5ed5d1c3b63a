"""The frame of `pytest benchmarks/ --benchmark`: what a run leaves, what it explains, and what it counts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks._suite import NotMeasured, Pace, Run, Settings, Stats
from benchmarks._suite_clock import Clock, Rounds, watching
from benchmarks._suite_graphs import Work, work
from benchmarks._suite_load import Load
from benchmarks.test_scaling import fit
from vaert.errors import ModelError

TINY = ("--quick", "--model", "mnist-mlp")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]


def suite(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = command("-q", *arguments)
    return subprocess.run(line, cwd=root, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def record(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("results")
    done = suite(root, "benchmarks/test_throughput.py", "--benchmark", *TINY, "--out", str(out), "--run-name", "tiny")
    assert done.returncode == 0, done.stdout
    assert sorted(path.name for path in out.iterdir()) == ["run-tiny-throughput.png", "run-tiny.json", "run-tiny.md"]
    assert "run-tiny.json" in done.stdout
    assert "run-tiny.md" in done.stdout
    assert "| mnist-mlp | encode | 28x28 | 64 | fp32 |" in (out / "run-tiny.md").read_text("utf-8")
    found: dict[str, Any] = json.loads((out / "run-tiny.json").read_text("utf-8"))
    return found


def test_without_the_flag_one_line_says_how_to_run_it(root: Path) -> None:
    done = suite(root, "benchmarks/")
    assert done.returncode == 0, done.stdout
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert len(skipped) == 1
    assert "pytest benchmarks/ --benchmark" in skipped[0]
    assert re.search(r"^\d+ skipped in", done.stdout.splitlines()[-1])


def test_pytest_alone_runs_the_tests_only(root: Path) -> None:
    options = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]["ini_options"]
    assert options["testpaths"] == ["tests"]


def test_a_run_has_the_documented_fields(record: dict[str, Any], root: Path) -> None:
    assert (record["schema"], record["version"], record["benchmark"]) == ("vaert-benchmark-run", 1, "suite")
    rows = [row for rows in record["results"]["sections"].values() for row in rows]
    page = (root / "docs" / "benchmarks.md").read_text("utf-8")
    described = set(re.findall(r"`(\w+)`", page))
    stats = next(row["stats"] for row in rows if row["stats"])
    for fields in (record, record["machine"], record["options"], rows[0], stats):
        assert set(fields) - described - {"results"} == set()
    assert record["machine"]["cores"] >= 1
    assert record["options"]["quick"] is True


def test_every_row_has_a_figure_or_a_reason(record: dict[str, Any]) -> None:
    rows = record["results"]["sections"]["throughput"]
    assert len({json.dumps([row["name"], row["parameters"]]) for row in rows}) == len(rows)
    measured = [row for row in rows if row["not_measured"] is None]
    assert {row["name"] for row in measured if row["parameters"]["backend"] == "cpu"} == {
        "encode",
        "render",
        "compress",
        "decompress",
    }
    for row in measured:
        assert row["value"] > 0
        assert row["stats"]["runs"] >= 3
        assert row["stats"]["least_ms"] <= row["stats"]["p50_ms"] <= row["stats"]["p95_ms"] <= row["stats"]["p99_ms"]
        assert row["checks"]
    for row in rows:
        assert (row["value"] is None) == bool(row["not_measured"])
    assert any("left out by --quick" in str(row["not_measured"]) for row in rows)


def test_absent_backends_are_one_row_each(record: dict[str, Any]) -> None:
    rows = record["results"]["sections"]["throughput"]
    for backend in ("cpu", "cuda", "tensorrt", "ort-tensorrt"):
        own = [row for row in rows if row["parameters"]["backend"] == backend]
        absent = [row for row in own if row["name"] == "all"]
        assert own
        assert not absent or (len(own) == 1 and len(absent[0]["not_measured"]) > 20)


def test_an_unknown_model_is_refused_in_one_line(root: Path, tmp_path: Path) -> None:
    done = suite(root, "benchmarks/", "--benchmark", "--model", "nothing", "--out", str(tmp_path))
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--model nothing: there are fast, " in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_no_file(root: Path, tmp_path: Path) -> None:
    line = command("-v", "benchmarks/test_throughput.py", "--benchmark", "--backend", "cpu", "--out", str(tmp_path))
    with subprocess.Popen(line, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "test_throughput[" not in process.stdout.readline():  # a first row has begun
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == pytest.ExitCode.INTERRUPTED, rest
    assert "no file was written" in rest
    assert list(tmp_path.iterdir()) == []


def settings(out: Path) -> Settings:
    return Settings(
        quick=True,
        backends=("cpu",),
        models=(),
        precisions=("fp32",),
        threads=1,
        images=None,
        packages=(),
        out=out,
        name="made",
        row_limit_s=1.0,
    )


def test_a_wrong_result_has_no_figure(tmp_path: Path) -> None:
    run = Run(settings(tmp_path))

    def measure() -> None:
        with run.row("made", "wrong") as row:
            row.set(1.0, "ms")
            row.check(np.array_equal([2], [3]), "two is three")

    with pytest.raises(AssertionError, match="not correct: two is three"):
        measure()
    with pytest.raises(AssertionError, match="without a figure"), run.row("made", "forgotten"):
        pass
    with pytest.raises(KeyboardInterrupt), run.row("made", "interrupted"):
        raise KeyboardInterrupt
    assert [(row.name, row.value) for row in run.sections["made"]] == [("wrong", None), ("forgotten", None)]
    assert run.sections["made"][0].not_measured == "failed: not correct: two is three"
    assert run.write() == tmp_path / "run-made.json"


def test_a_disturbed_bar_is_left_open(tmp_path: Path) -> None:
    run = Run(settings(tmp_path))
    run.bar("time", "short", "1 ms", met=True, others=0.01)
    run.bar("time", "short", "3 ms", met=False, others=1.5)
    assert [(bar.measured, bar.met) for bar in run.bars] == [
        ("1 ms", True),
        ("3 ms; disturbed: others used 1.50 cores", None),
    ]


def test_own_work_is_not_that_of_others() -> None:
    load, end = Load.begin(), time.perf_counter() + 0.3
    while time.perf_counter() < end:
        pass
    own = sum(os.times()[:4]) - load.own
    others = load.others_cores()
    assert own > 0.1
    assert others is None or 0 <= others <= (os.cpu_count() or 1)
    started = Load(load.wall, None if load.everybody is None else load.everybody - 3, load.own)
    more = started.others_cores()
    assert more is None or others is None or more > others + 3


def test_a_run_without_rows_writes_nothing(tmp_path: Path) -> None:
    assert Run(settings(tmp_path / "new")).write() is None
    assert list(tmp_path.iterdir()) == []


def test_percentiles() -> None:
    found = Stats.of([0.004, 0.001, 0.002, 0.003, 0.005])
    assert (found.runs, found.p50_ms, found.p95_ms, found.least_ms, found.iqr_ms) == (5, 3.0, 4.8, 1.0, 2.0)
    assert Stats.of([0.25]).p99_ms == 250


def test_runs_fit_their_budget_or_are_refused() -> None:
    pace = Pace(budget_s=2, least=3, most=50, limit_s=9)
    assert [pace.runs(seconds) for seconds in (0.001, 0.1, 2.5)] == [50, 20, 3]
    with pytest.raises(NotMeasured, match="3 runs would take 12 s, over the 9 s of a row: see --row-limit"):
        pace.runs(4)


def test_stages_within_stages_count_once() -> None:
    ticks = iter([0, 10, 13, 20, 21, 100])
    clock = Clock(lambda: next(ticks))

    class Called:
        def inner(self) -> str:
            return "answer"

    with watching(clock, [(Called, "inner", "inner")]), clock.stage("outer"):
        assert Called().inner() == "answer"
        with clock.stage("inner"):
            pass
    assert clock.spent == {"outer": 10 + 7 + 79, "inner": 3 + 1}
    assert Called().inner() == "answer"  # no longer watched: another tick would be an error


def test_rounds_forget_the_warm_up() -> None:
    rounds = Rounds()
    for ms in (1000.0, 1.0, 2.0, 3.0):
        rounds.add("made", ms)
    assert rounds.medians(3) == {"made": 2.0}
    found = rounds.stats("made", Stats.of([1, 1], 0.5))
    assert (found.runs, found.p50_ms, found.others_cores) == (2, 2.5, 0.5)


def graph(nodes: list[Any], weights: dict[str, tuple[int, ...]], *, output: str) -> bytes:
    tensors = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, np.ones(shape, np.float32).ravel())
        for name, shape in weights.items()
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, "h", "w"]),
        helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", "c", "elsewhere", "w"]),
    ]
    made = helper.make_graph(nodes, "made", ends[:1], ends[1:], tensors)
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString())


def test_multiply_adds_are_counted_at_the_inputs_shapes() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"], strides=[2, 2]),  # 2x2 of 4 channels to 8, at half the size
        helper.make_node("Conv", ["a", "d"], ["b"], group=8, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("ConvTranspose", ["c", "t"], ["e"], strides=[2, 2]),  # back, to 3 channels
        helper.make_node("MatMul", ["e", "m"], ["y"]),  # along the width
    ]
    weights = {"k": (8, 4, 2, 2), "d": (8, 1, 3, 3), "t": (8, 3, 2, 2), "m": (10, 5)}
    data = graph(nodes, weights, output="y")
    small = 3 * 5  # of 6 x 10 pixels
    found = work(data, {"x": np.zeros((2, 4, 6, 10), np.float32)})
    dense = 2 * small * (8 * 4 * 4 + 8 * 3 * 4) + 2 * 3 * 6 * 10 * 5
    assert found == Work(dense=dense, depthwise=2 * small * 8 * 9)
    assert found.total == found.dense + found.depthwise


def test_a_shape_that_cannot_be_inferred_is_an_error() -> None:
    nodes = [
        helper.make_node("Unknown", ["x"], ["a"], domain="elsewhere"),
        helper.make_node("Conv", ["a", "k"], ["y"]),
    ]
    data = onnx.load_from_string(graph(nodes, {"k": (8, 4, 1, 1)}, output="y"))
    data.opset_import.append(helper.make_opsetid("elsewhere", 1))
    with pytest.raises(ModelError, match="shape of y cannot be inferred"):
        work(data.SerializeToString(), {"x": np.zeros((1, 4, 2, 2), np.float32)})


def test_onnx_runtimes_own_integer_operators_count_like_those_of_onnx() -> None:
    """A channels-last convolution over 4 channels, 3x3, then a product: both in com.microsoft, as in int8 packages."""
    own = "com.microsoft"
    scale, zero = (
        helper.make_tensor("s", TensorProto.FLOAT, [], [0.1]),
        helper.make_tensor("z", TensorProto.UINT8, [], [8]),
    )
    signed = helper.make_tensor("sz", TensorProto.INT8, [], [0])
    kernel = helper.make_tensor("k", TensorProto.INT8, [4, 1, 3, 3], [1] * 36)
    weight = helper.make_tensor("w", TensorProto.INT8, [4, 5], [1] * 20)
    nodes = [
        helper.make_node(
            "QLinearConv",
            ["x", "s", "z", "k", "s", "sz", "s", "z"],
            ["y"],
            domain=own,
            channels_last=1,
            group=4,
            pads=[1] * 4,
        ),
        helper.make_node("MatMulIntegerToFloat", ["y", "w", "s", "s", "z", "sz"], ["out"], domain=own),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", "h", "v", 4]),
        helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", "h", "v", 5]),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [scale, zero, signed, kernel, weight])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(own, 1)]
    data = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    pixels = 2 * 6 * 10
    assert work(data, {"x": np.zeros((2, 6, 10, 4), np.uint8)}) == Work(dense=pixels * 4 * 5, depthwise=pixels * 4 * 9)
    nodes[1].op_type = "Gelu"
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [scale, zero, signed, kernel, weight])
    with pytest.raises(ModelError, match="Gelu"):
        work(
            helper.make_model(graph, opset_imports=opsets).SerializeToString(), {"x": np.zeros((2, 6, 10, 4), np.uint8)}
        )


def test_fits_find_fixed_cost_and_slope(tmp_path: Path) -> None:
    run = Run(settings(tmp_path))
    with run.row("made", "fit") as row:
        for megapixels in (0.1, 1.0, 8.0, 50.0):
            with run.row("made", "size") as size:
                size.facts["megapixels"] = megapixels
                size.set(7 + 40 * megapixels, "ms")
        fit(row, [one for one in run.sections["made"] if one.name == "size"])
    assert row.value == pytest.approx(40, rel=1e-3)
    assert row.facts["fixed_ms"] == pytest.approx(7, rel=1e-3)
