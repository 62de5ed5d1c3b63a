"""Promise 3: --bpp, --size and --psnr hit their target or name what can be reached."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaert.errors import OptionError, TargetError
from vaert.image import read_image
from vaert.runtime.codec import Codec
from vaert.runtime.targets import HIGHEST, LOWEST, Goal, _last_at_most, _search

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec("fast", threads=1)


@pytest.fixture(scope="module")
def crop(root: Path) -> Pixels:
    encoded = (root / "examples/kodim23.png").read_bytes()
    return read_image(encoded, name="kodim23", max_pixels=2**20).pixels[100:292, 200:456]


@pytest.fixture(scope="module")
def tiny(crop: Pixels) -> Pixels:
    return crop[:5, :7]


@pytest.fixture(scope="module")
def flat() -> Pixels:
    return np.full((96, 80, 3), (90, 133, 201), np.uint8)


def psnr(a: Pixels, b: Pixels) -> float:
    error = float(np.square(a.astype(float) - b).mean())
    return 10 * np.log10(255**2 / error) if error else float("inf")


@pytest.fixture(scope="module")
def curves(codec: Codec) -> Callable[[Pixels], tuple[list[int], list[float]]]:
    """Sizes and PSNRs of a picture over the whole range of qualities."""

    def measure(pixels: Pixels) -> tuple[list[int], list[float]]:
        files = [codec.compress(pixels, quality) for quality in (1, 2, *np.linspace(4, 100, 33))]
        return [len(data) for data in files], [psnr(codec.decompress(data), pixels) for data in files]

    return measure


@pytest.mark.parametrize("part", [0.03, 0.2, 0.5, 0.8, 0.97])
def test_size_is_hit_and_never_exceeded(codec: Codec, crop: Pixels, part: float) -> None:
    low, high = (len(codec.compress(crop, quality)) for quality in (1, 100))
    size = round(low * (high / low) ** part)
    assert 0.98 * size <= len(codec.compress(crop, size=size)) <= size


@pytest.mark.parametrize("part", [0.03, 0.2, 0.5, 0.8, 0.97])
def test_bpp_is_hit(codec: Codec, crop: Pixels, part: float) -> None:
    pixels = crop.shape[0] * crop.shape[1]
    low, high = (8 * len(codec.compress(crop, quality)) / pixels for quality in (1, 100))
    bpp = low * (high / low) ** part
    assert 8 * len(codec.compress(crop, bpp=bpp)) / pixels == pytest.approx(bpp, rel=0.02)


@pytest.mark.parametrize("part", [0.03, 0.3, 0.6, 0.97])
@pytest.mark.parametrize("grey", [False, True])
def test_psnr_is_hit_and_never_missed(codec: Codec, crop: Pixels, part: float, grey: bool) -> None:
    picture = crop[..., 1] if grey else crop
    low, high = (psnr(codec.decompress(codec.compress(picture, quality)), picture) for quality in (1, 100))
    target = low + part * (high - low)
    assert target <= psnr(codec.decompress(codec.compress(picture, psnr=target)), picture) <= target + 0.1


def test_alpha_counts_in_the_size_but_not_in_the_fidelity(codec: Codec, crop: Pixels) -> None:
    alpha = np.random.default_rng(0).integers(0, 256, crop.shape[:2], np.uint8)
    both = np.dstack([crop, alpha])
    size = len(codec.compress(both, 50))
    assert 0.98 * size <= len(codec.compress(both, size=size)) <= size
    decoded = codec.decompress(codec.compress(both, psnr=30))
    assert 30 <= psnr(decoded[..., :3], crop) <= 30.1
    assert np.array_equal(decoded[..., 3], alpha)


@pytest.mark.parametrize("name", ["tiny", "flat"])
def test_size_where_files_are_few(
    codec: Codec, curves: Callable[..., tuple[list[int], list[float]]], name: str, request: pytest.FixtureRequest
) -> None:
    """Never above; the largest file that fits, even where none is within 2 %."""
    picture: Pixels = request.getfixturevalue(name)
    sizes, _ = curves(picture)
    for size in range(min(sizes), max(sizes) + 1, max(1, (max(sizes) - min(sizes)) // 9)):
        found = len(codec.compress(picture, size=size))
        assert found <= size
        assert found >= min(0.98 * size, max(s for s in sizes if s <= size))


@pytest.mark.parametrize("name", ["tiny", "flat"])
def test_bpp_where_files_are_few(
    codec: Codec, curves: Callable[..., tuple[list[int], list[float]]], name: str, request: pytest.FixtureRequest
) -> None:
    picture: Pixels = request.getfixturevalue(name)
    sizes, _ = curves(picture)
    bits = 8 / (picture.shape[0] * picture.shape[1])
    for bpp in np.linspace(bits * min(sizes), bits * max(sizes), 7):
        found = bits * len(codec.compress(picture, bpp=bpp))
        assert abs(found - bpp) <= max(0.02 * bpp, min(abs(bits * s - bpp) for s in sizes)) + 1e-9


@pytest.mark.parametrize("name", ["tiny", "flat"])
def test_psnr_where_pictures_are_few(
    codec: Codec, curves: Callable[..., tuple[list[int], list[float]]], name: str, request: pytest.FixtureRequest
) -> None:
    picture: Pixels = request.getfixturevalue(name)
    _, values = curves(picture)
    finite = sorted({value for value in values if np.isfinite(value)})
    assert finite
    for target in np.linspace(values[0], finite[-1], 5):
        found = psnr(codec.decompress(codec.compress(picture, psnr=target)), picture)
        assert found >= target
        assert found <= max(target + 0.1, min(value for value in values if value >= target))


NUMBER = r"([0-9.]+|inf)"


UNITS = {"size": "bytes", "bpp": "bits per pixel", "psnr": "dB"}
CASES = [(name, kind, end) for name in ("crop", "tiny", "flat") for kind in UNITS for end in (0, 1)]
CASES.remove(("flat", "psnr", 1))  # a flat picture may come back without any loss


@pytest.mark.parametrize(("name", "kind", "end"), CASES)
def test_what_cannot_be_reached_names_what_can(
    codec: Codec, name: str, kind: str, end: int, request: pytest.FixtureRequest
) -> None:
    picture: Pixels = request.getfixturevalue(name)
    target = {"size": (20, 10**8), "bpp": (1e-6, 1e6), "psnr": (1, 120)}[kind][end]
    with pytest.raises(TargetError) as caught:
        codec.compress(picture, **{kind: target})  # type: ignore[arg-type]
    text = str(caught.value)
    match = re.fullmatch(
        rf"--{kind} \S+ cannot be reached: this picture allows {NUMBER} to {NUMBER} {UNITS[kind]}", text
    )
    assert match, text
    low, high = float(match[1]), float(match[2])
    assert low <= high
    assert target < low if end == 0 else target > high
    for value in (low * 1.01, high * 0.99):  # and what it names can be reached indeed
        if low <= value <= high and np.isfinite(value):
            assert codec.compress(picture, **{kind: int(value) if kind == "size" else value})  # type: ignore[arg-type]


def test_large_numbers_are_written_out(codec: Codec, tiny: Pixels) -> None:
    with pytest.raises(TargetError, match=r"--size 5000000 cannot"):
        codec.compress(tiny, size=5_000_000)


@pytest.mark.parametrize("kind", ["bpp", "size", "psnr"])
@pytest.mark.parametrize("target", [0, -1, float("nan"), float("inf"), float("-inf")])
def test_targets_that_are_no_positive_numbers(codec: Codec, tiny: Pixels, kind: str, target: float) -> None:
    with pytest.raises(OptionError, match=f"{kind} must be a positive number, not"):
        codec.compress(tiny, **{kind: target})  # type: ignore[arg-type]


def test_one_pixel(codec: Codec) -> None:
    one = np.full((1, 1, 3), 77, np.uint8)
    sizes = [len(codec.compress(one, quality)) for quality in range(1, 101, 3)]
    assert len(codec.compress(one, size=max(sizes))) <= max(sizes)
    with pytest.raises(TargetError):
        codec.compress(one, size=min(sizes) // 2)


@given(
    low=st.floats(10, 1000),
    spread=st.floats(1, 5000),
    wobble=st.floats(0, 0.01),
    at=st.floats(0, 1),
    side=st.sampled_from([-1, 0, 1]),
)
def test_search_on_curves_that_wobble(low: float, spread: float, wobble: float, at: float, side: int) -> None:
    """Made curves, rising with a small disorder as real ones have: the answer is on the allowed side, and near."""

    def curve(quality: int) -> float:
        t = (quality - LOWEST) / (HIGHEST - LOWEST)
        return low + spread * t**2 * (1 + wobble * math.sin(quality))

    ends = curve(LOWEST), curve(HIGHEST)
    target = ends[0] + at * (ends[1] - ends[0])
    goal = Goal("bpp", target, target * 0.98 if side < 1 else target, target * 1.02 if side > -1 else target, side)
    found = curve(_search(curve, goal, estimate=curve, thorough=False))
    assert side * (found - target) >= 0
    assert goal.hit(found)


@given(limit=st.integers(LOWEST - 500, HIGHEST + 500))
def test_bisection(limit: int) -> None:
    assert _last_at_most(float, limit) == min(max(limit, LOWEST), HIGHEST)
