"""What TF32 does to a graph, on the CPU: products of operands rounded to 11 significant bits, sums in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from vaert.package import TENSORRT_FLAVOUR, Package
from vaert.runtime.backends.onnxruntime_cpu import OnnxRuntimeRunner

Array = np.ndarray[Any, Any]
PRODUCTS = ("Conv", "Gemm", "MatMul")
SPLIT = np.float32(2**13 + 1)  # Veltkamp: (x c) - ((x c) - x) keeps the upper 11 of the 24 bits


class Tf32:
    """A backend that computes as tensor cores do with TF32, exact graphs included."""

    name, flavour = "tf32", TENSORRT_FLAVOUR

    def load(self, package: Package, graph: str) -> OnnxRuntimeRunner:
        model = onnx.load(package.path / package.graph_file(graph, self.flavour))
        _round_operands(model.graph)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return OnnxRuntimeRunner(session, graph)

    def close(self) -> None: ...


def rounded(x: Array) -> Array:
    """Float32 values with 11 significant bits."""
    big = np.asarray(x, np.float32) * SPLIT
    return big - (big - x)


def _round_operands(graph: onnx.GraphProto) -> None:
    weights = {tensor.name: tensor for tensor in graph.initializer}
    graph.initializer.append(numpy_helper.from_array(np.array(SPLIT), "tf32_split"))
    nodes, done = [], set[str]()
    for number, node in enumerate(graph.node):
        for k in (0, 1) if node.op_type in PRODUCTS else ():
            name, new = node.input[k], f"tf32_{number}_{k}"
            if name not in weights:
                nodes.append(helper.make_node("Mul", [name, "tf32_split"], [f"{new}_big"]))
                nodes.append(helper.make_node("Sub", [f"{new}_big", name], [f"{new}_rest"]))
                nodes.append(helper.make_node("Sub", [f"{new}_big", f"{new}_rest"], [new]))
                node.input[k] = new
            elif name not in done:
                done.add(name)
                values = rounded(numpy_helper.to_array(weights[name]))
                weights[name].CopyFrom(numpy_helper.from_array(values, name))
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
