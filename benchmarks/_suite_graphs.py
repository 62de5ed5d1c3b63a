"""Multiply-adds of a graph, counted from its ONNX file at the shapes of real inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vaert.errors import ModelError

DENSE = {"MatMul", "Gemm", "MatMulInteger", "QLinearMatMul"}
CONVOLUTIONS = {"Conv", "ConvInteger", "QLinearConv"}
CONTRIB = "com.microsoft"
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
    nodes = [made for node in model.graph.node for made in _standard(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
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


def _standard(node: Any) -> Iterator[Any]:
    """Nodes of ONNX in place of one of ONNX Runtime's own, whose shapes only ONNX Runtime infers: the same work."""
    from onnx import TensorProto, helper

    if node.domain != CONTRIB:
        yield node
        return
    weight = {"MatMulIntegerToFloat": 1, "QLinearConv": 3}.get(node.op_type)
    if weight is None:
        raise ModelError(f"{node.op_type} of {CONTRIB} cannot be counted")
    x, w, out = f"{node.output[0]}_x", f"{node.output[0]}_w", node.output[0]
    yield helper.make_node("Cast", [node.input[0]], [x], to=TensorProto.FLOAT)
    yield helper.make_node("Cast", [node.input[weight]], [w], to=TensorProto.FLOAT)
    if node.op_type == "MatMulIntegerToFloat":
        yield helper.make_node("MatMul", [x, w], [out])
        return
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    last = attributes.pop("channels_last", 0)
    if last:
        yield helper.make_node("Transpose", [x], [f"{x}_first"], perm=[0, 3, 1, 2])
    yield helper.make_node(
        "Conv", [f"{x}_first" if last else x, w], [f"{out}_first" if last else f"{out}_float"], **attributes
    )
    if last:
        yield helper.make_node("Transpose", [f"{out}_first"], [f"{out}_float"], perm=[0, 2, 3, 1])
    yield helper.make_node("Cast", [f"{out}_float"], [out], to=TensorProto.UINT8)


def _elements(name: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    return math.prod(_shape(name, shapes))


def _shape(name: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    found = shapes.get(name)
    if not found or 0 in found:
        raise ModelError(f"the shape of {name} cannot be inferred ({found}), expected whole numbers")
    return found


def _attribute(node: Any, name: str, otherwise: int) -> int:
    return next((int(one.i) for one in node.attribute if one.name == name), otherwise)
