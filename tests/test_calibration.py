"""What calibration records of a network: ranges, multiply-adds and noise; its pictures, and its file."""

from __future__ import annotations

import gzip
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn as nn
from small_networks import layers_network, made_pixels, made_source, rows_network
from torch import Tensor

from vaert.errors import DataError, ImageError, ModelError
from vaert.export.calibration import PICTURES, SIDE, Activations, Layer, load_pictures, read_activations, record
from vaert.export.rounding import WEIGHT_MAX, Range, round_activations
from vaert.export.source import Source
from vaert.export.trace import Network, Stream
from vaert.package import (
    ACTIVATIONS,
    CODEC,
    CPU_FLAVOUR,
    DIGITS,
    TENSORRT_FLAVOUR,
    Package,
    bundled_models,
    find_package,
)

FLAVOURS = (CPU_FLAVOUR, TENSORRT_FLAVOUR)


@pytest.fixture(scope="module")
def source() -> Source:
    networks = {"layers": layers_network(), "rows": replace(rows_network(), tolerance=0.0)}
    rows = torch.randn(30, 11, generator=torch.Generator().manual_seed(2))
    return made_source(networks, {"layers": [(made_pixels(2, 16, 20),), (made_pixels(1, 12, 14),)], "rows": [(rows,)]})


@pytest.fixture(scope="module")
def recorded(source: Source) -> Activations:
    return record(source, [])


def one_layer(values: Tensor, *, slope: float = 1.0) -> Layer:
    """What is recorded of the identity as a 1x1 convolution of these values, (N,)."""
    layer = nn.Conv2d(1, 1, 1, bias=False)
    torch.nn.init.ones_(layer.weight)
    module = nn.Sequential(layer)
    streams = () if slope == 1 else (Stream("only", ("0",), ("0",), slope=slope),)
    network = Network(module, (), (), [], [], 1.0, module, streams)
    found = record(made_source({"one": network}, {"one": [(values.reshape(1, 1, 1, -1),)]}), [])
    assert found.exponents == {"one": {"only": [0]} if streams else {}}  # one channel alone keeps its scale
    return found.graphs["one"]["0"]


def error(values: Tensor, grid: tuple[float, int, int, int]) -> float:
    return float((values - round_activations(values, grid)).square().mean())


def test_ranges_hold_what_there_is() -> None:
    layer = one_layer(torch.linspace(0.5, 3, 2000))
    for found in (layer.input, layer.output):
        assert found.low == 0
        assert found.high == pytest.approx(3, rel=0.01)
        assert found.symmetric == pytest.approx(3, rel=0.01)
    assert layer.largest == 3
    layer = one_layer(torch.linspace(-4, -1, 2000))
    assert layer.input.low == pytest.approx(-4, rel=0.01)
    assert layer.input.high == 0
    assert layer.input.symmetric == pytest.approx(4, rel=0.01)
    assert layer.largest == 4


def test_ranges_leave_out_what_is_rare_and_far() -> None:
    normal = torch.randn(1_000_000, generator=torch.Generator().manual_seed(1))
    values = torch.cat([normal, torch.tensor([-9.0, 12.0])])
    found = one_layer(values).input
    assert -8 < found.low < -3.5
    assert 3.5 < found.high < 8
    whole = Range(-9.0, 12.0, 12.0)
    for flavour in FLAVOURS:
        assert error(values, found.grid(flavour)) < 0.6 * error(values, whole.grid(flavour))


def test_below_zero_counts_less_ahead_of_a_leaky_relu() -> None:
    values = torch.linspace(-1, 1, 4001)
    assert one_layer(values).output.low == pytest.approx(-1, rel=0.01)
    found = one_layer(values, slope=0.01)
    assert -0.9 < found.output.low <= 0
    assert found.output.high == pytest.approx(1, rel=0.01)
    assert found.input.low == pytest.approx(-1, rel=0.01)  # what it reads itself is not seen through anything


def test_a_layer_that_sees_only_zeros() -> None:
    layer = one_layer(torch.zeros(50))
    assert layer.input == layer.output == Range(0.0, 0.0, 0.0)
    assert layer.noise == dict.fromkeys(FLAVOURS, 0.0)
    for flavour in FLAVOURS:
        assert round_activations(torch.zeros(3), layer.input.grid(flavour)).tolist() == [0, 0, 0]


