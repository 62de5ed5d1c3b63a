"""Promise 1 across engines that share no code: ONNX Runtime, torch, OpenVINO and int64 numpy give the same integers."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
import pytest
import reference_prior
import torch
from test_golden import GOLDEN, LATENTS_CRC
from test_mnist_lossless import Reference, by_graphs

from vaert import bitstream
from vaert.export.codec import from_package as codec_source
from vaert.export.known_answers import anchor_step, context_step, packed_integers
from vaert.export.lossless import from_package as lossless_source
from vaert.export.lossless_check import made_digits
from vaert.lossless_tables import LosslessTables
from vaert.package import CPU_FLAVOUR, Package, find_package
from vaert.runtime.backends import Backend, OnnxRuntimeCpu
from vaert.runtime.backends.base import Named
from vaert.runtime.codec import Codec
from vaert.runtime.lossless import LosslessDigits, LosslessNetworks
from vaert.runtime.prior import pack
from vaert.trainer.models.mnist_lossless import LATENT_MAX, LOGIT_SCALE, LOGITS, ExactNets

Array = npt.NDArray[Any]
Answers = Mapping[str, Array]  # integers by name
SIDE = 8  # hyper-latents; 32 x 32 latents
REACH = 16 * 2**15 + 2**15  # of a reconstructed latent, in sixteenths
EXTREMES = [-REACH, -(2**19), -2040, -2032, -2024, -8, -7, 0, 7, 8, 2024, 2032, 2040, 2**19, REACH]
LEAST = 10**6  # symbols of each kind that are compared
DIGITS = 64


class OpenVino:
    """Intel's engine as a backend. f32: it would otherwise be free to compute in bfloat16."""

    name, flavour = "openvino", CPU_FLAVOUR

    def __init__(self) -> None:
        self.core = openvino.Core()
        self.options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}

    def load(self, package: Package, graph: str) -> OpenVinoRunner:
        package.read_graph(graph, self.flavour)
        file = package.path / package.graph_file(graph, self.flavour)
        return OpenVinoRunner(self.core.compile_model(self.core.read_model(file), "CPU", self.options))

    def close(self) -> None: ...


@dataclass(frozen=True)
class OpenVinoRunner:
    compiled: Any

    def run(self, inputs: Named) -> dict[str, Array]:
        results = self.compiled(dict(inputs))
        return {output.any_name: np.array(value) for output, value in results.items()}


def backends() -> dict[str, Backend]:
    return {
        "ONNX Runtime, optimised": OnnxRuntimeCpu(threads=1),
        "ONNX Runtime, as written": OnnxRuntimeCpu(threads=2, optimisation="none"),
        "OpenVINO": OpenVino(),
    }


def differences(found: Mapping[str, Answers], wanted: Answers) -> dict[str, int]:
    """How many integers of each engine are not the wanted ones, where there are any."""
    wrong = {}
    for engine, answers in found.items():
        assert answers.keys() == wanted.keys()
        assert all(answers[name].shape == wanted[name].shape for name in wanted)
        if count := sum(int((answers[name] != wanted[name]).sum()) for name in wanted):
            wrong[engine] = count
    return wrong


class PriorEngines:
    """The prior of the bundled codec in five implementations. z (1, h / 4, w / 4, hyper), packed anchors."""

    def __init__(self) -> None:
        package = find_package("fast")
        self.graphs = {
            name: (backend.load(package, "prior_anchor"), backend.load(package, "prior_context"))
            for name, backend in backends().items()
        }
        self.torch = codec_source(package).model().prior
        self.reference = reference_prior.ReferencePrior(package)
        self.hyper, self.latents = (int(package.manifest.config[name]) for name in ("hyper", "latents"))

    def found(self, z: Array, anchors: Array) -> dict[str, Answers]:
        """What each engine gives."""
        found: dict[str, Answers] = {}
        for name, (anchor, context) in self.graphs.items():
            first = anchor.run({"z": z})
            second = context.run({"features": first["features"], "anchors": anchors})
            found[name] = _named([(out["mean"], out["index"]) for out in (first, second)])
        features, moments = anchor_step(self.torch, z)
        steps = moments, context_step(self.torch, features, anchors)
        return found | {"torch": _named([packed_integers(step) for step in steps])}

    def wanted(self, z: Array, anchors: Array) -> Answers:
        """What int64 numpy gives."""
        pairs, columns = anchors.shape[1], anchors.shape[3]
        features, s = self.reference.features(z[0].astype(np.int64)), self.unpacked(anchors)
        steps: tuple[Callable[[tuple[int, int]], tuple[Array, Array]], ...] = (
            lambda at: self.reference.anchor(features, at),
            lambda at: self.reference.rest(features, s, at),
        )
        shape, moments = (1, pairs, 2, columns, self.latents), []
        for number, step in enumerate(steps):
            # Raster order: a row of one parity, then one of the other, is how the halves are packed.
            both = [step(at) for at in reference_prior.positions(2 * pairs, 2 * columns, number)]
            mean, index = (np.stack(part).reshape(shape) for part in zip(*both, strict=True))
            moments.append((mean, index))
        return _named(moments)

    def unpacked(self, anchors: Array) -> Array:
        _, pairs, _, columns, m = anchors.shape
        s = np.zeros((2 * pairs, 2 * columns, m), np.int64)
        s[0::2, 0::2], s[1::2, 1::2] = anchors[0, :, 0], anchors[0, :, 1]
        return s


