"""Folders of pairs, luma, PSNR on Y."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from vaert.errors import DataError, OptionError
from vaert.image import encode_image
from vaert.metrics import PSNR_MAX
from vaert.resample import downscale
from vaert.super_resolution import Pair, crop_to_multiple, find_pairs, luma, luma_psnr, read_pair

Pixels = npt.NDArray[np.uint8]


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_image(pixels, format="png"))


@pytest.mark.parametrize(
    ("colour", "expected"),
    [  # MATLAB: rgb2ycbcr(uint8(...)), first component
        ((0, 0, 0), 16),
        ((255, 255, 255), 235),
        ((255, 0, 0), 81),
        ((0, 255, 0), 145),
        ((0, 0, 255), 41),
        ((128, 128, 128), 126),
    ],
)
def test_luma_of_known_colours(colour: tuple[int, int, int], expected: int) -> None:
    assert luma(np.array([[colour]], np.uint8))[0, 0] == expected


def test_luma_of_a_grey_picture_is_the_picture() -> None:
    grey = noise(4, 5)
    assert luma(grey) is grey


@pytest.mark.parametrize("wrong", [noise(4, 4, 4), noise(4, 4, 2), np.zeros((4, 4, 3))])
def test_luma_refuses_other_pictures(wrong: Pixels) -> None:
    with pytest.raises(OptionError, match=r"luma takes uint8 pictures .* drop the alpha channel"):
        luma(wrong)


def test_psnr_sees_the_inside_only() -> None:
    large = np.full((12, 10), 100, np.uint8)
    framed = large.copy()
    framed[:2] = framed[-2:] = 0
    framed[:, :2] = framed[:, -2:] = 0
    assert luma_psnr(large, framed, shave=2) == PSNR_MAX
    assert luma_psnr(large, framed, shave=1) < 20


def test_psnr_value_by_hand() -> None:
    large = np.full((20, 20), 100, np.uint8)
    assert luma_psnr(large, large + 5, shave=4) == pytest.approx(34.1514, abs=1e-4)  # 20 log10(255 / 5)
    white, grey = np.full((8, 8, 3), 255, np.uint8), np.full((8, 8, 3), 254, np.uint8)
    assert luma_psnr(white, grey, shave=0) == pytest.approx(48.1308, abs=1e-4)  # 235 against 234


def test_a_larger_result_is_cropped_from_the_top_left() -> None:
    result = noise(14, 12, 3)
    assert luma_psnr(np.ascontiguousarray(result[:12, :10]), result, shave=2) == PSNR_MAX


def test_psnr_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(OptionError, match=r"at least shape \(12, 10, 3\), found \(12, 9, 3\): check the scale"):
        luma_psnr(noise(12, 10, 3), noise(12, 9, 3), shave=2)
    with pytest.raises(OptionError, match="found \\(12, 10\\)"):
        luma_psnr(noise(12, 10, 3), noise(12, 10), shave=2)
    with pytest.raises(OptionError, match="shaving 4 pixels leaves nothing of a 10x8 picture"):
        luma_psnr(noise(8, 10), noise(8, 10), shave=4)


def test_crop_to_multiple() -> None:
    picture = noise(11, 14, 3)
    np.testing.assert_array_equal(crop_to_multiple(picture, 4), picture[:8, :12])
    with pytest.raises(OptionError, match="14x3 pixels is too small for scale 4: expected at least 4x4"):
        crop_to_multiple(picture[:3], 4)


def test_pairs_of_folders_are_matched_by_name(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write(tmp_path / "HR" / f"{name}.png", noise(8, 8, 3))
        write(tmp_path / "LRx4" / f"{name}.png", noise(2, 2, 3))
    pairs = find_pairs(tmp_path, 4)
    assert [pair.name for pair in pairs] == ["a", "b"]
    assert pairs[0] == Pair("a", tmp_path / "HR" / "a.png", tmp_path / "LRx4" / "a.png", 4)


def test_small_pictures_are_made_where_there_are_none(tmp_path: Path) -> None:
    picture = noise(9, 14, 3)
    write(tmp_path / "flat" / "a.png", picture)
    write(tmp_path / "set" / "HR" / "a.png", picture)
    for folder in (tmp_path / "flat", tmp_path / "set"):
        (pair,) = find_pairs(folder, 4)
        large, small = read_pair(pair)
        np.testing.assert_array_equal(large, picture[:8, :12])
        np.testing.assert_array_equal(small, downscale(large, 4))


def test_a_small_picture_may_reach_beyond_the_cropped_large_one(tmp_path: Path) -> None:
    write(tmp_path / "HR" / "a.png", noise(16, 12, 3))
    write(tmp_path / "LRx2" / "a.png", noise(9, 7, 3))
    large, small = read_pair(find_pairs(tmp_path, 2)[0])
    assert large.shape == (16, 12, 3)
    assert small.shape == (9, 7, 3)


@pytest.mark.parametrize("size", [(7, 6), (8, 8), (10, 6)])
def test_sizes_that_do_not_belong_together_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    write(tmp_path / "HR" / "a.png", noise(16, 12, 3))
    write(tmp_path / "LRx2" / "a.png", noise(*size, 3))
    with pytest.raises(DataError, match=rf"has {size[1]}x{size[0]} pixels, .* expected the former to be the latter"):
        read_pair(find_pairs(tmp_path, 2)[0])


def test_grey_and_colour_become_colour(tmp_path: Path) -> None:
    write(tmp_path / "HR" / "a.png", noise(8, 8))
    write(tmp_path / "LRx2" / "a.png", noise(4, 4, 3))
    large, small = read_pair(find_pairs(tmp_path, 2)[0])
    assert large.shape == (8, 8, 3)
    assert small.shape == (4, 4, 3)


def test_grey_stays_grey(tmp_path: Path) -> None:
    write(tmp_path / "a.png", noise(8, 8))
    large, small = read_pair(find_pairs(tmp_path, 2)[0])
    assert (large.shape, small.shape) == ((8, 8), (4, 4))


def test_a_picture_without_counterpart_is_named(tmp_path: Path) -> None:
    write(tmp_path / "HR" / "a.png", noise(8, 8))
    write(tmp_path / "HR" / "b.png", noise(8, 8))
    write(tmp_path / "LRx4" / "a.png", noise(2, 2))
    with pytest.raises(DataError, match="do not hold the same pictures: b is only in one of them"):
        find_pairs(tmp_path, 4)


def test_alpha_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.png", noise(8, 8, 4))
    with pytest.raises(DataError, match=r"a\.png has an alpha channel"):
        read_pair(find_pairs(tmp_path, 4)[0])
    with pytest.raises(DataError, match=r"cannot read .*gone\.png"):
        read_pair(Pair("gone", tmp_path / "gone.png", None, 4))