def test_multiply_adds_are_counted(recorded: Activations) -> None:
    found = {name: layer.macs for name, layer in recorded.graphs["layers"].items()}
    whole, half, quarter = 2 * 16 * 20 + 12 * 14, 2 * 8 * 10 + 6 * 7, 2 * 4 * 5 + 3 * 4
    assert found == {
        "wide": 3 * 12 * 9 * whole,
        "depthwise": 12 * 9 * whole,
        "mix": 12 * 12 * whole,
        "grouped": 12 * 4 * 9 * whole,
        "strided": 12 * 10 * 9 * half,
        "pick": 10 * 10 * quarter,
        "narrow": 10 * 7 * quarter,
    }
    assert list(found) == ["wide", "depthwise", "mix", "grouped", "strided", "pick", "narrow"]  # as they run
    assert {name: layer.macs for name, layer in recorded.graphs["rows"].items()} == {"first": 2970, "second": 1350}


def test_noise_is_measured(source: Source, recorded: Activations, monkeypatch: pytest.MonkeyPatch) -> None:
    for flavour in FLAVOURS:
        assert all(layer.noise[flavour] > 0 for layer in recorded.graphs["layers"].values())
        assert all(layer.noise[flavour] == 0 for layer in recorded.graphs["rows"].values())  # never in int8
        monkeypatch.setitem(WEIGHT_MAX, flavour, 5)
    coarse = record(source, [])
    for name, layer in recorded.graphs["layers"].items():
        for flavour in FLAVOURS:
            assert coarse.graphs["layers"][name].noise[flavour] > 1.5 * layer.noise[flavour], name


def test_the_network_is_as_it_was() -> None:
    network, rows = rows_network(), torch.randn(9, 11)
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    source = made_source({"rows": network}, {"rows": [(rows,)]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "networks", lambda: {"rows": network})
        record(source, [])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.module.state_dict().items())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.module.modules())


def test_it_is_the_same_each_time_and_tells_how_far_it_is(source: Source, recorded: Activations) -> None:
    told: list[tuple[int, int]] = []
    again = record(source, [], progress=lambda done, total: told.append((done, total)))
    assert again == recorded
    assert told == [(n, 9) for n in range(1, 10)]


def test_its_file_comes_back(recorded: Activations) -> None:
    data = recorded.to_bytes()
    again = Activations.from_bytes(data)
    assert again.to_bytes() == data
    assert (again.pictures, again.exponents) == (recorded.pictures, recorded.exponents)
    for graph, found in recorded.graphs.items():
        assert list(again.graphs[graph]) == list(found)
        for name, layer in found.items():
            other = again.graphs[graph][name]
            assert other.macs == layer.macs
            assert other.noise == pytest.approx(layer.noise, rel=1e-5)
            for side in ("input", "output"):
                assert vars(getattr(other, side)) == pytest.approx(vars(getattr(layer, side)), rel=1e-5)


def broken(recorded: Activations) -> dict[str, bytes]:
    """Files that are not what was written, by what is wrong."""
    data = recorded.to_bytes()

    def without(*path: str, put: Any = None) -> bytes:
        raw = place = json.loads(data)
        for key in path[:-1]:
            place = place[key]
        if put is None:
            del place[path[-1]]
        else:
            place[path[-1]] = put
        return json.dumps(raw).encode()

    mix = ("graphs", "layers", "mix")
    return {
        "empty": b"",
        "cut": data[:-20],
        "bytes": b"\xff\xfe" + data,
        "list": b"[]",
        "no graphs": without("graphs"),
        "no exponents": without("exponents"),
        "a word": without(*mix, "largest", put="much"),
        "no noise": without(*mix, "noise", "tensorrt"),
        "another range": without(*mix, "input", "middle", put=1.0),
        "no range": without(*mix, "output", "low"),
        "a number for layers": without("graphs", "layers", put=3),
        "letters for exponents": without("exponents", "layers", put={"a": "xyz"}),
    }


