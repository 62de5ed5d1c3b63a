"""Lossless digits: exact networks by torch, by ONNX Runtime and by plain int64 numpy; every digit comes back."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load as load_safetensors

from vaert.errors import BitstreamError, ModelError, OptionError
from vaert.export.lossless import LosslessSource, from_model, from_package
from vaert.export.lossless_check import made_digits
from vaert.export.pipeline import write_fp32
from vaert.lossless_tables import LosslessTables
from vaert.package import Package, find_package
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.runtime.backends.base import Array, Named
from vaert.runtime.lossless import LosslessCoded, LosslessDigits, LosslessNetworks, batches
from vaert.trainer.lossless_objective import BitsBackRate
from vaert.trainer.models.lossless_order import OUTSIDE, PIXELS, passes, tree
from vaert.trainer.models.mnist_lossless import LosslessConfig, LosslessVAE
from vaert.trainer.models.prior import IntegerLayer

SMALL = LosslessConfig(latents=5, hidden=24, features=3, context=9, width=12)
STEPS = 40


def trained(config: LosslessConfig) -> LosslessVAE:
    """A few steps in float, then the integers: enough for probabilities that are not all alike."""
    torch.manual_seed(3)
    model = LosslessVAE(config)
    objective, digits = BitsBackRate(model), torch.from_numpy(made_digits(32, config.levels))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.nets.observe(True)
    for step in range(STEPS):
        loss, _ = objective(digits, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.nets.observe(False)
    model.nets.freeze()
    return model.eval()


@pytest.fixture(scope="module")
def model() -> LosslessVAE:
    return trained(SMALL)


@pytest.fixture(scope="module")
def source(model: LosslessVAE) -> LosslessSource:
    return from_model(model, "mnist-lossless", training={})


@pytest.fixture(scope="module")
def package(source: LosslessSource, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return write_fp32(source, tmp_path_factory.mktemp("lossless") / "package")


@pytest.fixture(scope="module")
def codec(package: Package) -> LosslessDigits:
    return LosslessDigits(package, OnnxRuntimeCpu(threads=1))


class Reference:
    """The networks in int64 numpy, from the shipped integers: shares nothing with graphs, torch or the runtime."""

    def __init__(self, package: Package) -> None:
        arrays = load_safetensors(package.read("weights.safetensors"))
        self.arrays = {name: array.astype(np.int64) for name, array in arrays.items()}
        self.tables = LosslessTables.from_bytes(package.read("tables.npz"))

    def linear(self, name: str, a: Array) -> Array:
        weight, bias, shift = (self.arrays[f"{name}.{field}"] for field in ("weight", "bias", "shift"))
        out: Array = (a @ weight.T + bias) >> shift
        return out

    def hidden(self, name: str, a: Array) -> Array:
        return np.clip(self.linear(name, a), 0, 255)

    def all(self, pixels: Array, latents: Array) -> Mapping[str, Array]:
        """Every integer that drives the coder, from pixels (N, 784) and latents (N, L)."""
        x, z = pixels.astype(np.int64), latents.astype(np.int64)
        h = self.hidden("e", x >> 1)
        found = {"mean": np.clip(self.linear("mean", h), -127, 127), "spread": np.clip(self.linear("spread", h), 0, 31)}
        features = self.hidden("f", self.hidden("d", z)).reshape(len(z), 196, -1)
        for k, one in enumerate(self.tables.passes):
            rows = []
            for pixel, cell, near in zip(one.pixels, one.cells, one.neighbours, strict=True):
                assert cell == pixel // 28 // 2 * 14 + pixel % 28 // 2
                seen = np.stack([x[:, n] if n < PIXELS else np.zeros_like(x[:, 0]) for n in near], 1) if k else x[:, :0]
                a = self.hidden(f"b{k}", self.hidden(f"a{k}", np.concatenate([features[:, cell], seen], 1)))
                rows.append(np.clip(self.linear(f"o{k}", a), 0, 127))
            found[f"index{k}"] = np.stack(rows, 1)
        return found


def by_graphs(networks: LosslessNetworks, pixels: Array, latents: Array) -> Mapping[str, Array]:
    q, features = networks.posterior(pixels), networks.features(latents)
    padded = np.pad(pixels, ((0, 0), (0, 1)))
    found: dict[str, Array] = {"mean": q.mean, "spread": q.spread}
    return found | {f"index{k}": networks.index(k, features, padded) for k in range(len(passes(0)))}


@pytest.mark.parametrize(("threads", "optimisation"), [(1, "all"), (2, "all"), (1, "none"), (2, "none")])
def test_onnx_runtime_computes_the_reference_integers(package: Package, threads: int, optimisation: str) -> None:
    reference = Reference(package)
    backend = OnnxRuntimeCpu(threads=threads, optimisation=optimisation)
    networks, rng = LosslessNetworks(package, backend, reference.tables), np.random.default_rng(threads)
    pixels = np.concatenate([made_digits(6, 256).reshape(6, -1), rng.integers(0, 256, (3, PIXELS)).astype(np.uint8)])
    latents = rng.integers(-255, 256, (9, SMALL.latents)).astype(np.int32)
    wanted, found = reference.all(pixels, latents), by_graphs(networks, pixels, latents)
    assert wanted.keys() == found.keys()
    for name, values in wanted.items():
        assert np.array_equal(values, found[name]), name
        assert len(np.unique(values)) > 3, f"{name} has nothing worth comparing"


def test_known_answers_are_the_reference_integers(package: Package) -> None:
    known = np.load(io.BytesIO(package.read("known_answers.npz")))
    for case in ("strokes", "extreme", "bound"):
        for name, values in Reference(package).all(known[f"{case}.pixels"], known[f"{case}.latents"]).items():
            assert np.array_equal(values, known[f"{case}.{name}"]), (case, name)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40, 130])
def test_every_digit_comes_back(codec: LosslessDigits, count: int) -> None:
    digits = made_digits(max(4, count), 256)[:count]
    coded = codec.compress(digits)
    again = codec.decompress(coded, count)
    assert again.dtype == np.uint8
    assert np.array_equal(again, digits)


def test_digits_that_leave_no_bits_to_draw_from_come_back(codec: LosslessDigits) -> None:
    digits = np.zeros((20, 28, 28), np.uint8)
    assert np.array_equal(codec.decompress(codec.compress(digits), 20), digits)


def test_other_threads_and_no_optimisation_decode_the_same_words(package: Package, codec: LosslessDigits) -> None:
    digits = made_digits(20, 256)
    other = LosslessDigits(package, OnnxRuntimeCpu(threads=2, optimisation="none"))
    assert other.compress(digits) == codec.compress(digits)
    assert np.array_equal(other.decompress(codec.compress(digits), 20), digits)


def test_the_rate_is_the_evidence_lower_bound(model: LosslessVAE, codec: LosslessDigits) -> None:
    """Bits come back: without them the latents would cost several bits each on top."""
    digits = made_digits(200, 256)
    with torch.no_grad():
        parts = [model(torch.from_numpy(digits), torch.Generator().manual_seed(i)) for i in range(4)]
    expected = sum(float((kl + bits).mean()) for kl, bits in parts) / len(parts)
    assert len(codec.compress(digits).words) * 8 / len(digits) == pytest.approx(expected, rel=0.02)


def test_batches_double_and_cover_everything() -> None:
    assert [s.stop - s.start for s in batches(200)] == [1, 2, 4, 8, 16, 32, 64, 64, 9]
    for count in (1, 2, 3, 63, 64, 65, 128):
        taken = list(batches(count))
        assert taken[0].start == 0
        assert [s.stop for s in taken[:-1]] == [s.start for s in taken[1:]]
        assert taken[-1].stop == count


def test_a_binary_model_codes_black_and_white_only(tmp_path: Path) -> None:
    source = from_model(trained(replace(SMALL, levels=2)), "mnist-lossless-binary", training={})
    binary = LosslessDigits(write_fp32(source, tmp_path / "binary"), OnnxRuntimeCpu(threads=1))
    assert source.tables.tree.leaves.tolist() == [[0, 1], [255, 1]]
    digits = made_digits(9, 2)
    assert np.array_equal(binary.decompress(binary.compress(digits), 9), digits)
    with pytest.raises(OptionError, match="other values than the 2 that this model codes"):
        binary.compress(made_digits(9, 256))


@pytest.mark.parametrize(
    "digits",
    [
        np.zeros((0, 28, 28), np.uint8),
        np.zeros((28, 28), np.uint8),
        np.zeros((1, 28, 27), np.uint8),
        np.zeros((1, 28, 28)),
    ],
)
def test_what_is_no_digit_is_refused(codec: LosslessDigits, digits: Array) -> None:
    with pytest.raises(OptionError, match=r"expected uint8 \(N, 28, 28\)"):
        codec.compress(digits)


def test_damage_is_found(codec: LosslessDigits) -> None:
    digits = made_digits(12, 256)
    coded = codec.compress(digits)
    for at in range(0, len(coded.words), max(1, len(coded.words) // 40)):
        words = bytearray(coded.words)
        words[at] ^= 0x10
        with pytest.raises(BitstreamError, match="damaged digits"):
            codec.decompress(LosslessCoded(bytes(words), coded.symbol_crc), 12)
    for wrong, count in (
        (replace(coded, words=coded.words[:-4]), 12),
        (replace(coded, words=coded.words[:-1]), 12),
        (replace(coded, words=b""), 12),
        (replace(coded, symbol_crc=coded.symbol_crc ^ 1), 12),
        (coded, 11),
        (coded, 13),
    ):
        with pytest.raises(BitstreamError, match="damaged digits"):
            codec.decompress(wrong, count)
    with pytest.raises(OptionError, match="count is 0"):
        codec.decompress(coded, 0)


class Inexact(OnnxRuntimeCpu):
    """An engine that is off by one in one graph."""

    name = "inexact"

    def load(self, package: Package, graph: str) -> Any:
        runner = super().load(package, graph)
        return _OffByOne(runner) if graph == "lossless_pass3" else runner


class _OffByOne:
    def __init__(self, runner: Any) -> None:
        self._runner = runner

    def run(self, inputs: Named) -> dict[str, Array]:
        return {name: value ^ 1 for name, value in self._runner.run(inputs).items()}


def test_an_inexact_backend_is_replaced_with_a_warning(package: Package, codec: LosslessDigits) -> None:
    with pytest.warns(RuntimeWarning, match=r"the inexact backend .* \(known answer .*, index3\)"):
        replaced = LosslessDigits(package, Inexact())
    assert replaced.backend_name == "cpu"
    digits = made_digits(5, 256)
    assert replaced.compress(digits) == codec.compress(digits)


def test_a_package_of_another_kind_is_refused() -> None:
    with pytest.raises(ModelError, match="is a model of kind codec, expected lossless_digits"):
        LosslessDigits(find_package("fast"), OnnxRuntimeCpu())


def test_a_package_gives_its_source_back(package: Package, source: LosslessSource) -> None:
    again = from_package(package)
    assert again.model_id == source.model_id == package.manifest.model_id
    assert again.files() == source.files()


def test_another_table_is_another_model(source: LosslessSource) -> None:
    tables = replace(source.tables, prior=source.tables.prior[::-1].copy() + np.eye(1, 511, 3, dtype=np.uint32)[0])
    assert replace(source, tables=tables).model_id != source.model_id


def test_a_layer_beyond_the_bound_is_not_exported(source: LosslessSource) -> None:
    e = source.layers["e"]
    wide = IntegerLayer(np.full_like(e.weight, 127), np.full_like(e.bias, 1 << 22), e.shift)
    with pytest.raises(
        ModelError, match=r"layer e, row 0: sums can reach 16839440; float32 is exact only below 16777216"
    ):
        replace(source, layers={**source.layers, "e": wide}).bounds()
    assert max(source.bounds().values()) < 1 << 24


def test_passes_see_known_pixels_only() -> None:
    known = {OUTSIDE}
    for one in passes(20):
        assert set(one.neighbours.ravel().tolist()) <= known
        assert not known & set(one.pixels.tolist())
        known |= set(one.pixels.tolist())
    assert known == set(range(PIXELS + 1))


def test_the_last_pass_sees_all_eight_neighbours() -> None:
    last = passes(20)[-1]
    r, c = divmod(int(last.pixels[100]), 28)
    assert {(n // 28 - r, n % 28 - c) for n in last.neighbours[100].tolist()} >= {
        (i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j
    }


def test_probabilities_of_all_values_sum_to_one(model: LosslessVAE) -> None:
    values = torch.arange(256)[:, None]
    logits = torch.randn(1, 1, len(tree(256).children), generator=torch.Generator().manual_seed(2)).expand(256, -1, -1)
    with torch.no_grad():
        bits = model.pass_bits(logits, values)
    assert float(torch.exp2(-bits.double()).sum()) == pytest.approx(1, abs=1e-5)


def test_freezing_keeps_what_was_learned() -> None:
    torch.manual_seed(1)
    model, digits = LosslessVAE(SMALL), torch.from_numpy(made_digits(64, 256))
    with torch.no_grad():
        for layer in model.nets.layers().values():
            layer.weight.mul_(2)
        model.nets.observe(True)
        before = sum(part.mean() for part in model(digits, torch.Generator().manual_seed(0)))
        model.nets.observe(False)
        model.nets.freeze()
        after = sum(part.mean() for part in model(digits, torch.Generator().manual_seed(0)))
    assert math.isclose(float(before), float(after), rel_tol=0.03)
    again = LosslessVAE(SMALL)
    again.load_state_dict(model.state_dict())
    assert again.nets.integer
    with torch.no_grad():
        repeated = sum(part.mean() for part in again(digits, torch.Generator().manual_seed(0)))
    assert float(repeated) == float(after)
