"""Upscaling at run time: noise by position, tiles, channels, sizes; and the export that it runs."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from upscaler_package import make_package, make_source

import vaert
from vaert.errors import ModelError, OptionError
from vaert.export.registry import from_package
from vaert.export.upscaler import UpscalerSource
from vaert.export.verify import made_picture
from vaert.package import MANIFEST, WEIGHTS, Package
from vaert.resample import upscale as bicubic
from vaert.runtime.channels import join, split
from vaert.runtime.noise import LEVELS, normal_levels, normal_noise, philox
from vaert.runtime.upscaler import TILE, UNTILED, Upscaler, default_tile
from vaert.trainer.models.upscaler import UpscaleGraph

Pixels = npt.NDArray[np.uint8]
SCALES = (2, 4)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Package]:
    folder = tmp_path_factory.mktemp("packages")
    return {scale: make_package(folder, scale) for scale in SCALES}


@pytest.fixture(scope="module")
def upscalers(packages: dict[int, Package]) -> dict[int, Upscaler]:
    return {scale: Upscaler(package, threads=1) for scale, package in packages.items()}


@pytest.fixture(scope="module")
def picture() -> Pixels:
    return made_picture(61, 83)


KNOWN_ANSWERS = [  # of the Random123 library: counter, key, words
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_gives_its_authors_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], words: str
) -> None:
    found = philox(tuple(np.full((1, 1), word) for word in counter), key)
    assert " ".join(f"{word:08x}" for word in found[0, 0]) == words


def test_noise_is_made_of_the_halves_that_its_docstring_names() -> None:
    seed, y, x = (7 << 32) + 5, 70_000, 3
    noise = normal_noise(seed, slice(y, y + 1), slice(x, x + 1), 11)[0, 0]
    for channel in range(11):
        block = philox((np.full((1, 1), x), np.full((1, 1), y), channel // 8, 0), (5, 7))[0, 0]
        word = int(block[channel % 8 // 2])
        assert noise[channel] == normal_levels()[word >> 16 if channel % 2 else word & 0xFFFF]


def test_noise_has_its_golden_values() -> None:
    noise = normal_noise(42, slice(10, 12), slice(20, 22), 2)
    expected = [
        [[-0.22006450593471527, -0.7925246953964233], [1.5916407108306885, -1.380196213722229]],
        [[-0.7833426594734192, -0.27322113513946533], [-1.8762339353561401, -1.980176329612732]],
    ]
    assert noise.dtype == np.float32
    assert np.array_equal(noise, np.array(expected, np.float32))


def test_noise_is_standard_normal_and_independent() -> None:
    noise = normal_noise(1, slice(0, 200), slice(0, 200), 10).astype(np.float64)
    count = noise.size
    assert abs(noise.mean()) < 4 / np.sqrt(count)
    assert abs(noise.var() - 1) < 4 * np.sqrt(2 / count)
    assert abs((noise**4).mean() - 3) < 4 * np.sqrt(96 / count)
    for other in (noise[1:], noise[:, 1:], noise[..., 1:], normal_noise(2, slice(0, 200), slice(0, 200), 10)):
        here = noise[: other.shape[0], : other.shape[1], : other.shape[2]]
        assert abs((here * other).mean()) < 4 / np.sqrt(other.size)


@given(
    top=st.integers(0, 30), left=st.integers(0, 30), height=st.integers(1, 9), width=st.integers(1, 9),
    seed=st.integers(0, 2**64 - 1), channels=st.integers(1, 17),
)  # fmt: skip
def test_any_part_of_the_noise_can_be_made_alone(
    top: int, left: int, height: int, width: int, seed: int, channels: int
) -> None:
    whole = normal_noise(seed, slice(0, 40), slice(0, 40), channels)
    part = normal_noise(seed, slice(top, top + height), slice(left, left + width), channels)
    assert np.array_equal(part, whole[top : top + height, left : left + width])


def test_normal_levels_are_quantiles() -> None:
    levels = normal_levels()
    assert levels.shape == (LEVELS,)
    assert (np.diff(levels) > 0).all()
    assert np.array_equal(levels, -levels[::-1])
    assert np.searchsorted(levels, 1.0) / LEVELS == pytest.approx(0.841345, abs=1e-4)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_outside_their_range_are_refused(seed: int) -> None:
    with pytest.raises(OptionError, match=r"a seed must be 0 to 2\^64 - 1"):
        normal_noise(seed, slice(0, 1), slice(0, 1), 1)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("tile", [7, 16, 60])
@pytest.mark.parametrize("detail", [0.0, 1.0])
def test_tiles_change_nothing(
    upscalers: dict[int, Upscaler], picture: Pixels, scale: int, tile: int, detail: float
) -> None:
    whole = upscalers[scale].upscale(picture, detail=detail, tile=1000)
    tiled = upscalers[scale].upscale(picture, detail=detail, tile=tile)
    assert whole.shape == (61 * scale, 83 * scale, 3)
    assert np.abs(whole.astype(int) - tiled).max() <= 1
    assert np.count_nonzero(whole != tiled) < whole.size / 1000


@pytest.mark.parametrize("scale", SCALES)
def test_a_smaller_halo_would_change_pixels(packages: dict[int, Package], picture: Pixels, scale: int) -> None:
    """So the test above can fail."""
    upscaler = Upscaler(packages[scale], threads=1)
    whole = upscaler.upscale(picture, tile=1000)
    assert upscaler._halo == 12
    upscaler._halo = 2
    assert np.abs(whole.astype(int) - upscaler.upscale(picture, tile=16)).max() > 1


def test_default_tiles_bound_memory() -> None:
    assert default_tile(512, 512) == 512
    assert default_tile(1, UNTILED) == UNTILED
    assert default_tile(1080, 1920) == TILE


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (5, 2), (13, 24)])
@pytest.mark.parametrize("channels", [None, 2, 3, 4])
def test_every_size_and_number_of_channels(
    upscalers: dict[int, Upscaler], scale: int, height: int, width: int, channels: int | None
) -> None:
    shape = (height, width) if channels is None else (height, width, channels)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    large = upscalers[scale].upscale(image)
    assert large.shape == (height * scale, width * scale, *shape[2:])
    assert large.dtype == np.uint8
    assert large.flags.c_contiguous
    if channels in (2, 4):
        assert np.array_equal(large[..., -1], bicubic(image[..., -1], scale))
        without = image[..., 0] if channels == 2 else image[..., :3]
        assert np.array_equal(large[..., :-1].reshape(-1), upscalers[scale].upscale(without).reshape(-1))


def test_grey_is_the_mean_of_three_equal_channels_upscaled(upscalers: dict[int, Upscaler], picture: Pixels) -> None:
    grey = picture[..., 0]
    colour = upscalers[2].upscale(np.dstack([grey, grey, grey]))
    expected = np.floor(colour.astype(float).mean(2) + 0.5)
    assert np.array_equal(upscalers[2].upscale(grey), expected)


@given(channels=st.sampled_from([1, 2, 3, 4]))
def test_split_and_join_undo_each_other(channels: int) -> None:
    image = np.random.default_rng(channels).integers(0, 256, (3, 5, channels), np.uint8)
    image = image[..., 0] if channels == 1 else image
    colour, alpha = split(image)
    assert colour.shape == (3, 5, 3)
    assert np.array_equal(join(colour, alpha, grey=channels < 3), image)


def test_detail_is_drawn_from_the_seed_and_zero_is_not(upscalers: dict[int, Upscaler], picture: Pixels) -> None:
    upscaler = upscalers[4]
    plain = upscaler.upscale(picture)
    assert np.array_equal(plain, upscaler.upscale(picture, detail=0, seed=9))
    drawn = [upscaler.upscale(picture, detail=1, seed=seed) for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    spread = [np.abs(upscaler.upscale(picture, detail=d).astype(int) - plain).mean() for d in (0.25, 0.5, 1)]
    assert 0 < spread[0] < spread[1] < spread[2]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"detail": 1.5}, "detail must be 0 to 1, not 1.5"),
        ({"detail": float("nan")}, "detail must be 0 to 1, not nan"),
        ({"detail": 1.0, "seed": -1}, "a seed must be 0 to"),
        ({"tile": 0}, "tile must be at least 1, not 0"),
    ],
)
def test_wrong_options_are_named(
    upscalers: dict[int, Upscaler], picture: Pixels, options: dict[str, float], text: str
) -> None:
    with pytest.raises(OptionError, match=text):
        upscalers[2].upscale(picture, **options)  # type: ignore[arg-type]


def test_arrays_that_are_no_pictures_are_refused(upscalers: dict[int, Upscaler]) -> None:
    with pytest.raises(OptionError, match="must be uint8"):
        upscalers[2].upscale(np.zeros((4, 4, 3)))  # type: ignore[arg-type]


def test_models_are_found_by_scale_and_checked(packages: dict[int, Package]) -> None:
    assert vaert.Upscaler(str(packages[2].path), threads=1).scale == 2
    assert Upscaler(packages[2].path, scale=2, threads=1).package.manifest.name == "upscale-x2"
    with pytest.raises(OptionError, match="model upscale-x2 upscales by 2, not by 4: leave out one of the two"):
        Upscaler(packages[2], scale=4)
    with pytest.raises(ModelError, match="model fast is of kind codec, this needs upscaler"):
        Upscaler("fast")
    with pytest.raises(ModelError, match="no model 'upscale-x3'"):
        Upscaler(scale=3)


@pytest.mark.parametrize("scale", SCALES)
def test_a_package_gives_the_source_back(packages: dict[int, Package], scale: int) -> None:
    package, made = packages[scale], make_source(scale)
    found = from_package(package)
    assert isinstance(found, UpscalerSource)
    assert found.model_id == made.model_id == package.manifest.model_id
    assert any(name.startswith("posterior.") for name in found.weights)
    state, expected = found.model().state_dict(), made.model().state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    manifest = package.manifest
    assert manifest.geometry == {"size_multiple": 1, "scale": scale, "latents": 3, "halo": 12}
    assert manifest.verification["largest_pixel_difference"] <= 1
    assert package.size < 8 << 20


@pytest.mark.parametrize("detail", [0.0, 0.7])
def test_the_runtime_gives_torchs_pixels(
    packages: dict[int, Package], upscalers: dict[int, Upscaler], picture: Pixels, detail: float
) -> None:
    graph = UpscaleGraph(make_source(4).model()).eval()
    noise = detail * normal_noise(3, slice(0, 61), slice(0, 83), 3)
    with torch.no_grad():
        (expected,) = graph(torch.from_numpy(picture)[None], torch.from_numpy(noise)[None]).numpy()
    found = upscalers[4].upscale(picture, detail=detail, seed=3)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_graph_that_is_not_the_weights_is_refused(packages: dict[int, Package], tmp_path: Path) -> None:
    """The graph of other weights under this package's manifest: verify must see it."""
    other = make_source(2, blocks=4).networks()["upscaler"].trace().SerializeToString()
    folder = tmp_path / "swapped"
    folder.mkdir()
    raw = json.loads((packages[2].path / MANIFEST).read_text())
    raw["files"]["upscaler.onnx"] = hashlib.sha256(other).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(raw))
    (folder / "upscaler.onnx").write_bytes(other)
    shutil.copy(packages[2].path / WEIGHTS, folder)
    with pytest.raises(ModelError, match=r"disagrees with torch by \d+ levels, expected at most 1"):
        make_source(2).verify(Package.open(folder))


def test_weights_of_another_shape_are_refused() -> None:
    made = make_source(2)
    broken = UpscalerSource(made.config, made.profile, {**made.weights, "head.weight": made.weights["mix.weight"]}, {})
    with pytest.raises(ModelError, match="weights do not fit upscale-x2"):
        broken.model()
