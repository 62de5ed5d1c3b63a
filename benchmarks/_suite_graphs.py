"""Multiply-adds of a graph, counted from its ONNX file at the shapes of real inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vaert.errors import ModelError

DENSE = {"MatMul", "Gemm", "MatMulInteger", "QLinearMatMul"}
CONVOLUTIONS = {"Conv", "ConvInteger", "QLinearConv"}
# Where the second operand stands among the inputs of the quantised forms.
WEIGHT = {"QLinearConv": 3, "QLinearMatMul": 3}


@dataclass(frozen=True)
class Work:
    """Multiply-adds of one run: of convolutions one by one in channels (`depthwise`), of all others, and their sum."""

    dense: int
    depthwise: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.dense + self.depthwise


def work(data: bytes, inputs: Mapping[str, Any]) -> Work:
    """Count a graph's multiply-adds for inputs of these arrays' shapes.

    Element-wise operators count as nothing, as is usual. ModelError where a shape cannot be inferred.
    """
    import onnx

    model = onnx.load_from_string(data)
    for value in model.graph.input:
        if value.name in inputs:
            shape = value.type.tensor_type.shape
            for dimension, length in zip(shape.dim, inputs[value.name].shape, strict=True):
                dimension.dim_value = length
    del model.graph.value_info[:]
    for output in model.graph.output:  # symbols there would contradict what is inferred
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    dense = depthwise = 0
    for node in inferred.node:
        count = multiply_adds(node, shapes)
        if node.op_type in CONVOLUTIONS and _attribute(node, "group", 1) > 1:
            depthwise += count
        else:
            dense += count
    return Work(dense, depthwise)


def multiply_adds(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Of one node: every element of the output sums over what one output sees. 0 for operators without weights."""
    if node.op_type == "ConvTranspose":
        return _elements(node.input[0], shapes) * math.prod(_shape(node.input[1], shapes)[1:])
    if node.op_type in CONVOLUTIONS:
        weight = _shape(node.input[WEIGHT.get(node.op_type, 1)], shapes)  # (out, in / group, kernel...)
        return _elements(node.output[0], shapes) * math.prod(weight[1:])
    if node.op_type in DENSE:
        first = _shape(node.input[0], shapes)
        inner = first[-2] if node.op_type == "Gemm" and _attribute(node, "transA", 0) else first[-1]
        return _elements(node.output[0], shapes) * inner
    return 0


def _elements(name: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    return math.prod(_shape(name, shapes))


def _shape(name: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    found = shapes.get(name)
    if not found or 0 in found:
        raise ModelError(f"the shape of {name} cannot be inferred ({found}), expected whole numbers")
    return found


def _attribute(node: Any, name: str, otherwise: int) -> int:
    return next((int(one.i) for one in node.attribute if one.name == name), otherwise)
