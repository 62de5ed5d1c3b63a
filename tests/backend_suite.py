"""What every backend owes, as checks that take a backend: run on each engine that is present, and on stand-ins.

A check is a function of `make`, which gives a new backend; it closes what it made.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from reference_prior import Int64, ReferencePrior, positions

from vaert import bitstream
from vaert.errors import BackendError, ModelError
from vaert.lossless_tables import LosslessTables
from vaert.package import CODEC, Package, find_package
from vaert.runtime.backends import Backend, OnnxRuntimeCpu
from vaert.runtime.codec import Codec
from vaert.runtime.lossless import LosslessNetworks
from vaert.runtime.prior import Prior, pack, unpack

Array = np.ndarray[Any, np.dtype[Any]]
Make = Callable[[], Backend]
Inputs = dict[str, Array]

PACKAGES = ("fast", "upscale-x2", "restore", "mnist-conv", "mnist-lossless")
DTYPES = {"float": np.float32, "int32": np.int32, "uint8": np.uint8}
LEVELS = 1  # between fp32 backends, of 255
DEVIATION = 0.01  # root mean square difference of float outputs, over their deviation
FLIPPED = 0.05  # of rounded outputs, each by one: values near a half fall either way
INTEGERS: dict[Any, tuple[int, int]] = {
    "features": (0, 255),  # integers, in floats
    "z": (-127, 127),
    "pixels": (0, 255),
    "seen": (0, 255),
    "mask": (0, 1),
    "latents": (-127, 127),
    "anchors": (-(2**15), 2**15),
    # Sixteenths, as in a picture. Noise of twice this size makes differences of several levels under TF32.
    ("decoder", "latents"): (-24, 24),
}
# Heights and widths of pictures, in units of a model's size rule; the second is seen often enough for a CUDA graph.
SIZES = ((1, 1), (2, 3), (2, 3), (1, 4), (2, 3), (3, 1), (2, 3), (1, 1), (2, 3))


@contextmanager
def opened(make: Make) -> Iterator[Backend]:
    """A backend for the time of a check."""
    backend = make()
    try:
        yield backend
    finally:
        backend.close()


def sample_inputs(package: Package, graph: str, *, seed: int = 0, size: tuple[int, int] = (1, 1)) -> Inputs:
    """Random inputs of the manifest's types and shapes, for a picture of `size` in units of the model's size rule."""
    manifest, rng = package.manifest, np.random.default_rng(seed)
    rows, columns = size
    sizes = {"batch": 1, "pixels": 5, "high": rows, "wide": columns, "hyper_height": rows, "hyper_width": columns}
    sizes |= {"height": 4 * rows, "width": 4 * columns, "row_pairs": 2 * rows, "columns": 2 * columns}
    gains: Inputs = {}
    if manifest.kind == CODEC:
        gain, inverse = package.tables().gains(50)
        gains = {"gain": gain, "scale": inverse / np.float32(16)}
    inputs: Inputs = {}
    for tensor in manifest.graphs[graph]["inputs"]:
        shape = [n if isinstance(n, int) else _free(n, sizes) for n in tensor["shape"]]
        dtype, name = DTYPES[tensor["type"]], tensor["name"]
        if name in gains:
            inputs[name] = gains[name]
        elif dtype == np.float32 and name != "features":
            inputs[name] = rng.normal(size=shape).astype(dtype)
        else:
            low, high = INTEGERS.get((graph, name)) or INTEGERS[name]
            inputs[name] = rng.integers(low, high + 1, shape).astype(dtype)
    return inputs


def _free(term: str, sizes: dict[str, int]) -> int:
    factor, symbol = term.split("*") if "*" in term else ("1", term)
    return int(factor) * sizes[symbol]


def compare(found: dict[str, Array], right: dict[str, Array], *, exact: bool) -> None:
    """AssertionError unless outputs are the same, or as close as two fp32 engines are."""
    assert sorted(found) == sorted(right)
    for name, expected in right.items():
        value = found[name]
        assert value.dtype == expected.dtype
        assert value.shape == expected.shape
        away = np.abs(value.astype(float) - expected)
        if exact:
            assert not away.any(), name
        elif value.dtype == np.uint8:
            assert away.max() <= LEVELS, name
        elif value.dtype == np.int32:
            assert away.max() <= 1, name
            assert away.mean() <= FLIPPED, name
        else:
            assert np.sqrt(np.square(away).mean()) <= DEVIATION * (expected.std() + 1e-6), name


def is_exact(graph: str) -> bool:
    return graph.startswith(("prior_", "lossless_"))


def check_outputs_are_what_the_manifest_says(make: Make) -> None:
    with opened(make) as backend:
        for package in map(find_package, PACKAGES):
            for graph, tensors in package.manifest.graphs.items():
                outputs = backend.load(package, graph).run(sample_inputs(package, graph))
                promised = {tensor["name"]: tensor for tensor in tensors["outputs"]}
                assert sorted(outputs) == sorted(promised)
                for name, value in outputs.items():
                    shape = promised[name]["shape"]
                    assert value.dtype == DTYPES[promised[name]["type"]]
                    assert len(value.shape) == len(shape)
                    assert all(n == m for n, m in zip(value.shape, shape, strict=True) if isinstance(m, int))


def check_outputs_are_new_arrays(make: Make) -> None:
    package = find_package("fast")
    with opened(make) as backend:
        for graph in ("prior_anchor", "decoder"):
            runner = backend.load(package, graph)
            kept = []
            for seed in range(5):  # often enough for buffers to be reused and a CUDA graph to be captured
                outputs = runner.run(sample_inputs(package, graph, seed=seed))
                kept.append((outputs, {name: value.copy() for name, value in outputs.items()}))
                assert all(value.flags.writeable for value in outputs.values())
            for outputs, copies in kept:
                assert all(np.array_equal(outputs[name], copies[name]) for name in copies)
            first, last = kept[0][1], kept[-1][1]
            assert not all(np.array_equal(first[name], last[name]) for name in first)


def check_wrong_inputs_are_errors_of_one_line(make: Make) -> None:
    package = find_package("fast")
    with opened(make) as backend:
        runner = backend.load(package, "decoder")
        right = sample_inputs(package, "decoder")
        for changed in (
            {},
            {"latents": right["latents"]},
            {"latents": right["latents"][..., :3], "scale": right["scale"]},
            {"latents": right["latents"][0], "scale": right["scale"]},
            {"latents": right["latents"].astype(np.float32), "scale": right["scale"]},
        ):
            with pytest.raises(BackendError, match="decoder") as caught:
                runner.run(changed)
            assert "\n" not in str(caught.value)
        reference = OnnxRuntimeCpu(threads=1).load(package, "decoder").run(right)
        compare(runner.run(right), reference, exact=False)  # and it still works


def check_graphs_that_are_not_there(make: Make) -> None:
    with opened(make) as backend, pytest.raises(ModelError, match=r"has no upscaler\.onnx"):
        backend.load(find_package("fast"), "upscaler")


def check_the_known_answers(make: Make) -> None:
    package, digits = find_package("fast"), find_package("mnist-lossless")
    with opened(make) as backend, warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*exactly")  # they warn if they move to the CPU
        assert Prior(package, backend).backend_name == backend.name
        tables = LosslessTables.from_bytes(digits.read("tables.npz"))
        assert LosslessNetworks(digits, backend, tables).backend_name == backend.name


def check_the_prior_against_int64(make: Make) -> None:
    package = find_package("fast")
    reference, rng = ReferencePrior(package), np.random.default_rng(5)
    hyper = int(package.manifest.config["hyper"])
    with opened(make) as backend:
        prior = Prior(package, backend)
        for height, width in ((1, 1), (1, 2), (2, 1)):
            z = rng.integers(-127, 128, (1, height, width, hyper))
            s = rng.integers(-(2**15), 2**15, (4 * height, 4 * width, reference.latents))
            features, anchors = prior.anchors(z)
            assert np.array_equal(features[0], reference.features(z[0]))
            packed = pack(s[None].astype(np.float32), 0).astype(np.int32)
            rest = prior.rest(features, packed)
            for field in ("mean", "index"):
                found = unpack(getattr(anchors, field), getattr(rest, field))[0]
                assert np.array_equal(found, _expected(reference, z[0], s, field)), field


def _expected(reference: ReferencePrior, z: Int64, s: Int64, field: str) -> Int64:
    """Means or indices of all positions, (h, w, M)."""
    features, out, (height, width) = reference.features(z), np.zeros_like(s), s.shape[:2]
    only_anchors = s.copy()
    for at in positions(height, width, 1):
        only_anchors[at] = 0
    which = ("mean", "index").index(field)
    for at in positions(height, width, 0):
        out[at] = reference.anchor(features, at)[which]
    for at in positions(height, width, 1):
        out[at] = reference.rest(features, only_anchors, at)[which]
    return out


def check_files_decode_on_the_cpu_and_back(make: Make) -> None:
    package = find_package("fast")
    picture = _picture(130, 200)
    cpu = Codec(package, backend=OnnxRuntimeCpu(threads=1))
    with opened(make) as backend:
        other = Codec(package, backend=backend)
        for quality in (5, 50, 98):
            for writer, reader in ((cpu, other), (other, cpu)):
                data = writer.compress(picture, quality)
                stream = bitstream.parse_photo(data)
                assert np.array_equal(writer.decode_latents(stream), reader.decode_latents(stream))
                away = writer.decompress(data).astype(int) - reader.decompress(data)
                assert np.abs(away).max() <= LEVELS


def check_parity_with_the_cpu(make: Make) -> None:
    """Every graph, in changing shapes, some of them often enough for a CUDA graph."""
    cpu = OnnxRuntimeCpu(threads=1)
    with opened(make) as backend:
        for package in map(find_package, PACKAGES):
            for graph in package.manifest.graphs:
                reference, runner = cpu.load(package, graph), backend.load(package, graph)
                for seed, size in enumerate(SIZES):
                    inputs = sample_inputs(package, graph, seed=seed, size=size)
                    compare(runner.run(inputs), reference.run(inputs), exact=is_exact(graph))


def check_threads(make: Make) -> None:
    """One backend in several threads, each with runners of its own, and all with one."""
    package = find_package("fast")
    cpu = OnnxRuntimeCpu(threads=1).load(package, "prior_anchor")
    cases = [sample_inputs(package, "prior_anchor", seed=seed, size=(1, 1 + seed % 3)) for seed in range(12)]
    right = [cpu.run(case) for case in cases]
    with opened(make) as backend, ThreadPoolExecutor(4) as pool:
        shared = backend.load(package, "prior_anchor")

        def work(_: int) -> None:
            own = backend.load(package, "prior_anchor")
            for runner in (own, shared):
                for case, expected in zip(cases, right, strict=True):
                    compare(runner.run(case), expected, exact=True)

        list(pool.map(work, range(4)))


def check_use_after_close(make: Make) -> None:
    package = find_package("fast")
    backend = make()
    runner = backend.load(package, "prior_anchor")
    inputs = sample_inputs(package, "prior_anchor")
    for _ in range(4):
        runner.run(inputs)
    backend.close()
    backend.close()
    for call in (lambda: runner.run(inputs), lambda: backend.load(package, "prior_anchor")):
        with pytest.raises(BackendError, match="closed") as caught:
            call()
        assert "\n" not in str(caught.value)


def _picture(height: int, width: int) -> Array:
    """Smooth colours with some noise, uint8 (height, width, 3)."""
    rng = np.random.default_rng(9)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(y / 17 + x / 29), np.cos(y / 11 - x / 23), np.sin(x / 7)], -1)
    noisy = 128 + 80 * waves + rng.normal(0, 6, waves.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


CHECKS: tuple[Callable[[Make], None], ...] = tuple(
    value for name, value in sorted(globals().items()) if name.startswith("check_")
)
CHECK_NAMES = [check.__name__.removeprefix("check_") for check in CHECKS]
