"""Graphs in lower precision: what overflows stays in float32, torch shows it, and what cannot be converted is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto
from small_networks import Samples, layers_network, loud_network, made_pixels, made_source, run_graph
from upscaler_package import make_source as make_upscaler

from vaert.errors import BackendError, ModelError
from vaert.export import precision
from vaert.export.calibration import Activations, read_activations, record
from vaert.export.layers import HALF_MARGIN, LARGEST_HALF, halved
from vaert.export.precision import Converted, convert, overflowing
from vaert.export.registry import from_package
from vaert.export.source import Source
from vaert.export.tensorrt_lint import lint
from vaert.export.torch_backend import TorchBackend
from vaert.export.verify import made_picture
from vaert.package import CPU_FLAVOUR, TENSORRT_FLAVOUR, find_package
from vaert.runtime.backends import OnnxRuntimeCpu

SAMPLES: Samples = {"loud": [(made_pixels(3, 16, 20),)], "layers": [(made_pixels(3, 16, 20),)]}


@dataclass(frozen=True)
class Setting:
    """A source, what was recorded of it, and its graphs in the lower precisions."""

    source: Source
    activations: Activations
    fp32: Converted
    fp16: Converted
    int8: Converted


@pytest.fixture(scope="module")
def setting() -> Setting:
    source = made_source({"loud": loud_network(), "layers": layers_network()}, SAMPLES)
    activations = record(source, [])
    made = [convert(source, name, activations) for name in ("fp32", "fp16", "int8")]
    return Setting(source, activations, *made)


def by_torch(converted: Converted, graph: str, pixels: torch.Tensor) -> dict[str, npt.NDArray[Any]]:
    backend = TorchBackend(converted.networks)
    return backend.load(find_package("fast"), graph).run({"pixels": pixels.numpy()})


def ports(graph: onnx.ModelProto) -> list[tuple[str, int, list[int | str]]]:
    """Names, types and shapes of inputs and outputs; a free size without its name."""
    values = [*graph.graph.input, *graph.graph.output]
    return [
        (v.name, v.type.tensor_type.elem_type, [d.dim_value or "free" for d in v.type.tensor_type.shape.dim])
        for v in values
    ]


def weight_types(graph: onnx.ModelProto) -> dict[str, int]:
    return {t.name: t.data_type for t in graph.graph.initializer if t.name.endswith("weight")}


def test_layers_that_overflow_stay_in_float32(setting: Setting) -> None:
    assert setting.fp16.facts == {"kept_in_fp32": {"loud": ["grow", "shrink"], "layers": []}}
    types = weight_types(setting.fp16.graphs["loud"])
    assert {name for name, kind in types.items() if kind == TensorProto.FLOAT} == {
        "grow.layer.weight",
        "shrink.layer.weight",
    }
    assert set(weight_types(setting.fp16.graphs["layers"]).values()) == {TensorProto.FLOAT16}


def test_what_would_overflow_is_finite_and_right(setting: Setting) -> None:
    pixels = made_pixels(2, 9, 13)
    exact = run_graph(setting.fp32.graphs["loud"], [pixels])[0]
    with torch.no_grad():
        plain = halved(loud_network().module, keep=())(pixels)
    assert not torch.isfinite(plain).all()  # so it matters
    found = by_torch(setting.fp16, "loud", pixels)["found"]
    assert found.dtype == np.float32
    assert np.abs(found - exact).max() < 0.01 * np.abs(exact).max()


@pytest.mark.parametrize("graph", ["loud", "layers"])
def test_torch_and_onnxruntime_agree(setting: Setting, graph: str) -> None:
    pixels = made_pixels(2, 9, 13)
    network = setting.fp16.networks[graph]
    engine = dict(zip(network.outputs, run_graph(setting.fp16.graphs[graph], [pixels]), strict=True))
    found = by_torch(setting.fp16, graph, pixels)
    assert list(found) == list(engine)
    for name, value in found.items():
        assert value.shape == engine[name].shape
        assert np.abs(value - engine[name]).max() < 0.01 * np.abs(value).max()
    exact = run_graph(setting.fp32.graphs[graph], [pixels])[0]
    assert not np.array_equal(found[network.outputs[0]], exact)  # torch did round


def test_torch_leaves_exact_graphs_to_the_engine(setting: Setting) -> None:
    backend, fast = TorchBackend(setting.fp16.networks), find_package("fast")
    z = np.random.default_rng(2).integers(-9, 10, (1, 2, 3, 64)).astype(np.int32)
    found, right = (b.load(fast, "prior_anchor").run({"z": z}) for b in (backend, OnnxRuntimeCpu(threads=1)))
    assert all(np.array_equal(found[name], right[name]) for name in right)
    backend.close()
    with pytest.raises(BackendError):
        backend.load(fast, "prior_anchor")


def test_the_margin_of_overflow(setting: Setting) -> None:
    layer = setting.activations.graphs["layers"]["mix"]
    edge = LARGEST_HALF / HALF_MARGIN
    made = {"below": replace(layer, largest=edge), "above": replace(layer, largest=edge * 1.001)}
    assert overflowing(made) == ["above"]


def test_int8_says_what_it_is_made_of(setting: Setting) -> None:
    facts = setting.int8.facts["int8"]
    assert set(facts) == set(setting.int8.flavours) == {"loud", "layers"}
    for graph, flavours in facts.items():
        recorded = setting.activations.graphs[graph]
        for found in flavours.values():
            inside = set(recorded) - set(found["left_out"])
            assert found["layers_in_int8"] == len(inside)
            assert found["noise"] <= 1.0
            macs = sum(recorded[name].macs for name in inside) / sum(layer.macs for layer in recorded.values())
            assert found["share_in_int8"] == pytest.approx(macs, abs=1e-4)
        assert flavours[CPU_FLAVOUR].keys() == flavours[TENSORRT_FLAVOUR].keys() - {"kept_in_fp32"}
    assert setting.int8.flavours["loud"] == {CPU_FLAVOUR: "loud", TENSORRT_FLAVOUR: "loud_tensorrt"}
    assert set(setting.int8.graphs) == {"loud", "loud_tensorrt", "layers", "layers_tensorrt"}
    assert lint(setting.int8.graphs["loud_tensorrt"], graph="loud") == []


def test_int8_keeps_layers_that_overflow_in_float32(setting: Setting) -> None:
    """Where their neighbours are in float16 and they themselves are left out."""
    strict = replace(loud_network(), tolerance=1e-12)
    source = made_source({"loud": strict}, SAMPLES)
    converted = convert(source, "int8", Activations(1, {"loud": setting.activations.graphs["loud"]}, {"loud": {}}))
    assert converted.facts["int8"]["loud"][TENSORRT_FLAVOUR]["kept_in_fp32"] == ["grow", "shrink"]
    assert weight_types(converted.graphs["loud_tensorrt"]) == {
        "before.layer.weight": TensorProto.FLOAT16,
        "grow.layer.weight": TensorProto.FLOAT,
        "shrink.layer.weight": TensorProto.FLOAT,
        "after.layer.weight": TensorProto.FLOAT16,
    }


@pytest.mark.parametrize("which", ["fp16", "int8"])
def test_inputs_and_outputs_are_those_of_float32(setting: Setting, which: str) -> None:
    converted: Converted = getattr(setting, which)
    for name in ("loud", "layers"):
        files = converted.flavours.get(name, {CPU_FLAVOUR: name})
        for file in files.values():
            assert ports(converted.graphs[file]) == ports(setting.fp32.graphs[name])


def changed(activations: Activations, **parts: Mapping[str, Any]) -> Activations:
    return replace(activations, **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize("which", ["fp16", "int8"])
def test_activations_that_are_missing_or_not_of_this_model(setting: Setting, which: str) -> None:
    source, recorded = setting.source, setting.activations
    with pytest.raises(ModelError, match=rf"made has no recorded activations, which {which} needs: .* --calibration"):
        convert(source, which, None)
    loud = recorded.graphs["loud"]
    others = [
        changed(recorded, graphs={"loud": loud}),
        changed(recorded, graphs={**recorded.graphs, "layers": {"other": loud["grow"]}}),
        changed(recorded, graphs={**recorded.graphs, "layers": {}}),
        changed(recorded, exponents={"loud": {}, "layers": {"features": [0]}}),
    ]
    for other in others:
        with pytest.raises(ModelError, match=r"activations of made do not belong to its layers, .* --calibration"):
            convert(source, which, other)


def test_streams_of_another_version_are_noticed() -> None:
    package = find_package("upscale-x2")
    activations = read_activations(package)
    assert activations is not None
    fewer = {name: k for name, k in activations.exponents["upscaler"].items() if name != "features"}
    with pytest.raises(ModelError, match="do not belong to its upscaler"):
        convert(from_package(package), "fp16", changed(activations, exponents={"upscaler": fewer}))


def test_layers_of_equal_weights_cannot_be_told_apart() -> None:
    """Before training the last layers of all branches are zero, and the exporter keeps one of them."""
    source = make_upscaler(2, blocks=2, noise=0.0)
    activations = record(source, [made_picture(32, 32)])
    with pytest.raises(ModelError, match=r"layer model\.body\.1\.second has the same weights .* train the model first"):
        convert(source, "int8", activations)


def test_float32_needs_nothing(setting: Setting) -> None:
    assert (setting.fp32.facts, setting.fp32.flavours, setting.fp32.networks) == ({}, {}, {})
    lossless = convert(from_package(find_package("mnist-lossless")), "int8", None)
    plain = convert(from_package(find_package("mnist-lossless")), "fp32", None)
    assert lossless == plain


def test_graphs_that_tensorrt_would_refuse_are_not_written(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    source, seen = made_source({"layers": layers_network()}, SAMPLES), list[str]()

    def refuse(model: onnx.ModelProto, *, graph: str) -> list[str]:
        seen.append(graph)
        return [f"{graph}: node x is odd"] if graph == "layers_tensorrt" else []

    monkeypatch.setattr(precision, "lint", refuse)
    with pytest.raises(ModelError, match="TensorRT would refuse graph layers_tensorrt: node x is odd; this is a fault"):
        convert(source, "int8", setting.activations)
    assert seen == ["layers_tensorrt"]  # CPUs' own operators are none of its business
