"""Scales moved between layers: nothing changes in float, and streams name every layer that must take part."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import model_inputs, model_networks
from torch import Tensor

from vaert.export.calibration import read_activations
from vaert.export.equalise import equalise, find_exponents
from vaert.export.layers import layers
from vaert.export.registry import from_package
from vaert.export.trace import Network
from vaert.export.verify import made_picture
from vaert.package import DIGITS, LOSSLESS_DIGITS, Package, bundled_models, find_package

NAMES = ("encoder", "decoder", "upscaler", "restorer")
NOT_IN_STREAMS = {  # layers that read the network's input, or z
    "encoder": {"analysis.embed"},
    "decoder": set(),
    "upscaler": {"model.head", "model.inject"},
    "restorer": {"model.head", "model.inject"},
}
QUANTISABLE = [name for name in bundled_models() if find_package(name).manifest.kind != LOSSLESS_DIGITS]


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    return model_networks()


@pytest.fixture(scope="module")
def inputs() -> dict[str, tuple[Tensor, ...]]:
    return model_inputs()


def drawn(network: Network, *, seed: int = 0) -> dict[str, list[int]]:
    """Exponents of all channels of all streams at random."""
    rng = np.random.default_rng(seed)
    return {name: [int(k) for k in rng.integers(-3, 4, width)] for name, width in widths(network).items()}


def widths(network: Network) -> dict[str, int]:
    """Channels of each stream, as its first reader takes them."""
    modules: dict[str, Any] = layers(network.module)
    return {stream.name: modules[stream.readers[0]].in_channels for stream in network.streams}


def run(network: Network, given: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return network.smooth(*given)


def changed(network: Network, exponents: dict[str, list[int]], given: tuple[Tensor, ...], **fields: Any) -> Tensor:
    """The output once a copy of the network is equalised, with other fields."""
    name = getattr(network.smooth, "__name__", "")
    module = copy.deepcopy(network.module)
    smooth = module if network.smooth is network.module else getattr(module, name)
    other = replace(network, module=module, smooth=smooth, **fields)
    equalise(other, exponents)
    return run(other, given)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_changes_bit_for_bit(
    name: str, networks: dict[str, Network], inputs: dict[str, tuple[Tensor, ...]]
) -> None:
    network, given = networks[name], inputs[name]
    before = run(network, given)
    assert before.std() > 0
    for seed in range(3):
        exponents = drawn(network, seed=seed)
        assert all(len(set(values)) > 1 for values in exponents.values())
        assert torch.equal(changed(network, exponents, given), before)


@pytest.mark.parametrize("name", NAMES)
def test_weights_do_change(name: str, networks: dict[str, Network]) -> None:
    network = replace(networks[name], module=copy.deepcopy(networks[name].module))
    before = {n: layer.weight.clone() for n, layer in layers(network.module).items()}
    equalise(network, drawn(network))
    after = layers(network.module)
    touched = {n for stream in network.streams for n in (*stream.makers, *stream.readers)}
    assert {n for n in before if not torch.equal(before[n], after[n].weight)} == touched


def without_one(network: Network) -> Iterator[tuple[Any, ...]]:
    """The network's streams, each time without one of their layers."""
    for i, stream in enumerate(network.streams):
        for side in ("makers", "readers"):
            for layer in getattr(stream, side):
                fewer = tuple(n for n in getattr(stream, side) if n != layer)
                fields: dict[str, Any] = {side: fewer}
                yield (*network.streams[:i], replace(stream, **fields), *network.streams[i + 1 :])


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_that_is_missing_from_a_stream_changes_the_output(
    name: str, networks: dict[str, Network], inputs: dict[str, tuple[Tensor, ...]]
) -> None:
    network, given = networks[name], inputs[name]
    before, exponents, count = run(network, given), drawn(network), 0
    for streams in without_one(network):
        assert not torch.equal(changed(network, exponents, given, streams=streams), before)
        count += 1
    assert count >= 2 * len(network.streams)


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_that_runs_reads_a_stream(
    name: str, networks: dict[str, Network], inputs: dict[str, tuple[Tensor, ...]]
) -> None:
    network, ran = networks[name], set[str]()
    hooks = [layer.register_forward_pre_hook(lambda *_, n=n: ran.add(n)) for n, layer in layers(network.module).items()]
    run(network, inputs[name])
    for hook in hooks:
        hook.remove()
    readers = [n for stream in network.streams for n in stream.readers]
    assert ran - set(readers) == NOT_IN_STREAMS[name]
    assert len(readers) == len(set(readers))


def test_exponents_make_channels_alike(networks: dict[str, Network], inputs: dict[str, tuple[Tensor, ...]]) -> None:
    """One channel of a stream made 64 times larger, where it is made, gets 8 times the scale: half of it, in bits."""
    network, given = networks["upscaler"], inputs["upscaler"]
    stream = next(s for s in network.streams if s.name == "model.body.0.first")
    before = find_exponents(network, [given])[stream.name]
    layer = layers(network.module)["model.body.0.first"]
    assert layer.bias is not None
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias):
            tensor[2] *= 64
    after = find_exponents(network, [given])[stream.name]
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias):
            tensor[2] /= 64
    assert abs((after[2] - before[2]) - (after[0] - before[0]) - 3) <= 1
    assert np.median(after) == 0


@pytest.fixture(scope="module", params=QUANTISABLE)
def bundled(request: pytest.FixtureRequest) -> Package:
    return find_package(request.param)


def test_the_streams_of_bundled_models_are_there_and_recorded(bundled: Package) -> None:
    activations = read_activations(bundled)
    assert activations is not None
    for name, network in from_package(bundled).networks().items():
        modules, channels = layers(network.module), widths(network)
        assert {n for stream in network.streams for n in (*stream.makers, *stream.readers)} <= set(modules)
        assert set(activations.graphs[name]) <= set(modules)
        assert {n: len(values) for n, values in activations.exponents[name].items()} == channels
        for stream in network.streams:
            assert all(len(modules[n].weight) % channels[stream.name] == 0 for n in stream.makers)
            assert not stream.border or hasattr(network.module, stream.border)


def test_recorded_exponents_change_nothing(bundled: Package) -> None:
    activations, picture = read_activations(bundled), made_picture(64, 64)
    assert activations is not None
    source, digits = from_package(bundled), bundled.manifest.kind == DIGITS
    samples = source.samples([picture[:28, :28, :1]] if digits else [picture])
    for name, network in source.networks().items():
        before = run(network, samples[name][0])
        equalise(network, activations.exponents[name])
        assert torch.equal(run(network, samples[name][0]), before)
