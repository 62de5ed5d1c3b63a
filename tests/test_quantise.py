"""8-bit rounding, the choice of layers, and int8 graphs of both flavours against torch's simulation of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
import torch.nn as nn
from onnx import TensorProto, helper, numpy_helper
from small_networks import Samples, layers_network, made_pixels, made_source, rows_network, run_graph
from torch import Tensor

from vaert.export import quantise_cpu, quantise_tensorrt
from vaert.export.calibration import Layer, record
from vaert.export.layers import halved, is_matrix, layers
from vaert.export.plan import plan
from vaert.export.rounding import WEIGHT_MAX, Range, in_int8, integer_weights, stored_scales
from vaert.export.tensorrt_lint import lint
from vaert.export.trace import Network
from vaert.package import CPU_FLAVOUR, TENSORRT_FLAVOUR

FLAVOURS = (CPU_FLAVOUR, TENSORRT_FLAVOUR)
QUANTISE: Mapping[str, Callable[[onnx.ModelProto, Mapping[str, Layer]], onnx.ModelProto]] = {
    CPU_FLAVOUR: quantise_cpu.quantised,
    TENSORRT_FLAVOUR: quantise_tensorrt.quantised,
}
CONVOLUTIONS = ("wide", "depthwise", "mix", "grouped", "strided", "pick", "narrow")
LINEAR = ("first", "second")
KINDS = [*((name,) for name in CONVOLUTIONS), CONVOLUTIONS, CONVOLUTIONS[::2], *((name,) for name in LINEAR), LINEAR]


@dataclass(frozen=True)
class Case:
    """A network, its graphs in float, what was recorded of it, and inputs that calibration did not see."""

    network: Network
    wide: onnx.ModelProto
    half: onnx.ModelProto
    recorded: Mapping[str, Layer]
    given: Tensor

    def chosen(self, names: Sequence[str]) -> dict[str, Layer]:
        return {name: self.recorded[name] for name in names}

    def simulated(self, names: Sequence[str], flavour: str) -> npt.NDArray[Any]:
        """The first output with these layers in int8 at once, by torch."""
        modules = layers(self.network.module)
        with ExitStack() as stack, torch.no_grad():
            for name in names:
                ranges = self.recorded[name].input, self.recorded[name].output
                stack.enter_context(in_int8(modules[name], ranges, flavour))
            return self.network.smooth(self.given).numpy()


@pytest.fixture(scope="module")
def cases() -> tuple[Case, Case]:
    """Convolutions on pictures of odd sides, two at once, and linear layers."""
    generator = torch.Generator().manual_seed(4)
    rows = torch.randn(207, 11, generator=generator)
    networks = {"layers": layers_network(), "rows": rows_network()}
    samples: Samples = {"layers": [(made_pixels(2, 16, 20),), (made_pixels(1, 32, 33),)], "rows": [(rows[7:],)]}
    recorded = record(made_source(networks, samples), []).graphs
    half = {name: replace(net, module=halved(net.module, keep=())).trace() for name, net in networks.items()}
    convolutions, linear = (
        Case(networks[name], networks[name].trace(), half[name], recorded[name], given)
        for name, given in (("layers", made_pixels(2, 13, 19)), ("rows", rows[:7]))
    )
    return convolutions, linear


def case_of(cases: tuple[Case, Case], names: Sequence[str]) -> Case:
    return cases[0] if names[0] in CONVOLUTIONS else cases[1]


def operators(graph: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.graph.node)


def constants(graph: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


def square(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    return float(np.square(a.astype(np.float64) - b).mean())


# Rounding


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_integer_weights(flavour: str, dtype: Any) -> None:
    rng = np.random.default_rng(2)
    size = np.array([1, 30, 1e-3, 3e-6, 0]).reshape(-1, 1, 1, 1)  # float16 has no 3e-6 / 127 but as a subnormal
    weight = (rng.standard_normal((5, 4, 3, 3)) * size).astype(np.float32)
    integers, scale = integer_weights(weight, flavour, dtype)
    limit = WEIGHT_MAX[flavour]
    assert integers.dtype == np.int8
    assert scale.dtype == dtype
    assert (integers.shape, scale.shape) == (weight.shape, (5,))
    assert (scale > 0).all()
    assert np.abs(integers.astype(int)).max() <= limit
    assert (np.abs(integers[:2].astype(int)).max((1, 2, 3)) == limit).all()  # nothing wasted
    error = np.abs(integers * scale.astype(np.float64).reshape(-1, 1, 1, 1) - weight).max((1, 2, 3))
    assert (error <= scale.astype(np.float64) / 2 * (1 + 1e-6)).all()  # nothing clipped
    assert (scale[:3].astype(np.float64) <= np.abs(weight[:3]).max((1, 2, 3)) / limit * 1.01).all()
    assert not integers[4].any()
    assert np.array_equal(integer_weights(-weight, flavour, dtype)[0], -integers)
    assert np.array_equal(integer_weights(weight, flavour, dtype, least=0.5)[1], np.maximum(scale, dtype(0.5)))


def test_weights_of_cpus_never_saturate_a_pair() -> None:
    """Of unsigned and signed bytes, whose products a CPU without VNNI adds in 16 bits by twos."""
    weight = np.array([[3.0, 3.0, -3.0]], np.float32)
    integers, _ = integer_weights(weight, CPU_FLAVOUR)
    assert 2 * 255 * int(np.abs(integers.astype(int)).max()) <= 2**15 - 1
    assert WEIGHT_MAX == {CPU_FLAVOUR: 64, TENSORRT_FLAVOUR: 127}


def test_scales_are_rounded_up() -> None:
    wanted = np.random.default_rng(3).uniform(1e-7, 3, 500)
    for dtype, most in ((np.float32, 1 + 2**-22), (np.float16, 1 + 2**-9)):
        found = stored_scales(wanted, dtype).astype(np.float64)
        assert (found >= wanted).all()
        assert (found[wanted > 1e-4] <= most * wanted[wanted > 1e-4]).all()
    assert stored_scales(0.0, np.float16) == np.finfo(np.float16).smallest_subnormal
    assert float(stored_scales(0.0, np.float32)) ** 2 > 0


@pytest.mark.parametrize(("low", "high"), [(0.0, 5.0), (-5.0, 0.0), (-0.3, 7.0), (0.0, 0.0)])
def test_zero_is_on_every_grid(low: float, high: float) -> None:
    given = Range(low, high, max(-low, high))
    scale, zero, least, most = given.grid(CPU_FLAVOUR)
    assert (least, most) == (0, 255)
    assert least <= zero <= most
    assert scale * (least - zero) == pytest.approx(low, abs=scale)
    assert scale * (most - zero) == pytest.approx(high, abs=3e-6 + scale)
    assert given.grid(TENSORRT_FLAVOUR)[1:] == (0, -128, 127)
    assert given.grid(TENSORRT_FLAVOUR)[0] * 127 == pytest.approx(max(-low, high), abs=2e-6)


def test_only_plain_1x1_convolutions_and_linear_layers_are_matrices() -> None:
    found = {name: is_matrix(layer) for name, layer in layers(layers_network().module).items()}
    assert {name for name, matrix in found.items() if matrix} == {"mix", "narrow"}
    assert is_matrix(nn.Linear(2, 3))
    assert not is_matrix(nn.Conv2d(2, 2, 1, padding=1))


# The choice of layers


def layer(noise: float, macs: int) -> Layer:
    nothing = Range(0.0, 0.0, 0.0)
    return Layer(nothing, nothing, 0.0, macs, {CPU_FLAVOUR: noise, TENSORRT_FLAVOUR: 2 * noise})


def test_layers_are_chosen_by_what_a_multiply_add_costs() -> None:
    made = {"dear": layer(0.5, 100), "large": layer(0.6, 1000), "free": layer(0.0, 10), "small": layer(0.3, 300)}
    found = plan(made, CPU_FLAVOUR, 1.0)
    assert (found.layers, found.left_out) == (("large", "free", "small"), ("dear",))
    assert found.noise == pytest.approx(0.9)
    assert found.share == pytest.approx(1310 / 1410)
    found = plan(made, TENSORRT_FLAVOUR, 1.0)
    assert found.layers == ("free", "small")
    assert found.noise == pytest.approx(0.6)
    assert plan(made, CPU_FLAVOUR, 2.0).left_out == ()
    assert plan(made, CPU_FLAVOUR, 2.0).share == 1


def test_no_tolerance_chooses_nothing() -> None:
    found = plan({"free": layer(0.0, 10), "small": layer(0.3, 300)}, CPU_FLAVOUR, 0.0)
    assert (found.layers, found.left_out, found.share, found.noise) == ((), ("free", "small"), 0, 0)
    assert plan({}, CPU_FLAVOUR, 1.0).share == 0


@pytest.mark.parametrize("tolerance", [1e-9, 1e-7, 1e-5])
def test_the_noise_of_the_chosen_stays_within_tolerance(cases: tuple[Case, Case], tolerance: float) -> None:
    for flavour in FLAVOURS:
        found = plan(cases[0].recorded, flavour, tolerance)
        assert found.noise == pytest.approx(sum(cases[0].recorded[n].noise[flavour] for n in found.layers))
        assert found.noise <= tolerance
        assert {*found.layers, *found.left_out} == set(CONVOLUTIONS)


# Graphs


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("names", KINDS, ids="+".join)
def test_a_graph_computes_what_torch_simulates(cases: tuple[Case, Case], names: Sequence[str], flavour: str) -> None:
    case = case_of(cases, names)
    found = run_graph(QUANTISE[flavour](case.wide, case.chosen(names)), [case.given])[0]
    exact, expected = case.simulated((), flavour), case.simulated(names, flavour)
    assert square(expected, exact) > 0
    # A value just between two steps may be rounded the other way, and the next layers see that.
    assert square(found, expected) < (0.05 if len(names) == 1 else 0.25) * square(expected, exact)


@pytest.mark.parametrize("names", KINDS, ids="+".join)
def test_tensorrt_graphs_in_float16(cases: tuple[Case, Case], names: Sequence[str]) -> None:
    case = case_of(cases, names)
    graph = quantise_tensorrt.quantised(case.half, case.chosen(names))
    assert lint(graph, graph="made") == []
    assert operators(graph)["QuantizeLinear"] == len(names)
    assert operators(graph)["DequantizeLinear"] == 2 * len(names)
    found = constants(graph)
    assert {str(value.dtype) for name, value in found.items() if name.endswith("_scale")} == {"float16"}
    zeros = [value for name, value in found.items() if name.endswith("_zero")]
    assert len(zeros) == 2 * len(names)
    assert all(value.dtype == np.int8 and not value.any() for value in zeros)
    for name in names:
        assert found[f"{name}.layer.weight_q"].dtype == np.int8
        assert found[f"{name}.layer.weight_scale"].shape == (len(found[f"{name}.layer.weight_q"]),)
        assert f"{name}.layer.weight" not in found  # kept once, as integers
    # float16 rounds as well, so its distance from the simulation is compared with both distances from float32.
    exact, expected = case.simulated((), TENSORRT_FLAVOUR), case.simulated(names, TENSORRT_FLAVOUR)
    plain = run_graph(case.half, [case.given], optimised=False)[0]
    right = run_graph(graph, [case.given], optimised=False)[0]
    assert square(right, expected) < 3 * (square(expected, exact) + square(plain, exact))
    assert square(right, exact) > 0


def test_layers_in_float32_have_scales_in_float32(cases: tuple[Case, Case]) -> None:
    case = cases[0]
    half = replace(case.network, module=halved(case.network.module, keep=("mix", "strided"))).trace()
    graph = quantise_tensorrt.quantised(half, case.chosen(("mix", "narrow")))
    assert lint(graph, graph="made") == []
    found = constants(graph)
    assert found["mix.layer.weight_scale"].dtype == np.float32
    assert found["narrow.layer.weight_scale"].dtype == np.float16
    assert found["strided.layer.weight"].dtype == np.float32


def test_inputs_that_are_always_zero_keep_a_scale_in_float16(cases: tuple[Case, Case]) -> None:
    nothing = replace(cases[0].recorded["mix"], input=Range(0.0, 0.0, 0.0))
    graph = quantise_tensorrt.quantised(cases[0].half, {"mix": nothing})
    assert lint(graph, graph="made") == []


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("which", [0, 1])
def test_inputs_and_outputs_stay(cases: tuple[Case, Case], flavour: str, which: int) -> None:
    case = cases[which]
    graph = QUANTISE[flavour](case.wide, case.recorded)
    assert list(graph.graph.input) == list(case.wide.graph.input)
    assert list(graph.graph.output) == list(case.wide.graph.output)
    found, before = run_graph(graph, [case.given]), run_graph(case.wide, [case.given])
    assert [(y.shape, y.dtype) for y in found] == [(y.shape, y.dtype) for y in before]
    assert all(np.allclose(a, b, atol=0.05 * np.abs(b).max()) for a, b in zip(found, before, strict=True))


def test_layouts_change_only_where_they_must(cases: tuple[Case, Case]) -> None:
    case = cases[0]

    def transposes(names: Sequence[str]) -> int:
        return operators(quantise_cpu.quantised(case.wide, case.chosen(names)))["Transpose"]

    assert transposes(CONVOLUTIONS) == 0  # pixels come and latents go channels last
    assert transposes(()) == operators(case.wide)["Transpose"] == 2
    assert transposes([name for name in CONVOLUTIONS if name != "grouped"]) == 2  # in and out of it
    assert transposes([name for name in CONVOLUTIONS if name not in {"grouped", "strided"}]) == 2


def test_the_operators_are_those_with_integer_kernels(cases: tuple[Case, Case]) -> None:
    graph = quantise_cpu.quantised(cases[0].wide, cases[0].recorded)
    found = operators(graph)
    assert (found["QLinearConv"], found["MatMulIntegerToFloat"], found["Conv"]) == (5, 2, 0)
    assert found["QuantizeLinear"] == 4  # not where the bytes of a convolution are read as they are
    assert operators(quantise_cpu.quantised(cases[1].wide, cases[1].recorded))["MatMulIntegerToFloat"] == 2
    assert all(np.abs(value.astype(int)).max() <= 64 for value in constants(graph).values() if value.dtype == np.int8)


@pytest.mark.parametrize("which", [0, 1])
def test_threads_and_optimisation_change_nothing(cases: tuple[Case, Case], which: int) -> None:
    case = cases[which]
    graph = quantise_cpu.quantised(case.wide, case.recorded)
    runs = [run_graph(graph, [case.given], optimised=o, threads=n) for o in (True, False) for n in (1, 2)]
    for other in runs[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(runs[0], other, strict=True))


def test_graphs_that_are_not_changed(cases: tuple[Case, Case]) -> None:
    for case in cases:
        before = case.wide.SerializeToString()
        for flavour in FLAVOURS:
            graph = QUANTISE[flavour](case.wide, {})
            found, plain = (run_graph(g, [case.given], optimised=False) for g in (graph, case.wide))
            assert all(np.array_equal(a, b) for a, b in zip(found, plain, strict=True))
            QUANTISE[flavour](case.wide, case.recorded)
        assert case.wide.SerializeToString() == before


def one_convolution(weight: npt.NDArray[Any], bias: npt.NDArray[Any]) -> onnx.ModelProto:
    """x float32 NCHW through a 3x3 convolution named `only` to y."""
    nodes = [helper.make_node("Conv", ["x", "only.weight", "only.bias"], ["y"], pads=[1] * 4, kernel_shape=[3, 3])]
    shapes = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2, 5, 7]) for n in ("x", "y")]
    tensors = [numpy_helper.from_array(weight, "only.weight"), numpy_helper.from_array(bias, "only.bias")]
    graph = helper.make_graph(nodes, "made", shapes[:1], shapes[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("size", [0.0, 1e-7])
def test_channels_of_no_weight_keep_their_bias(size: float) -> None:
    weight = np.random.default_rng(6).standard_normal((2, 2, 3, 3)).astype(np.float32)
    weight[1] *= size
    bias = np.array([0.5, 3.0], np.float32)
    given = Layer(Range(-1.0, 1.0, 1.0), Range(-20.0, 20.0, 20.0), 1.0, 1, {})
    x = torch.rand(1, 2, 5, 7, generator=torch.Generator().manual_seed(1)) * 2 - 1
    exact = run_graph(one_convolution(weight, bias), [x])[0]
    for flavour in FLAVOURS:
        found = run_graph(QUANTISE[flavour](one_convolution(weight, bias), {"only": given}), [x])[0]
        assert np.abs(found[:, 1] - 3).max() < 0.1
        assert np.abs(found - exact).max() < 0.5


def test_tensors_of_other_layouts_are_not_taken_for_channels_last() -> None:
    """A bias per channel that is added ahead of the transpose is one of the graph's layout."""
    weight = np.random.default_rng(6).standard_normal((2, 2, 3, 3)).astype(np.float32)
    model = one_convolution(weight, np.zeros(2, np.float32))
    model.graph.node[0].output[0] = "made"
    model.graph.node.append(helper.make_node("Add", ["made", "each"], ["y"]))
    each = np.array([100.0, -100.0], np.float32).reshape(1, 2, 1, 1)
    model.graph.initializer.append(numpy_helper.from_array(each, "each"))
    x = torch.rand(1, 2, 5, 7, generator=torch.Generator().manual_seed(1))
    given = Layer(Range(0.0, 1.0, 1.0), Range(-10.0, 10.0, 10.0), 1.0, 1, {})
    found = run_graph(quantise_cpu.quantised(model, {"only": given}), [x])[0]
    assert np.abs(found - run_graph(model, [x])[0]).max() < 0.5
