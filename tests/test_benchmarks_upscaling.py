"""What the benchmarks of upscaling compute: peers as their papers describe them, crossings, energies, filled pages."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks._upscaling_peers import GRAPH, EdsrBaseline, Espcn, export, multiply_adds
from benchmarks.downscaling import Point, at, crossing
from benchmarks.report import filled
from benchmarks.upscaling_detail import laplacian
from vaert.runtime.backends import OnnxRuntimeCpu


def test_edsr_baseline_has_the_published_number_of_parameters() -> None:
    """1,518 thousand at x4, as published tables say."""
    assert sum(p.numel() for p in EdsrBaseline().parameters()) == 1_517_571


def test_multiply_adds_are_weights_times_positions() -> None:
    network = Espcn()
    weights = sum(p.numel() for p in network.parameters() if p.ndim == 4)
    assert multiply_adds(network, torch.zeros(1, 3, 12, 20)) == weights


def test_a_peer_runs_on_our_backend(tmp_path: Path) -> None:
    runner = OnnxRuntimeCpu(threads=1).load(export("ESPCN", tmp_path), GRAPH)
    large = runner.run({"pixels": np.zeros((1, 5, 9, 3), np.uint8)})["large"]
    assert large.shape == (1, 20, 36, 3)
    assert large.dtype == np.uint8


def curve(gain: float, slope: float) -> list[Point]:
    """PSNR that grows by `slope` dB with every e-fold of rate, `gain` dB at 1 bpp."""
    rates = (0.05, 0.1, 0.2, 0.4, 0.8)
    return [Point(rate, gain + slope * float(np.log(rate)), 0.5) for rate in rates]


def test_the_crossing_is_where_two_lines_meet() -> None:
    plain, half = curve(40, 4), curve(38, 3)  # 40 + 4 x = 38 + 3 x at x = -2
    assert crossing(plain, half) == pytest.approx(np.exp(-2), abs=1e-3)
    assert crossing(half, plain) is None
    assert crossing(curve(10, 3), curve(11, 3)) == pytest.approx(0.8)


def test_a_curve_is_read_within_its_range_alone() -> None:
    assert at(curve(40, 4), 0.3, "psnr") == pytest.approx(40 + 4 * np.log(0.3), abs=1e-3)
    assert at(curve(40, 4), 0.04, "psnr") is None


def test_laplacian_energy_of_stripes() -> None:
    stripes = np.zeros((12, 12), np.uint8)
    stripes[:, ::2] = 10  # every sample differs from both neighbours by 10
    assert laplacian(stripes, 2) == 400
    assert laplacian(np.full((12, 12), 99, np.uint8), 2) == 0


def test_pages_are_filled_between_their_marks_only() -> None:
    page = (
        "before\n<!-- begin targets -->\nold\n<!-- end targets -->\n<!-- begin memory -->\n<!-- end memory -->\nafter\n"
    )
    results = {"input": "a picture", "quality": 60.0, "bpp": 0.5, "psnr_db": 30.0}
    made = filled(page, [{"benchmark": "memory", "results": results}])
    assert made.startswith(
        "before\n<!-- begin targets -->\nold\n<!-- end targets -->\n<!-- begin memory -->\na picture"
    )
    assert made.endswith("better.\n\n<!-- end memory -->\nafter\n")
    assert filled(made, [{"benchmark": "memory", "results": results}]) == made
