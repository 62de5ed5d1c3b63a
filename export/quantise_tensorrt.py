"""int8 graphs for TensorRT: QuantizeLinear and DequantizeLinear around layers, symmetric, as its parser accepts them.

Activations and weights are signed with zero point 0, biases stay float, and the output of a layer is left to what
follows: a sum with the residual stream is float. Scales have the type of the graph's floats around them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from vaert.export.calibration import Layer
from vaert.export.layers import source_name
from vaert.export.rounding import Range, integer_weights, stored_scales
from vaert.package import TENSORRT_FLAVOUR

QUANTISED = ("Conv", "Gemm")


def quantised(model: onnx.ModelProto, layers: Mapping[str, Layer]) -> onnx.ModelProto:
    """A copy of a float graph with `layers`, by name, in int8."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _Rewriter(result.graph).run(layers)
    onnx.checker.check_model(result, full_check=True)
    return result


class _Rewriter:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes: list[onnx.NodeProto] = []
        self._read: dict[str, str] = {}  # float tensor -> what comes back from its integers

    def run(self, layers: Mapping[str, Layer]) -> None:
        """Rewrite nodes and initializers in place."""
        for original in self._graph.node:
            node = onnx.NodeProto()
            node.CopyFrom(original)
            layer = layers.get(source_name(node.input[1])) if node.op_type in QUANTISED else None
            if layer is not None:
                dtype = helper.tensor_dtype_to_np_dtype(self._initializers[node.input[1]].data_type)
                node.input[0] = self._activation(node.input[0], layer.input, dtype)
                node.input[1] = self._weight(node.input[1], dtype)
            self._nodes.append(node)
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in self._initializers.values() if tensor.name in used]
        del self._graph.node[:], self._graph.initializer[:], self._graph.value_info[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend(kept)

    def _activation(self, name: str, given: Range, dtype: npt.DTypeLike) -> str:
        """Round a tensor to bytes and back, once for all layers that read it; the name of what comes back."""
        if name not in self._read:
            scale, zero, _, _ = given.grid(TENSORRT_FLAVOUR)
            grid = self._constants(name, stored_scales(scale, dtype), np.array(zero, np.int8))
            self._nodes.append(helper.make_node("QuantizeLinear", [name, *grid], [f"{name}_q"], f"{name}_quantise"))
            self._read[name] = self._back(name, grid)
        return self._read[name]

    def _weight(self, name: str, dtype: npt.DTypeLike) -> str:
        """int8 weights with one scale per output channel; the name of what comes back."""
        weight = numpy_helper.to_array(self._initializers[name])
        integers, scales = integer_weights(weight, TENSORRT_FLAVOUR, dtype)
        grid = self._constants(name, scales, np.zeros(len(scales), np.int8))
        self._initializers[f"{name}_q"] = numpy_helper.from_array(integers, f"{name}_q")
        return self._back(name, grid, axis=0)

    def _back(self, name: str, grid: list[str], axis: int | None = None) -> str:
        node = helper.make_node("DequantizeLinear", [f"{name}_q", *grid], [f"{name}_dq"], f"{name}_dequantise")
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self._nodes.append(node)
        return f"{name}_dq"

    def _constants(self, name: str, scale: npt.NDArray[Any], zero: npt.NDArray[Any]) -> list[str]:
        """Scale and zero point of a tensor as initializers; their names."""
        names = [f"{name}_scale", f"{name}_zero"]
        for constant, value in zip(names, (scale, zero), strict=True):
            self._initializers[constant] = numpy_helper.from_array(value, constant)
        return names