def _named(steps: list[tuple[Array, Array]]) -> Answers:
    (mean, index), (rest_mean, rest_index) = steps
    return {"anchor mean": mean, "anchor index": index, "rest mean": rest_mean, "rest index": rest_index}


@cache
def prior() -> PriorEngines:
    return PriorEngines()


def at_the_bound(shape_z: tuple[int, ...]) -> tuple[Array, Array]:
    """Each position pulls a row of the first layer, and each cross of anchors one of the context layer, all the way."""
    engines, side = prior(), 4 * SIDE
    h1, near = (engines.reference.integers[f"{name}.weight"] for name in ("h1", "near"))
    sign = np.where(np.arange(SIDE**2) % 2, -1, 1)[:, None]
    z = sign * np.where(h1[np.arange(SIDE**2) % len(h1)] < 0, -127, 127)
    s = np.zeros((1, side, side, engines.latents), np.int64)
    # Crosses at x + 2 y = 0 mod 5 tile the plane; those around the rest (y + x odd) are of anchors.
    middles = [(y, x) for y in range(1, side - 1) for x in range(1, side - 1) if (y + x) % 2 and (x + 2 * y) % 5 == 0]
    assert len(middles) > 80
    for number, (y, x) in enumerate(middles):
        up, down, left, right = np.where(near[number % len(near)] < 0, -REACH, REACH).reshape(4, -1)
        s[0, y - 1, x], s[0, y + 1, x], s[0, y, x - 1], s[0, y, x + 1] = up, down, left, right
    return z.reshape(shape_z), pack(s.astype(np.float32), 0)


def inputs(case: str) -> tuple[Array, Array]:
    """Hyper-latents and packed anchors, int32."""
    engines, rng = prior(), np.random.default_rng(7)
    shape_z, shape_s = (1, SIDE, SIDE, engines.hyper), (1, 2 * SIDE, 2, 2 * SIDE, engines.latents)
    if case == "random":
        z, s = rng.integers(-127, 128, shape_z), rng.integers(-4000, 4001, shape_s)
    elif case == "likely":
        z, s = np.rint(rng.laplace(0, 3, shape_z)).clip(-127, 127), np.rint(rng.laplace(0, 100, shape_s))
    elif case == "extreme":
        z, s = rng.choice([-127, 127], shape_z), rng.choice(EXTREMES, shape_s)
    else:
        z, s = at_the_bound(shape_z)
    return z.astype(np.int32), s.astype(np.int32)


CASES = ("random", "likely", "extreme", "bound")


@pytest.mark.parametrize("case", CASES)
def test_five_priors_give_the_same_integers(case: str) -> None:
    z, anchors = inputs(case)
    wanted = prior().wanted(z, anchors)
    assert differences(prior().found(z, anchors), wanted) == {}
    assert all(len(np.unique(values)) > 8 for values in wanted.values()), "nothing worth comparing"
    assert wanted["anchor mean"].size + wanted["rest mean"].size == (4 * SIDE) ** 2 * prior().latents


def test_enough_is_compared() -> None:
    assert len(CASES) * (4 * SIDE) ** 2 * prior().latents >= LEAST


