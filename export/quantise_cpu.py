"""int8 graphs for CPUs: layers as the integer operators that ONNX Runtime has fast kernels for, channels last.

1x1 convolutions and linear layers are `MatMulIntegerToFloat` (unsigned activations times signed weights, 32-bit sums,
float results): their results are not rounded to bytes, which would cost far more than rounding what goes in. Other
convolutions are `QLinearConv`, whose results are bytes. Both lie in ONNX Runtime's own domain (com.microsoft). Their
layout is NHWC: transposes are put where the layout changes, and operators of single elements follow what they are fed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from vaert.export.calibration import Layer
from vaert.export.layers import source_name
from vaert.export.rounding import Range, integer_weights
from vaert.package import CPU_FLAVOUR

DOMAIN = "com.microsoft"
TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "LeakyRelu", "HardSigmoid", "Clip", "Round", "Cast", "Exp", "Sigmoid"}
BIAS_LIMIT = 2**30  # of integer biases, with room for the sums that they start; scales of weights are made to suit


def quantised(model: onnx.ModelProto, layers: Mapping[str, Layer]) -> onnx.ModelProto:
    """A copy of a float32 graph with `layers`, by name, in int8."""
    result = onnx.shape_inference.infer_shapes(model)
    _Rewriter(result.graph).run(layers)
    result.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    onnx.checker.check_model(result)
    return result


@dataclass(frozen=True)
class _Bytes:
    """A tensor as bytes, channels last: names of its integers, scale and zero point, and the scale's value."""

    integers: str
    scale: str
    zero: str
    step: float


