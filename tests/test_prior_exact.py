"""Promise 1: the same integers from every engine, thread count and optimisation, from torch and from int64 numpy."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_prior
from hypothesis import given, settings
from hypothesis import strategies as st

from vaert import bitstream
from vaert.export.codec import from_package
from vaert.export.known_answers import anchor_step, context_step, packed_integers
from vaert.export.verify import torch_latents
from vaert.image import read_image
from vaert.package import Package, find_package
from vaert.runtime.backends import OnnxRuntimeCpu, Runner
from vaert.runtime.codec import Codec

Array = np.ndarray[Any, np.dtype[Any]]
QUALITIES = (3.0, 50.0, 97.3)
REACH = 16 * 2**15 + 2**15  # of a reconstructed latent, in sixteenths
BACKENDS = tuple((threads, optimisation) for threads in (1, 2) for optimisation in ("all", "none"))


@pytest.fixture(scope="module")
def package() -> Package:
    return find_package("fast")


@pytest.fixture(scope="module")
def files(package: Package, root: Path) -> dict[float, bytes]:
    """Kodak 23 at three qualities; one is coded by each of three different configurations."""
    pixels = read_image((root / "examples/kodim23.png").read_bytes(), name="kodim23", max_pixels=2**20).pixels
    made = {}
    for quality, (threads, optimisation) in zip(QUALITIES, BACKENDS, strict=False):
        backend = OnnxRuntimeCpu(threads=threads, optimisation=optimisation)
        made[quality] = Codec(package, backend=backend).compress(pixels, quality)
    return made


@pytest.fixture(scope="module")
def expected(package: Package, files: dict[float, bytes]) -> dict[float, Array]:
    return {quality: reference_prior.decode(package, data) for quality, data in files.items()}


@pytest.mark.parametrize(("threads", "optimisation"), BACKENDS)
def test_onnx_runtime_decodes_the_reference_latents(
    package: Package, files: dict[float, bytes], expected: dict[float, Array], threads: int, optimisation: str
) -> None:
    codec = Codec(package, backend=OnnxRuntimeCpu(threads=threads, optimisation=optimisation))
    for quality, data in files.items():
        latents = codec.decode_latents(bitstream.parse_photo(data))
        assert latents.dtype == np.int32
        assert latents.shape == (32, 48, package.manifest.config["latents"])
        assert np.array_equal(latents, expected[quality])


def test_torch_decodes_the_reference_latents(
    package: Package, files: dict[float, bytes], expected: dict[float, Array]
) -> None:
    source = from_package(package)
    for quality, data in files.items():
        assert np.array_equal(torch_latents(package, data, source), expected[quality])


def test_a_file_has_latents_worth_comparing(expected: dict[float, Array]) -> None:
    assert all(len(np.unique(latents)) > 100 for latents in expected.values())


class Sides:
    """The prior's two steps by the graphs, by torch and by the reference, as (positions, M) in raster order."""

    def __init__(self, package: Package) -> None:
        self.reference = reference_prior.ReferencePrior(package)
        backends = {f"onnxruntime {t} {o}": OnnxRuntimeCpu(threads=t, optimisation=o) for t, o in BACKENDS}
        self.graphs: dict[str, tuple[Runner, Runner]] = {
            name: (backend.load(package, "prior_anchor"), backend.load(package, "prior_context"))
            for name, backend in backends.items()
        }
        self.torch = from_package(package).model().prior
        self.hyper, self.latents = (int(package.manifest.config[k]) for k in ("hyper", "latents"))

    def check(self, z: Array, anchors: Array) -> None:
        """z (h / 4, w / 4, hyper) and any latents (h, w, M), of which the anchors are used."""
        h, w, m = anchors.shape
        features = self.reference.features(z.astype(np.int64))
        s = anchors.astype(np.int64)
        steps: tuple[Callable[[tuple[int, int]], tuple[Array, Array]], ...] = (
            lambda at: self.reference.anchor(features, at),
            lambda at: self.reference.rest(features, s, at),
        )
        wanted = [[step(at) for at in reference_prior.positions(h, w, i)] for i, step in enumerate(steps)]
        packed = np.stack([s[y, x] for y, x in reference_prior.positions(h, w, 0)]).reshape(1, h // 2, 2, w // 2, m)
        for name, found in self.all(z[None].astype(np.int32), packed.astype(np.int32)).items():
            for (mean, index), step_wanted in zip(found, wanted, strict=True):
                assert np.array_equal(mean.reshape(-1, m), np.stack([one for one, _ in step_wanted])), name
                assert np.array_equal(index.reshape(-1, m), np.stack([one for _, one in step_wanted])), name

    def all(self, z: Array, packed: Array) -> dict[str, list[tuple[Array, Array]]]:
        found: dict[str, list[tuple[Array, Array]]] = {}
        for name, (anchor, context) in self.graphs.items():
            first = anchor.run({"z": z})
            second = context.run({"features": first["features"], "anchors": packed})
            found[name] = [(out["mean"], out["index"]) for out in (first, second)]
        features, moments = anchor_step(self.torch, z)
        found["torch"] = [packed_integers(moments), packed_integers(context_step(self.torch, features, packed))]
        return found


@cache
def sides() -> Sides:
    return Sides(find_package("fast"))


@pytest.mark.parametrize("side", [1, 2, 3])
def test_random_inputs_through_the_graphs(side: int) -> None:
    rng, both = np.random.default_rng(side), sides()
    z = rng.integers(-127, 128, (side, 4 - side, both.hyper))
    both.check(z, rng.integers(-3000, 3000, (4 * side, 16 - 4 * side, both.latents)))


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("layer", ["h1", "near"])
def test_the_worst_row_of_a_layer(layer: str, sign: int) -> None:
    both = sides()
    weight = both.reference.integers[f"{layer}.weight"]
    worst = weight[int(np.abs(weight).sum(1).argmax())]
    pull = np.where(worst < 0, -sign, sign)
    z = np.full((1, 1, both.hyper), 127 * sign) if layer == "near" else 127 * np.broadcast_to(pull, (1, 1, both.hyper))
    s = np.zeros((4, 4, both.latents), np.int64)
    if layer == "near":  # the rest at (1, 2) sees (0, 2), (2, 2), (1, 1), (1, 3)
        for place, part in zip(((0, 2), (2, 2), (1, 1), (1, 3)), pull.reshape(4, -1), strict=True):
            s[place] = REACH * part
    both.check(z, s)


# Around the clamp of the context, around its rounding, and the largest latents that can be decoded.
LATENTS = st.one_of(
    st.sampled_from([0, 7, 8, 9, 2024, 2031, 2032, 2039, 2040, 2**15, 2**19, REACH]).flatmap(
        lambda v: st.sampled_from([v, -v])
    ),
    st.integers(-REACH, REACH),
)
HYPER = st.one_of(st.sampled_from([-127, 0, 127]), st.integers(-127, 127))


@settings(max_examples=25, deadline=None)
@given(
    z=st.lists(HYPER, min_size=5, max_size=40), s=st.lists(LATENTS, min_size=7, max_size=60), seed=st.integers(0, 2**32)
)
def test_any_inputs_through_the_graphs(z: list[int], s: list[int], seed: int) -> None:
    rng, both = np.random.default_rng(seed), sides()
    both.check(rng.choice(z, (1, 2, both.hyper)), rng.choice(s, (4, 8, both.latents)))


def test_large_frames_take_no_other_path() -> None:
    """Engines choose kernels by size: rows of a large frame equal those of the same rows alone."""
    rng, both = np.random.default_rng(8), sides()
    z = rng.integers(-127, 128, (1, 8, 8, both.hyper)).astype(np.int32)
    packed = rng.integers(-REACH, REACH + 1, (1, 16, 2, 16, both.latents)).astype(np.int32)
    whole = both.all(z, packed)
    first = whole.pop("torch")
    for name, found in whole.items():
        for a, b in zip(found, first, strict=True):
            assert np.array_equal(a[0], b[0]), name
            assert np.array_equal(a[1], b[1]), name
    small = both.all(z[:, :, :1], packed[:, :, :, :2])["torch"]
    assert np.array_equal(small[0][0], first[0][0][:, :, :, :2])
