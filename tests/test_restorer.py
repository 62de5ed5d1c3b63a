"""Restoring at run time: what is repaired and what stays, tiles, channels, sizes; and the export that it runs."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from restorer_package import make_source, shared_package

import vaert
from vaert.errors import ModelError, OptionError
from vaert.export.registry import from_package
from vaert.export.restorer import RestorerSource
from vaert.export.verify import made_picture
from vaert.package import MANIFEST, WEIGHTS, Package
from vaert.runtime.backends.base import Array, Named
from vaert.runtime.restorer import TILE, UNTILED, Restorer, _cuts
from vaert.trainer.models.restorer import RestoreGraph

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@pytest.fixture(scope="module")
def package() -> Package:
    return shared_package()


@pytest.fixture(scope="module")
def restorer(package: Package) -> Restorer:
    return Restorer(package, threads=1)


@pytest.fixture(scope="module")
def picture() -> Pixels:
    return made_picture(301, 707)


@pytest.fixture(scope="module")
def hidden() -> Mask:
    mask = np.zeros((301, 707), np.bool_)
    mask[40:90, 500:640] = mask[290:, 690:] = mask[::17, 33] = True
    return mask


class Counting:
    """A runner that notes the sizes it was run on."""

    def __init__(self, restorer: Restorer) -> None:
        self.runner, self.sizes = restorer._runner, list[tuple[int, ...]]()

    def run(self, inputs: Named) -> dict[str, Array]:
        self.sizes.append(inputs["pixels"].shape[1:3])
        return self.runner.run(inputs)


@pytest.fixture
def counting(restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> Counting:
    counter = Counting(restorer)
    monkeypatch.setattr(restorer, "_runner", counter)
    return counter


def difference(one: Pixels, two: Pixels) -> int:
    return int(np.abs(one.astype(int) - two).max())


@pytest.mark.parametrize("tile", [32, 96, 256])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("strength", [None, 0.6])
def test_tiles_change_nothing(
    restorer: Restorer, picture: Pixels, hidden: Mask, tile: int, masked: bool, strength: float | None
) -> None:
    if tile == 32:  # many tiles: a part of the picture is enough
        picture, hidden = picture[:150, 450:645], hidden[:150, 450:645]
    mask = hidden if masked else None
    whole = restorer.restore(picture, mask, strength=strength)
    tiled = restorer.restore(picture, mask, strength=strength, tile=tile)
    assert whole.shape == picture.shape
    assert difference(whole, picture) > 20  # there was something to get wrong
    assert difference(whole, tiled) <= 1


@pytest.mark.parametrize("masked", [False, True])
def test_smaller_halos_would_change_pixels(package: Package, picture: Pixels, hidden: Mask, masked: bool) -> None:
    """So the test above can fail."""
    restorer, mask = Restorer(package, threads=1), hidden if masked else None
    whole = restorer.restore(picture, mask, strength=1)
    assert (restorer._repair_halo, restorer._fill_halo) == (192, 288)
    restorer._repair_halo = restorer._fill_halo = 32
    assert difference(whole, restorer.restore(picture, mask, strength=1, tile=96)) > 1


def test_a_mask_alone_changes_nothing_but_hidden_pixels(restorer: Restorer, picture: Pixels, hidden: Mask) -> None:
    found = restorer.restore(picture, hidden)
    assert np.array_equal(found[~hidden], picture[~hidden])
    assert (found[hidden] != picture[hidden]).mean() > 0.5


def test_hidden_values_do_not_matter(restorer: Restorer, picture: Pixels, hidden: Mask) -> None:
    spoiled = picture.copy()
    spoiled[hidden] = np.random.default_rng(0).integers(0, 256, (hidden.sum(), 3), np.uint8)
    assert np.array_equal(restorer.restore(spoiled, hidden), restorer.restore(picture, hidden))


def test_mask_and_strength_fill_the_hole_and_repair_the_rest(restorer: Restorer, picture: Pixels, hidden: Mask) -> None:
    filled, whole = (restorer.restore(picture, hidden, strength=strength) for strength in (None, 1.0))
    half = restorer.restore(picture, hidden, strength=0.5)
    for found in (whole, half):
        assert np.array_equal(found[hidden], filled[hidden])
    assert (whole[~hidden] != picture[~hidden]).mean() > 0.5
    between = (picture[~hidden].astype(int) + whole[~hidden]) / 2
    assert np.abs(half[~hidden] - between).max() <= 0.5
    assert np.array_equal(restorer.restore(picture, hidden, strength=0), filled)


def test_strength_goes_from_the_picture_to_the_repaired_one(restorer: Restorer, picture: Pixels) -> None:
    found = [restorer.restore(picture, strength=strength).astype(float) for strength in (0, 0.25, 1)]
    assert np.array_equal(found[0], picture)
    assert np.array_equal(found[2], restorer.restore(picture))
    assert np.abs(found[1] - (0.75 * found[0] + 0.25 * found[2])).max() <= 0.5 + 1e-4


def test_the_picture_itself_stays(restorer: Restorer, picture: Pixels, hidden: Mask) -> None:
    before = picture.copy()
    restorer.restore(picture, hidden, strength=1)
    assert np.array_equal(picture, before)


def test_only_what_holds_hidden_pixels_is_computed(restorer: Restorer, counting: Counting) -> None:
    picture, hidden = made_picture(40, 3000), np.zeros((40, 3000), np.bool_)
    found = restorer.restore(picture, hidden, tile=64)
    assert counting.sizes == []
    assert np.array_equal(found, picture)
    hidden[5, 1000:1010] = hidden[20, 2100] = True
    restorer.restore(picture, hidden, tile=64)
    assert counting.sizes == [(64, 32 + 2 * 288), (64, 32 + 2 * 288)]
    counting.sizes.clear()
    restorer.restore(picture, hidden)  # one part around both
    assert counting.sizes == [(64, 2112 - 992 + 2 * 288)]
    counting.sizes.clear()
    restorer.restore(picture, hidden, strength=0.5, tile=960)  # everything, and further where there are holes to see
    assert counting.sizes == [(64, 960 + 288), (64, 960 + 2 * 288), (64, 960 + 288 + 128), (64, 128 + 192)]


def test_nothing_is_computed_at_strength_zero(restorer: Restorer, counting: Counting, picture: Pixels) -> None:
    assert np.array_equal(restorer.restore(picture, strength=0), picture)
    assert counting.sizes == []


def test_large_pictures_are_cut_into_nearly_equal_tiles() -> None:
    assert TILE % 32 == 0
    assert UNTILED >= TILE
    assert list(_cuts(100 * 32, None, 32)) == [(0, 1088), (1088, 2176), (2176, 3200)]
    assert list(_cuts(TILE, None, 32)) == [(0, TILE)]
    assert list(_cuts(200, 64, 32)) == [(0, 64), (64, 128), (128, 192), (192, 200)]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (33, 7), (64, 96)])
@pytest.mark.parametrize("channels", [None, 2, 3, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_every_size_and_number_of_channels(
    restorer: Restorer, height: int, width: int, channels: int | None, masked: bool
) -> None:
    shape = (height, width) if channels is None else (height, width, channels)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 2 :, width // 2 :] = 200 * (height > 1)
    found = restorer.restore(image, mask if masked else None)
    assert found.shape == shape
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    if channels in (2, 4):
        assert np.array_equal(found[..., -1], image[..., -1])
        without = image[..., 0] if channels == 2 else image[..., :3]
        assert np.array_equal(found[..., :-1].ravel(), restorer.restore(without, mask if masked else None).ravel())
    if masked:
        assert np.array_equal(found[mask == 0], image[mask == 0])


def test_grey_is_the_mean_of_three_equal_channels_restored(restorer: Restorer, picture: Pixels) -> None:
    grey = picture[..., 0]
    colour = restorer.restore(np.dstack([grey, grey, grey]))
    assert np.array_equal(restorer.restore(grey), np.floor(colour.astype(float).mean(2) + 0.5))


def test_any_number_but_zero_hides(restorer: Restorer, picture: Pixels, hidden: Mask) -> None:
    expected = restorer.restore(picture, hidden)
    for value in (1, 255):
        assert np.array_equal(restorer.restore(picture, value * hidden.astype(np.uint8)), expected)


@pytest.mark.parametrize(
    ("mask", "options", "text"),
    [
        (None, {"strength": 1.5}, "strength must be 0 to 1, not 1.5"),
        (None, {"strength": float("nan")}, "strength must be 0 to 1, not nan"),
        (None, {"tile": 100}, "tile must be a multiple of 32, not 100"),
        (None, {"tile": 0}, "tile must be a multiple of 32, not 0"),
        (np.ones((40, 50), np.bool_), {}, "the mask hides every pixel, expected some known ones"),
        (np.ones((40, 51), np.bool_), {}, r"of the picture's shape \(40, 50\), found bool \(40, 51\)"),
        (np.ones((40, 50), np.float32), {}, r"must be bool or uint8 .* found float32"),
        ([[0, 1]], {}, r"must be bool or uint8 .* found int64"),
    ],
)
def test_what_does_not_fit_is_refused(restorer: Restorer, mask: Any, options: dict[str, float], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        restorer.restore(np.zeros((40, 50, 3), np.uint8), mask, **options)  # type: ignore[arg-type]


def test_arrays_that_are_no_pictures_are_refused(restorer: Restorer) -> None:
    with pytest.raises(OptionError, match="must be uint8"):
        restorer.restore(np.zeros((4, 4, 3)))  # type: ignore[arg-type]


def test_models_are_found_and_checked(package: Package) -> None:
    assert vaert.Restorer(str(package.path), threads=1).package.manifest.name == "restore"
    with pytest.raises(ModelError, match="model fast is of kind codec, this needs restorer"):
        Restorer("fast")


def test_the_runtime_gives_torchs_pixels(restorer: Restorer, picture: Pixels, hidden: Mask) -> None:
    graph = RestoreGraph(make_source().model()).eval()
    padding = (0, 320 - 301), (0, 736 - 707)
    pixels = torch.from_numpy(np.pad(picture, (*padding, (0, 0)), mode="edge"))[None]
    mask = torch.from_numpy(np.pad(hidden.astype(np.uint8), padding, mode="edge"))[None, ..., None]
    for given, strength in ((None, None), (hidden, 1.0)):
        with torch.no_grad():
            expected = graph(pixels, mask * (given is not None))[0, :301, :707].numpy()
        assert difference(restorer.restore(picture, given, strength=strength), expected) <= 1


def test_a_package_gives_the_source_back(package: Package) -> None:
    found, made = from_package(package), make_source()
    assert isinstance(found, RestorerSource)
    assert found.config == made.config  # tuples, though JSON has lists
    assert hash(found.config)
    assert found.model_id == made.model_id == package.manifest.model_id
    assert any(name.startswith("posterior.") for name in found.weights)
    state, expected = found.model().state_dict(), made.model().state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    manifest = package.manifest
    assert manifest.geometry == {"size_multiple": 32, "halo": {"repair": 192, "fill": 288}}
    assert manifest.verification["largest_pixel_difference"] <= 1


def test_a_graph_that_is_not_the_weights_is_refused(package: Package, tmp_path: Path) -> None:
    """A graph under weights of other models: verify must see it."""
    folder = tmp_path / "swapped"
    shutil.copytree(package.path, folder)
    with pytest.raises(ModelError, match=r"disagrees with torch by \d+ levels, expected at most 1"):
        make_source(noise=0).verify(Package.open(folder))
    raw = json.loads((folder / MANIFEST).read_text())
    damaged = (folder / WEIGHTS).read_bytes()[:-1] + b"\x01"
    (folder / WEIGHTS).write_bytes(damaged)
    with pytest.raises(ModelError, match="is damaged"):
        Restorer(folder)
    raw["files"][WEIGHTS] = hashlib.sha256(damaged).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(raw))
    assert Restorer(folder, threads=1).restore(np.zeros((4, 4), np.uint8)).shape == (4, 4)
    with pytest.raises(ModelError, match="is not what this package's graphs were made from"):
        from_package(Package.open(folder))


def test_weights_of_another_shape_are_refused() -> None:
    made = make_source()
    broken = replace(made, weights={**made.weights, "head.weight": made.weights["mix.weight"]})
    with pytest.raises(ModelError, match="weights do not fit restore"):
        broken.model()
