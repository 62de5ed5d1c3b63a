"""Ceilings of GPUs: chains of products, as far as a CPU can show that they compute what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks._suite import NotMeasured
from benchmarks._suite_gpu import GRAPH, PRECISIONS, Chain, refuse
from benchmarks._suite_graphs import work
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.runtime.backends.shapes import default_shapes, input_ranges

CHAIN = Chain(side=96, length=5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_chains_are_right(tmp_path: Path, precision: str) -> None:
    package = CHAIN.package(tmp_path / precision, precision)
    runner = OnnxRuntimeCpu(threads=1).load(package, GRAPH)
    for value in (1.0, -0.5):
        row = runner.run({"value": np.full((1, 1), value, np.float32)})["row"]
        assert row.shape == (1, 96)
        assert CHAIN.right(row, precision, value)
        assert not CHAIN.right(row, precision, -value)
        assert not CHAIN.right(np.roll(row, 1), precision, value)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_multiply_adds_are_those_of_the_graph(precision: str) -> None:
    assert work(CHAIN.graph(precision), {"value": np.ones((1, 1), np.float32)}).total == CHAIN.multiply_adds


def test_numbers_stay_in_the_range_of_float16() -> None:
    """Also at the size and length of a real run, whose rows are computed one by one."""
    rows = Chain(side=1024, length=16).expected(1.0)
    assert 0.3 < np.linalg.norm(rows) / np.sqrt(1024) < 3
    assert np.abs(rows).max() < 10


def test_engines_find_fixed_shapes(tmp_path: Path) -> None:
    manifest = CHAIN.package(tmp_path / "fp16", "fp16").manifest
    assert input_ranges(manifest, GRAPH, default_shapes(manifest)) == {"value": ((1, 1), (1, 1), (1, 1))}


def test_what_has_no_kernels_is_explained() -> None:
    refuse("tensorrt", "int8")
    refuse("cuda", "fp16")
    with pytest.raises(NotMeasured, match="8-bit"):
        refuse("cuda", "int8")
