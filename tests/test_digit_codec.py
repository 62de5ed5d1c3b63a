"""Lossy coding of digits: tables, search, exactness, targets, and the bar of the bundled model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import digit_codec_package as made
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vaert import bitstream
from vaert.bitstream import Kind
from vaert.digit_search import Cost, search
from vaert.digit_tables import K_MAX, DigitTables
from vaert.errors import BitstreamError, ModelError, OptionError, TargetError
from vaert.idx import read_idx
from vaert.package import Package
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.runtime.digits import DigitCodec, mean_psnr
from vaert.tables import TOTAL
from vaert.trainer.digit_entropy import fit_latents, integer_tables

Digits = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return made.make(tmp_path_factory.mktemp("digits") / "package")


@pytest.fixture(scope="module")
def codec(package: Package) -> DigitCodec:
    return DigitCodec(package, threads=1)


@pytest.fixture(scope="module")
def digits(package: Package) -> Digits:
    return made.digits(package, 40)


@pytest.fixture(scope="module")
def tables(package: Package) -> DigitTables:
    return DigitTables.from_bytes(package.read("tables.npz"))


def names(count: int) -> list[str]:
    return [f"{number}.png" for number in range(count)]


def test_the_bundled_model_meets_the_bar(root: Path) -> None:
    """At most 12 bytes of payload per digit at a mean PSNR of at least 20 dB, on digits that it was not trained on."""
    held_out = read_idx(root / "tests/golden/digits.idx3-ubyte.gz")
    assert held_out.shape == (1000, 28, 28)
    bundled = DigitCodec("mnist-conv", threads=1)
    data = bundled.compress(held_out, 40, names=names(1000))
    assert mean_psnr(held_out, bundled.decompress(data)) >= 20
    assert len(bitstream.parse_digits(data).words) <= 12 * 1000


@pytest.mark.parametrize("quality", [1, 30.5, 60, 100])
def test_round_trip(codec: DigitCodec, digits: Digits, quality: float) -> None:
    found = codec.quantise(digits, round(256 * quality))
    data = codec.compress(digits, quality, names=names(len(digits)))
    stream = bitstream.parse_digits(data)
    assert (stream.count, stream.header.quality) == (40, quality)
    assert stream.names == tuple(names(40))
    assert np.array_equal(codec.decode_latents(stream), found.k)
    assert mean_psnr(digits, codec.decompress(data)) == found.psnr


def test_one_digit_needs_no_name(codec: DigitCodec, digits: Digits) -> None:
    data = codec.compress(digits[:1])
    assert bitstream.parse_digits(data).names is None
    assert bitstream.read_header(data).quality == 60
    assert len(data) < 90
    assert codec.decompress(data).shape == (1, 28, 28)


def test_a_graph_that_is_not_optimised_reads_the_same_integers(
    package: Package, codec: DigitCodec, digits: Digits
) -> None:
    other = DigitCodec(package, backend=OnnxRuntimeCpu(threads=2, optimisation="none"))
    for writer, reader in ((codec, other), (other, codec)):
        stream = bitstream.parse_digits(writer.compress(digits, names=names(len(digits))))
        assert np.array_equal(reader.decode_latents(stream), writer.decode_latents(stream))
        assert np.abs(reader.decode(stream).astype(int) - writer.decode(stream)).max() <= 1


def test_the_file_of_the_same_digits_is_the_same(codec: DigitCodec, digits: Digits) -> None:
    assert codec.compress(digits, names=names(40)) == codec.compress(digits, names=names(40))


def test_quality_trades_bytes_for_fidelity(codec: DigitCodec, digits: Digits) -> None:
    sizes, fidelities = [], []
    for quality in (1, 25, 50, 75, 100):
        data = codec.compress(digits, quality, names=names(40))
        sizes.append(len(bitstream.parse_digits(data).words))
        fidelities.append(mean_psnr(digits, codec.decompress(data)))
    assert sizes == sorted(sizes)
    assert fidelities == sorted(fidelities)
    assert sizes[-1] > 1.5 * sizes[0]
    assert fidelities[-1] > fidelities[0] + 1


def test_every_kind_of_picture_comes_back(codec: DigitCodec) -> None:
    """What no model of digits expects: extremes and noise stay within the tables."""
    rng = np.random.default_rng(0)
    odd = np.stack([np.zeros((28, 28)), np.full((28, 28), 255), np.eye(28) * 255, rng.integers(0, 256, (28, 28))])
    data = codec.compress(odd.astype(np.uint8), 100, names=names(4))
    assert codec.decompress(data).shape == (4, 28, 28)


def test_a_target_is_met_on_average(codec: DigitCodec, digits: Digits) -> None:
    low, high = (codec.quantise(digits, 256 * quality).psnr for quality in (1, 100))
    target = (low + high) / 2
    data = codec.compress(digits, psnr=target, names=names(40))
    assert target <= mean_psnr(digits, codec.decompress(data)) < target + 0.5
    assert bitstream.read_header(codec.compress(digits, psnr=low - 3, names=names(40))).quality == 1
    with pytest.raises(TargetError, match=r"--psnr 90 cannot be reached: these digits allow .* to .* dB"):
        codec.compress(digits, psnr=90, names=names(40))


def test_progress_is_told(codec: DigitCodec, package: Package) -> None:
    seen: list[tuple[int, int]] = []
    codec.compress(made.digits(package, 70), names=names(70), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(64, 70), (70, 70)]


def test_wrong_arguments(codec: DigitCodec, digits: Digits) -> None:
    with pytest.raises(OptionError, match=r"quality must be 1 to 100, not 0\.5"):
        codec.compress(digits[:1], 0.5)
    with pytest.raises(OptionError, match="one of quality and psnr"):
        codec.compress(digits[:1], 50, psnr=20)
    with pytest.raises(OptionError, match="40 digits need a name each, found none"):
        codec.compress(digits)
    with pytest.raises(OptionError, match="found 3 names for 40 digits"):
        codec.compress(digits, names=names(3))
    with pytest.raises(BitstreamError, match=r"'\.\./a' holds a path"):
        codec.compress(digits[:1], names=["../a"])
    wrongs: list[Any] = [digits[:0], digits[:, :27], digits.astype(np.float32), digits[0]]
    for wrong in wrongs:
        with pytest.raises(OptionError, match=r"expected digits of uint8 \(N, 28, 28\), found"):
            codec.compress(wrong)


def test_files_of_others(codec: DigitCodec, digits: Digits) -> None:
    stream = bitstream.parse_digits(codec.compress(digits[:1]))
    with pytest.raises(ModelError, match=r"made by model 0000000000000007, not by by-hand .*--model"):
        codec.decode(replace(stream, header=replace(stream.header, model_id=7)))
    lossless = replace(stream.header, kind=Kind.LOSSLESS_DIGITS, quality_u16=25600)
    with pytest.raises(BitstreamError, match="holds lossless_digits; by-hand decodes lossy digits only"):
        codec.decode(replace(stream, header=lossless))


@given(change=st.integers(1, 255), place=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_changed_words_are_noticed(codec: DigitCodec, digits: Digits, change: int, place: int) -> None:
    stream = bitstream.parse_digits(codec.compress(digits[:8], names=names(8)))
    words = bytearray(stream.words)
    words[place % len(words)] ^= change
    with pytest.raises(BitstreamError, match="damaged"):
        codec.decode(replace(stream, words=bytes(words)))


def test_other_counts_are_noticed(codec: DigitCodec, digits: Digits) -> None:
    stream = bitstream.parse_digits(codec.compress(digits[:8], names=names(8)))
    for count in (1, 7, 9, 3000):
        with pytest.raises(BitstreamError, match="damaged"):
            codec.decode(replace(stream, count=count))


def test_the_search_is_never_worse_and_usually_better() -> None:
    rng = np.random.default_rng(1)
    steps = rng.normal(0, 20, (5, 784)).astype(np.float32)

    def decode(k: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        return np.asarray(128 + 100 * np.tanh(k @ steps / 100), np.float32)

    pictures = decode(rng.integers(-3, 4, (20, 5)).astype(np.int32)) + rng.normal(0, 9, (20, 784)).astype(np.float32)
    size = np.abs(np.arange(-K_MAX, K_MAX + 1))
    cost = Cost(np.array([1.0, 2.0]), np.broadcast_to(1 + size * np.array([[[1.0]], [[2.0]]]), (2, 5, len(size))), 10.0)

    def value(k: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
        return cost.choose(k)[1] + cost.distortion(np.square(pictures - decode(k)).mean(1).astype(np.float64))

    start = rng.integers(-3, 4, (20, 5)).astype(np.int32)
    found = search(pictures, start, cost, decode=decode)
    assert (value(found) <= value(start)).all()
    assert value(found).mean() < value(start).mean() - 5
    edge = np.full((20, 5), K_MAX, np.int32)
    assert np.abs(search(pictures, edge, cost, decode=decode)).max() <= K_MAX


def test_what_is_fitted_are_distributions_that_grow_finer(tables: DigitTables) -> None:
    assert (tables.tables.sum(-1, dtype=np.int64) == TOTAL).all()
    assert (np.diff(tables.steps, axis=0) < 0).all()
    assert (np.diff(tables.slopes) > 0).all()
    levels = [tables.level(quality) for quality in range(256, 25601)]
    assert levels == sorted(levels)
    assert (levels[0], levels[-1]) == (0, tables.levels - 1)
    clusters, symbols = tables.costs(5)
    assert np.exp2(-clusters).sum() == pytest.approx(1)
    # Tables reach further than k does, so what k may be has less than all of the probability, by next to nothing.
    assert np.exp2(-symbols).sum(-1) == pytest.approx(1, abs=1e-3)


def test_clusters_make_files_smaller_where_latents_come_in_clumps(package: Package) -> None:
    z = made.latents(400, 3).astype(np.float64)
    mixed = np.stack([np.random.default_rng(i).permutation(column) for i, column in enumerate(z.T)], 1)
    sizes = []
    for means in (z, mixed):
        tables = fit_latents(means, np.full(made.LATENTS, made.DEVIATION), np.arange(made.LATENTS))
        k = np.round(means / tables.steps[8]).astype(np.int32)
        sizes.append(Cost(*tables.costs(8), 1.0).choose(k)[1].mean())
    assert sizes[0] < 0.9 * sizes[1]


def test_integer_tables() -> None:
    rows = integer_tables(np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]))
    assert rows.dtype == np.uint32
    assert (rows.sum(-1, dtype=np.int64) == TOTAL).all()
    assert rows[1].tolist() == [TOTAL - 2, 1, 1]
    assert rows[2].max() - rows[2].min() == 1


def test_tables_survive_storage(tables: DigitTables) -> None:
    again = DigitTables.from_bytes(tables.to_bytes())
    assert all(np.array_equal(again.arrays()[name], values) for name, values in tables.arrays().items())


def _with(index: tuple[int, ...], value: Any) -> Any:
    def change(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        changed = array.copy()
        changed[index] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("steps", lambda a: a.astype(np.float64), "steps is float64 of 2 dimensions, expected float32 of 2"),
        ("mean", lambda a: a[0], "mean is int16 of 2 dimensions, expected int16 of 3"),
        ("active", lambda a: a[:-1], "steps has shape|slopes has shape|active has shape"),
        ("active", lambda a: a[::-1], "active does not ascend"),
        ("steps", _with((0, 0), np.nan), "steps holds values that are not positive"),
        ("slopes", _with((0,), 0), "slopes holds values that are not positive"),
        ("mean", _with((0, 0, 0), 129), "a mean or a scale is outside"),
        ("scale", _with((0, 0, 0), 200), "a mean or a scale is outside"),
        ("tables", _with((0, 0, 0), 0), "tables holds a table that does not sum"),
        ("clusters", _with((0, 0), 1), "clusters holds a table that does not sum"),
    ],
)
def test_wrong_tables_are_refused(tables: DigitTables, name: str, change: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        DigitTables.from_arrays(tables.arrays() | {name: change(tables.arrays()[name])})


@pytest.mark.parametrize("data", [b"", b"PK", b"\x93NUMPY"])
def test_tables_that_are_no_archive(data: bytes, tables: DigitTables) -> None:
    with pytest.raises(ModelError, match=r"tables\.npz of the digits is damaged"):
        DigitTables.from_bytes(data)
    missing = tables.arrays()
    del missing["clusters"]
    with pytest.raises(ModelError, match="clusters is nothing"):
        DigitTables.from_arrays(missing)


def test_tables_of_a_larger_model_are_refused(tmp_path: Path, tables: DigitTables) -> None:
    made.make(tmp_path)
    active = tables.active.copy()
    active[-1] = made.LATENTS
    made.add_file(tmp_path, "tables.npz", replace(tables, active=active).to_bytes())
    with pytest.raises(ModelError, match=r"tables\.npz codes latent 6, the model has 6"):
        DigitCodec(tmp_path, threads=1)
