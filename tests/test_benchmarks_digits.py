"""What the benchmarks of digits compute beside the toolkit: sheets, searches, and the baselines."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks import _pca
from benchmarks._digit_formats import Coded, apart, joined, lowest, psnr_of_mean_error, sheet
from benchmarks.digits_inpainting import hidden_psnr, masks, ridge

Digits = npt.NDArray[np.uint8]


def made(count: int, seed: int = 0) -> Digits:
    """Digits of 6 random directions around grey, (count, 28, 28)."""
    directions = np.random.default_rng(1).normal(0, 12, (6, 784))
    flat = 128 + np.random.default_rng(seed).normal(0, 1, (count, 6)) @ directions
    return np.clip(np.rint(flat), 0, 255).astype(np.uint8).reshape(-1, 28, 28)


@pytest.mark.parametrize("pitch", [28, 32])
@pytest.mark.parametrize("count", [1, 40, 53])
def test_sheets_hold_every_digit(count: int, pitch: int) -> None:
    digits = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    picture = joined(digits, pitch)
    assert picture.shape == (-(-count // 40) * pitch, 40 * pitch)
    np.testing.assert_array_equal(apart(picture, count, pitch), digits)


def test_lowest_quality_is_the_first_that_reaches_the_target() -> None:
    tried = []

    def attempt(quality: int) -> Coded:
        tried.append(quality)
        return Coded(float(quality), quality / 2, 0.0, quality)

    assert lowest(attempt, 1, 20.2).quality == 41
    assert len(tried) < 10
    assert lowest(attempt, 1, 0.5).quality == 1
    with pytest.raises(SystemExit, match=r"quality 100 gives 50.0 dB, wanted 51"):
        lowest(attempt, 1, 51)


def test_a_sheet_reaches_its_target() -> None:
    found = sheet("JPEG", made(41), 30)
    assert found.psnr_db >= 30
    assert found.quality is not None
    assert found.quality > 1


def test_psnr_of_the_mean_error_differs_from_the_mean_psnr() -> None:
    digits = np.zeros((2, 28, 28), np.uint8)
    decoded = digits.copy()
    decoded[1] += 10  # mean squared errors 0 and 100
    assert psnr_of_mean_error(digits, decoded) == pytest.approx(10 * np.log10(255**2 / 50))


def test_regression_finds_a_linear_relation() -> None:
    train, digits = made(400), made(50, seed=2)
    for hidden in masks().values():
        assert hidden.sum() == 392
        restored = digits.copy()
        restored[:, hidden] = np.clip(np.rint(ridge(train, hidden, 1e-3)(digits)), 0, 255)
        assert hidden_psnr(digits, restored, hidden) > 40


def test_fidelity_is_that_of_the_hidden_pixels_alone() -> None:
    hidden = masks()["bottom half"]
    digits = np.zeros((1, 28, 28), np.uint8)
    other = np.where(hidden, 255, 7).astype(np.uint8)[None]
    assert hidden_psnr(digits, other, hidden) == pytest.approx(0)


def test_pca_codes_what_it_is_made_of() -> None:
    codec = _pca.fit(made(600), _pca.Setting(components=6, step=150, clusters=2, slope=3))
    digits = made(80, seed=3)
    symbols, clusters = codec.quantise(digits, 100)
    assert psnr_of_mean_error(digits, codec.render(symbols)) > 33  # blind to all components it is 19
    fine = len(codec.encode(symbols, clusters))  # checks its own round trip
    few, of = codec.quantise(digits, 0.02)
    assert len(codec.encode(few, of)) < 0.9 * fine
    assert psnr_of_mean_error(digits, codec.render(few)) < psnr_of_mean_error(digits, codec.render(symbols))


def test_pca_comparison_reaches_its_targets() -> None:
    settings = (_pca.Setting(6, 400, 1, 1), _pca.Setting(6, 200, 4, 1))
    train = made(_pca.HELD_OUT + 600)
    reached = _pca.best(train, made(80, seed=4), (21.0, 27.0), settings)
    assert [row.psnr_db >= target for row, target in zip(reached, (21.0, 27.0), strict=True)] == [True, True]
    assert reached[0].bytes_per_digit < reached[1].bytes_per_digit
    assert all(row.one_table_per_component is not None for row in reached)
