"""Bicubic resampling: MATLAB's convention, edges, rounding, types."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaert.errors import OptionError
from vaert.resample import Pixels, axis_matrix, downscale, upscale


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def keys(x: float) -> float:
    """The cubic kernel, written out a second time."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def slow_axis(line: list[int], out_size: int) -> list[int]:
    """One axis, sample by sample: repeated edges, kernel widened when shrinking, halves rounded up."""
    ratio = out_size / len(line)
    stretch = min(1.0, ratio)
    result = []
    for i in range(out_size):
        centre = (i + 0.5) / ratio - 0.5
        taps = range(math.floor(centre - 2 / stretch), math.ceil(centre + 2 / stretch) + 1)
        weights = [keys((centre - t) * stretch) for t in taps]
        pairs = zip(taps, weights, strict=True)
        value = sum(w * line[min(max(t, 0), len(line) - 1)] for t, w in pairs) / sum(weights)
        result.append(min(255, max(0, math.floor(value + 0.5))))
    return result


def slow(pixels: Pixels, height: int, width: int) -> Pixels:
    tall = np.array([slow_axis([int(v) for v in column], height) for column in pixels.T]).T
    return np.array([slow_axis([int(v) for v in row], width) for row in tall], np.uint8)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_both_directions_agree_with_a_sample_by_sample_reference(factor: int) -> None:
    picture = noise(4 * factor, 5 * factor)
    np.testing.assert_array_equal(downscale(picture, factor), slow(picture, 4, 5))
    small = noise(5, 4, seed=1)
    np.testing.assert_array_equal(upscale(small, factor), slow(small, 5 * factor, 4 * factor))


def test_known_values_of_an_edge() -> None:
    """A step between samples 8 and 9 of 16: 255 (29 - 9 - 3) / 256 is 16.9 beside it, and -3 further on is clipped."""
    line = np.repeat(np.array([[0] * 8 + [255] * 8], np.uint8), 2, 0)
    np.testing.assert_array_equal(downscale(line, 2)[0], [0, 0, 0, 17, 238, 255, 255, 255])


def test_kernel_weights_at_factor_two() -> None:
    """Row of the x2 down-scaling away from the edges: the cubic at odd quarters, in 1/256, by hand."""
    row = axis_matrix(16, 8)[3]
    expected = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
    np.testing.assert_allclose(row[3:11], expected, atol=1e-12)
    assert not row[:3].any()
    assert not row[11:].any()


@given(st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_weights_sum_to_one_at_any_size(size: int, out_size: int) -> None:
    matrix = axis_matrix(size, out_size)
    assert matrix.shape == (out_size, size)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 255))
@settings(max_examples=40, deadline=None)
def test_a_flat_picture_stays_flat(height: int, width: int, factor: int, level: int) -> None:
    picture = np.full((height, width, 3), level, np.uint8)
    large = upscale(picture, factor)
    assert large.shape == (height * factor, width * factor, 3)
    assert (large == level).all()
    np.testing.assert_array_equal(downscale(large, factor), picture)


def test_channels_do_not_mix() -> None:
    picture = noise(12, 16, 4)
    for channel in range(4):
        np.testing.assert_array_equal(downscale(picture, 4)[..., channel], downscale(picture[..., channel], 4))


def test_mirroring_commutes() -> None:
    picture = noise(24, 32)
    np.testing.assert_array_equal(downscale(picture[::-1, ::-1], 4), downscale(picture, 4)[::-1, ::-1])


def test_a_tall_picture_is_banded_without_a_trace() -> None:
    picture = noise(1200, 4)
    np.testing.assert_array_equal(upscale(picture, 2)[900:1100], upscale(picture[400:600], 2)[100:300])


def test_result_owns_contiguous_memory() -> None:
    large = upscale(noise(3, 5, 3), 2)
    assert large.flags.c_contiguous
    assert large.dtype == np.uint8


def test_factor_one_changes_nothing() -> None:
    picture = noise(7, 9, 3)
    np.testing.assert_array_equal(downscale(picture, 1), picture)
    np.testing.assert_array_equal(upscale(picture, 1), picture)


@pytest.mark.parametrize("work", [downscale, upscale])
def test_wrong_input_is_refused(work: Callable[[npt.NDArray[Any], int], Pixels]) -> None:
    with pytest.raises(OptionError, match=r"a picture must be uint8 .* found float64 \(4, 4\)"):
        work(np.zeros((4, 4)), 2)
    with pytest.raises(OptionError, match=r"found uint8 \(0, 4\)"):
        work(np.zeros((0, 4), np.uint8), 2)
    with pytest.raises(OptionError, match="at least 1, found 0"):
        work(noise(4, 4), 0)


def test_sides_that_the_factor_does_not_divide_are_refused() -> None:
    with pytest.raises(OptionError, match="9x6 pixels cannot be shrunk by 4: crop it to 8x4 first"):
        downscale(noise(6, 9), 4)