def test_damaged_files(recorded: Activations) -> None:
    for data in broken(recorded).values():
        with pytest.raises(ModelError, match=r"activations\.json is damaged \(.*\); install the package again"):
            Activations.from_bytes(data)


def test_bundled_activations() -> None:
    for name in bundled_models():
        package = find_package(name)
        found = read_activations(package)
        assert (found is None) == name.startswith("mnist-lossless")
        assert found is None or (found.pictures >= PICTURES and set(found.graphs) == set(found.exponents))


def test_a_package_without_them_has_none(tmp_path: Path) -> None:
    package = find_package("fast")
    files = {name: value for name, value in package.manifest.files.items() if name != ACTIVATIONS}
    assert read_activations(Package(tmp_path, replace(package.manifest, files=files))) is None


def save(path: Path, height: int, width: int, *, value: int = 90) -> None:
    pixels = np.full((height, width, 3), value, np.uint8)
    pixels[height // 2, width // 2] = 255
    assert cv2.imwrite(str(path), pixels)


def test_pictures_are_cut_from_the_middle(tmp_path: Path) -> None:
    save(tmp_path / "a.png", SIDE, SIDE)
    save(tmp_path / "b.png", SIDE + 45, SIDE + 100)
    save(tmp_path / "c.png", SIDE - 1, SIDE + 100)
    found = load_pictures(tmp_path, CODEC)
    assert [crop.shape for crop in found] == [(SIDE, SIDE, 3)] * 2
    assert all(crop[SIDE // 2, SIDE // 2].tolist() == [255] * 3 for crop in found[:1])
    assert (found[1] == 255).all(2).sum() == 1


def test_pictures_are_taken_from_the_whole_folder(tmp_path: Path) -> None:
    for i in range(2 * PICTURES + 4):
        save(tmp_path / f"{i:03d}.png", SIDE, SIDE, value=i)
    found = [int(crop[0, 0, 0]) for crop in load_pictures(tmp_path, CODEC)]
    assert found == list(range(PICTURES))
    for i in range(2 * PICTURES + 4, 4 * PICTURES):
        save(tmp_path / f"{i:03d}.png", SIDE, SIDE, value=i)
    found = [int(crop[0, 0, 0]) for crop in load_pictures(tmp_path, CODEC)]
    assert found == list(range(0, 2 * PICTURES, 2))


def test_large_pictures_are_found_among_small_ones(tmp_path: Path) -> None:
    for i in range(4 * PICTURES):
        save(tmp_path / f"{i:03d}.png", 4, 4)
    for i in (3, 77):  # at odd places, which every other one misses
        save(tmp_path / f"{i:03d}.png", SIDE, SIDE, value=i)
    assert [int(crop[0, 0, 0]) for crop in load_pictures(tmp_path, CODEC)] == [3, 77]


def test_folders_that_do_not_serve(tmp_path: Path) -> None:
    missing, small, empty = tmp_path / "missing", tmp_path / "small", tmp_path / "empty"
    small.mkdir()
    empty.mkdir()
    save(small / "a.png", SIDE - 1, 2 * SIDE)
    with pytest.raises(DataError, match="missing is not a folder; --calibration takes a folder of pictures"):
        load_pictures(missing, CODEC)
    with pytest.raises(DataError, match="empty holds no pictures"):
        load_pictures(empty, CODEC)
    with pytest.raises(DataError, match="small holds no picture of 256x256 pixels or more"):
        load_pictures(small, CODEC)
    (small / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(ImageError, match=r"b\.png"):
        load_pictures(small, CODEC)
    with pytest.raises(DataError, match="expected one with the IDX files of MNIST"):
        load_pictures(missing, DIGITS)
    with pytest.raises(DataError, match="small"):
        load_pictures(small, DIGITS)


def test_digits(tmp_path: Path) -> None:
    digits = np.random.default_rng(1).integers(0, 256, (700, 28, 28), np.uint8)
    head = struct.pack(">4I", 2051, *digits.shape)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + digits.tobytes()))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">2I", 2049, 700) + bytes(700)))
    found = load_pictures(tmp_path, DIGITS)
    assert len(found) == 512
    assert np.array_equal(np.stack(found)[..., 0], digits[:512])
    assert found[0].shape == (28, 28, 1)