class _Rewriter:
    """Walks the nodes in order; knows each tensor in the graph's own layout, channels last, and as bytes."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        values = (*graph.input, *graph.value_info, *graph.output)
        self._rank = {v.name: len(v.type.tensor_type.shape.dim) for v in values}
        self._nodes: list[onnx.NodeProto] = []
        self._own: dict[str, str] = {value.name: value.name for value in graph.input}
        self._last: dict[str, str] = {}
        self._bytes: dict[str, _Bytes] = {}

    def run(self, layers: Mapping[str, Layer]) -> None:
        """Rewrite nodes and initializers in place."""
        for node in list(self._graph.node):
            layer = layers.get(source_name(node.input[1])) if node.op_type in ("Conv", "Gemm") else None
            if layer is not None:
                self._layer(node, layer)
            elif node.op_type == "Transpose" and self._transpose(node):
                continue
            elif self._follows(node):
                self._emit(node, [self._as_last(name) for name in node.input], last=True)
            else:
                self._emit(node, [self._as_own(name) for name in node.input], last=False)
        for value in self._graph.output:
            if (name := self._as_own(value.name)) != value.name:
                self._add("Identity", [name], value.name)
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in self._initializers.values() if tensor.name in used]
        del self._graph.node[:], self._graph.initializer[:], self._graph.value_info[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend(kept)

    def _layer(self, node: onnx.NodeProto, layer: Layer) -> None:
        """One convolution or linear layer as integers."""
        weight = numpy_helper.to_array(self._initializers[node.input[1]])
        bias = numpy_helper.to_array(self._initializers[node.input[2]]) if len(node.input) > 2 else None
        given, out = self._as_bytes(node.input[0], layer.input), node.output[0]
        if weight.ndim == 2 or (weight.shape[2:] == (1, 1) and self._plain(node)):
            self._product(node, given, weight.reshape(weight.shape[:2]), bias)
            return
        least = 0.0 if bias is None else np.abs(bias.astype(np.float64)) / (BIAS_LIMIT * given.step)
        integers, scales = integer_weights(weight, CPU_FLAVOUR, least=least)
        name, made = node.input[1], self._grid(out, layer.output)
        constants = [given.scale, given.zero, self._constant(f"{name}_q", integers)]
        constants += [self._constant(f"{name}_scale", scales), self._zeros(name, len(scales))]
        inputs = [given.integers, *constants, made.scale, made.zero]
        if bias is not None:
            steps = scales.astype(np.float64) * given.step
            inputs.append(self._constant(f"{name}_bias_q", np.rint(bias / steps).astype(np.int32)))
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name != "auto_pad"}
        self._add("QLinearConv", inputs, made.integers, domain=DOMAIN, channels_last=1, **attributes)
        self._bytes[out] = made
        self._add("DequantizeLinear", [made.integers, made.scale, made.zero], f"{out}_last")
        self._last[out] = f"{out}_last"

    def _product(
        self, node: onnx.NodeProto, given: _Bytes, weight: npt.NDArray[Any], bias: npt.NDArray[Any] | None
    ) -> None:
        """A layer that multiplies each position's channels by a matrix, weights (out, in)."""
        integers, scales = integer_weights(weight, CPU_FLAVOUR)
        name, out = node.input[1], node.output[0]
        matrix = self._constant(f"{name}_q", np.ascontiguousarray(integers.T))
        constants = [matrix, given.scale, self._constant(f"{name}_scale", scales), given.zero]
        inputs = [given.integers, *constants, self._zeros(name, len(scales))]
        if bias is not None:
            inputs.append(node.input[2])
        target, known = (out, self._own) if node.op_type == "Gemm" else (f"{out}_last", self._last)
        self._add("MatMulIntegerToFloat", inputs, target, domain=DOMAIN)
        known[out] = target

    def _plain(self, node: onnx.NodeProto) -> bool:
        """Whether a 1x1 convolution has no stride, padding or groups."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        trivial = {"strides": {1}, "pads": {0}}
        return attributes.get("group", 1) == 1 and all(set(attributes.get(n, v)) <= v for n, v in trivial.items())

    def _follows(self, node: onnx.NodeProto) -> bool:
        """Whether an operator of single elements is fed channels last, and by nothing that has another layout."""
        if node.op_type not in ELEMENTWISE or not any(n in self._last and n not in self._own for n in node.input):
            return False
        return all(self._rank.get(name) in (0, 4) or self._is_number(name) for name in node.input if name)

    def _is_number(self, name: str) -> bool:
        return name in self._initializers and all(n == 1 for n in self._initializers[name].dims)

    def _transpose(self, node: onnx.NodeProto) -> bool:
        """Take a transpose between the layouts as what it is: another name. Whether it is one."""
        perm, source, out = tuple(node.attribute[0].ints), node.input[0], node.output[0]
        if perm == TO_FIRST and source in self._own:
            self._last[out] = self._own[source]
            return True
        if perm == TO_LAST and source in self._last:
            self._own[out] = self._last[source]
            return True
        return False

    def _as_own(self, name: str) -> str:
        """A tensor in the layout of the graph."""
        if name not in self._own and name in self._last:
            self._own[name] = self._add("Transpose", [self._last[name]], f"{name}_own", perm=TO_FIRST)
        return self._own.get(name, name)

    def _as_last(self, name: str) -> str:
        """A tensor with its channels last; single numbers have no layout."""
        if name not in self._last and name in self._own and self._rank.get(name) == 4:
            self._last[name] = self._add("Transpose", [self._own[name]], f"{name}_last", perm=TO_LAST)
        return self._last.get(name, name)

    def _as_bytes(self, name: str, given: Range) -> _Bytes:
        """A tensor as bytes, once for all layers that read it."""
        if name not in self._bytes:
            grid = self._grid(name, given)
            has_layout = self._rank.get(name) == 4
            first = has_layout and name not in self._last  # transpose bytes, not floats
            source = self._own[name] if first or not has_layout else self._last[name]
            target = f"{name}_q_own" if first else grid.integers
            self._add("QuantizeLinear", [source, grid.scale, grid.zero], target)
            if first:
                self._add("Transpose", [target], grid.integers, perm=TO_LAST)
            self._bytes[name] = grid
        return self._bytes[name]

    def _grid(self, name: str, given: Range) -> _Bytes:
        scale, zero, _, _ = given.grid(CPU_FLAVOUR)
        constants = self._constant(f"{name}_scale", np.float32(scale)), self._constant(f"{name}_zero", np.uint8(zero))
        return _Bytes(f"{name}_q", *constants, float(np.float32(scale)))

    def _zeros(self, name: str, count: int) -> str:
        return self._constant(f"{name}_zero", np.zeros(count, np.int8))

    def _constant(self, name: str, value: Any) -> str:
        self._initializers[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _emit(self, node: onnx.NodeProto, inputs: list[str], *, last: bool) -> None:
        """A node as it was, on these inputs."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        known = self._last if last else self._own
        for i, name in enumerate(inputs):
            copy.input[i] = name
        for i, name in enumerate(node.output):
            copy.output[i] = known[name] = f"{name}_last" if last else name
        self._nodes.append(copy)

    def _add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        domain = attributes.pop("domain", "")
        self._nodes.append(helper.make_node(kind, inputs, [output], f"{output}_{kind}", domain=domain, **attributes))
        return output