def test_a_difference_would_be_seen() -> None:
    z, anchors = inputs("random")
    found = prior().found(z, anchors)
    changed = {**found["OpenVINO"], "rest index": found["OpenVINO"]["rest index"].copy()}
    changed["rest index"].flat[-1] ^= 1
    assert differences({**found, "changed": changed}, found["torch"]) == {"changed": 1}


def test_openvino_decodes_the_golden_file() -> None:
    """Prior and entropy coder by way of the codec: another engine reads what ONNX Runtime wrote."""
    data = (GOLDEN / "kodim23-part.vaert").read_bytes()
    codec = Codec("fast", backend=OpenVino())
    assert codec._prior.backend_name == "openvino", "its known answers were not reproduced"
    latents = codec.decode_latents(bitstream.parse_photo(data))
    assert zlib.crc32(latents.astype("<i4").tobytes()) == LATENTS_CRC
    pixels, expected = codec.decompress(data), Codec("fast", threads=1).decompress(data)
    assert int(np.abs(pixels.astype(int) - expected).max()) <= 1


def test_files_by_openvino_decode_by_onnx_runtime(root: Path) -> None:
    from vaert.image import read_image

    pixels = read_image((root / "examples/kodim23.png").read_bytes(), name="kodim23").pixels[:192, 64:320]
    by_openvino, by_onnx_runtime = Codec("fast", backend=OpenVino()), Codec("fast", threads=1)
    for writer, reader in ((by_openvino, by_onnx_runtime), (by_onnx_runtime, by_openvino)):
        stream = bitstream.parse_photo(writer.compress(pixels, 70))
        assert np.array_equal(reader.decode_latents(stream), writer.decode_latents(stream))


def by_torch(nets: ExactNets, pixels: Array, latents: Array) -> Answers:
    """The lossless networks' integers by torch."""
    with torch.no_grad():
        x = torch.from_numpy(pixels.astype(np.float32))
        q, features = nets.posterior(x), nets.features(torch.from_numpy(latents.astype(np.float32)))
        found = {"mean": q.mean, "spread": q.index}
        padded = torch.nn.functional.pad(x, (0, 1))
        for k in range(len(nets.passes)):
            logits = nets.logits(k, *nets.inputs(k, features, padded))
            found[f"index{k}"] = torch.round(logits * LOGIT_SCALE + (LOGITS - 1) / 2)
    return {name: value.numpy().astype(np.int64) for name, value in found.items()}


@pytest.mark.parametrize("model", ["mnist-lossless", "mnist-lossless-binary"])
def test_lossless_digits_give_the_same_integers(model: str) -> None:
    package = find_package(model)
    source, reference = lossless_source(package), Reference(package)
    levels, latents = source.config.levels, source.config.latents
    rng = np.random.default_rng(levels)
    pixels = made_digits(DIGITS, levels).reshape(DIGITS, -1)
    pixels[DIGITS // 2 :] = rng.integers(0, 256, pixels[DIGITS // 2 :].shape)
    pixels[-8:] = rng.choice([0, 1, 254, 255], pixels[-8:].shape)
    z = rng.integers(-LATENT_MAX, LATENT_MAX + 1, (DIGITS, latents)).astype(np.int32)
    z[:8] = rng.choice([-LATENT_MAX, LATENT_MAX], (8, latents))
    tables = LosslessTables.from_bytes(package.read("tables.npz"))
    found: dict[str, Answers] = {"torch": by_torch(source.nets(), pixels, z)}
    for name, backend in backends().items():
        networks = LosslessNetworks(package, backend, tables)
        assert networks.backend_name == backend.name, "its known answers were not reproduced"
        found[name] = by_graphs(networks, pixels, z)
    wanted = reference.all(pixels, z)
    assert differences(found, wanted) == {}
    assert sum(values.size for values in wanted.values()) > DIGITS * 784


def test_openvino_reads_digits_that_onnx_runtime_wrote() -> None:
    package, digits = find_package("mnist-lossless"), made_digits(24, 256)
    writer, reader = (LosslessDigits(package, backend) for backend in (OnnxRuntimeCpu(threads=1), OpenVino()))
    coded = writer.compress(digits)
    assert reader.backend_name == "openvino"
    assert reader.compress(digits) == coded
    assert np.array_equal(reader.decompress(coded, len(digits)), digits)
