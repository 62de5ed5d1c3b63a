"""The exact prior as ONNX, node by node: only MatMul, Add, Mul by powers of two, Floor, Clip and data movement.

Written out instead of traced, because exactness rests on precisely these operators. Latents travel NHWC; a
checkerboard half is packed as (N, H / 2, 2, W / 2, C): row pair, row in the pair, column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from vaert.trainer.models.prior import CONTEXT_MAX, HIDDEN_MAX, MEAN_MAX, SCALES, IntegerLayer

OPSET, IR_VERSION = 20, 10


class _Graph:
    """Nodes and initialisers in the making. Every method returns the name of the tensor it made."""

    def __init__(self, name: str) -> None:
        self.name, self.nodes, self.constants = name, list[onnx.NodeProto](), dict[str, onnx.TensorProto]()

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def op(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def clip(self, x: str, low: float, high: float, output: str) -> str:
        bounds = [
            self.constant(f"{output}_{side}", np.array(v, np.float32)) for side, v in (("low", low), ("high", high))
        ]
        return self.op("Clip", [x, *bounds], output)

    def slice(self, x: str, ranges: Mapping[int, tuple[int, int, int]], output: str) -> str:
        """Start, end and step per axis."""
        columns = [list(ranges), *zip(*ranges.values(), strict=True)]
        names = [self.constant(f"{output}_{n}", np.array(v, np.int64)) for n, v in zip("asek", columns, strict=True)]
        axes, starts, ends, steps = names
        return self.op("Slice", [x, starts, ends, axes, steps], output)

    def shift(self, x: str, axis: int, by: int, output: str) -> str:
        """The rank-5 tensor moved by one along an axis; a zero comes in."""
        pads = np.zeros(10, np.int64)
        pads[axis if by > 0 else 5 + axis] = 1
        padded = self.op("Pad", [x, self.constant(f"{output}_pads", pads)], f"{output}_padded")
        return self.slice(padded, {axis: (0, -1, 1) if by > 0 else (1, END, 1)}, output)

    def linear(self, x: str, layer: IntegerLayer, name: str) -> str:
        """floor((x @ weight + bias) * 2^-shift), not yet clamped."""
        weight = self.constant(f"{name}_weight", layer.weight.T.astype(np.float32))
        bias = self.constant(f"{name}_bias", layer.bias.astype(np.float32))
        scale = self.constant(f"{name}_scale", np.exp2(-layer.shift.astype(np.float32)))
        y = self.op("Add", [self.op("MatMul", [x, weight], f"{name}_product"), bias], f"{name}_sum")
        return self.op("Floor", [self.op("Mul", [y, scale], f"{name}_scaled")], f"{name}_floor")

    def hidden(self, x: str, layer: IntegerLayer, name: str) -> str:
        return self.clip(self.linear(x, layer, name), 0, HIDDEN_MAX, name)

    def moments(self, x: str, layer: IntegerLayer, name: str) -> None:
        """Outputs `mean` (int32, sixteenths) and `index` (uint8)."""
        m = len(layer.bias) // 2
        for output, rows, low, high, kind in (
            ("mean", slice(0, m), -MEAN_MAX, MEAN_MAX, TensorProto.INT32),
            ("index", slice(m, None), 0, SCALES - 1, TensorProto.UINT8),
        ):
            part = IntegerLayer(layer.weight[rows], layer.bias[rows], layer.shift[rows])
            value = self.clip(self.linear(x, part, f"{name}_{output}"), low, high, f"{name}_{output}")
            self.op("Cast", [value], output, to=kind)

    def model(self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, self.name, list(inputs), list(outputs), list(self.constants.values()))
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="vaert")
        onnx.checker.check_model(model, full_check=True)
        return model


END = np.iinfo(np.int64).max


def _info(name: str, kind: int, shape: Sequence[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def anchor_graph(layers: Mapping[str, IntegerLayer]) -> onnx.ModelProto:
    """Step 0: `z` int32 (N, H/4, W/4, hyper) -> `features` float32 (N, H, W, hidden), anchors' `mean` and `index`."""
    g = _Graph("prior_anchor")
    x = g.op("Cast", ["z"], "z_float", to=TensorProto.FLOAT)
    for name in ("h1", "h2"):
        x = g.hidden(x, layers[name], name)
        x = g.op("Transpose", [x], f"{name}_planar", perm=[0, 3, 1, 2])
        x = g.op("DepthToSpace", [x], f"{name}_larger", blocksize=2, mode="CRD")
        x = g.op("Transpose", [x], "features" if name == "h2" else f"{name}_rows", perm=[0, 2, 3, 1])
    packed = _packed(g, x, (0, 1))
    g.moments(g.hidden(packed, layers["a0"], "a0"), layers["o0"], "o0")
    hidden, m = len(layers["h2"].bias) // 4, len(layers["o0"].bias) // 2
    return g.model(
        [_info("z", TensorProto.INT32, ("batch", "hyper_height", "hyper_width", layers["h1"].weight.shape[1]))],
        [_info("features", TensorProto.FLOAT, ("batch", "height", "width", hidden)), *_moment_infos(m)],
    )


def context_graph(layers: Mapping[str, IntegerLayer], context_shift: npt.NDArray[np.uint8]) -> onnx.ModelProto:
    """Step 1: `features` and the decoded `anchors` (int32 sixteenths, packed) -> `mean`, `index` of the rest."""
    g = _Graph("prior_context")
    keep = g.constant("context_scale", np.exp2(-context_shift.astype(np.float32)))
    x = g.op("Mul", [g.op("Cast", ["anchors"], "anchors_float", to=TensorProto.FLOAT), keep], "anchors_scaled")
    x = g.op("Add", [x, g.constant("one_half", np.array(0.5, np.float32))], "anchors_half")
    x = g.clip(g.op("Floor", [x], "anchors_floor"), -CONTEXT_MAX, CONTEXT_MAX, "seen")
    even, odd = g.slice(x, {2: (0, 1, 1)}, "even"), g.slice(x, {2: (1, 2, 1)}, "odd")
    # Above, below, left, right of the elements that are not anchors, for the even and the odd row of each pair.
    above = g.op("Concat", [g.shift(odd, 1, 1, "odd_above"), even], "above", axis=2)
    below = g.op("Concat", [odd, g.shift(even, 1, -1, "even_below")], "below", axis=2)
    left = g.op("Concat", [even, g.shift(odd, 3, 1, "odd_before")], "left", axis=2)
    right = g.op("Concat", [g.shift(even, 3, -1, "even_after"), odd], "right", axis=2)
    x = g.op("Concat", [above, below, left, right], "neighbours", axis=4)
    x = g.op("Concat", [_packed(g, "features", (1, 0)), g.hidden(x, layers["near"], "near")], "context", axis=4)
    g.moments(g.hidden(x, layers["a1"], "a1"), layers["o1"], "o1")
    hidden, m = len(layers["near"].bias), len(context_shift)
    return g.model(
        [
            _info("features", TensorProto.FLOAT, ("batch", "height", "width", hidden)),
            _info("anchors", TensorProto.INT32, ("batch", "row_pairs", 2, "columns", m)),
        ],
        _moment_infos(m),
    )


def _packed(g: _Graph, x: str, columns: tuple[int, int]) -> str:
    """One checkerboard half of (N, H, W, C): in even rows from column columns[0], in odd rows from columns[1]."""
    rows = []
    for row, column in enumerate(columns):
        part = g.slice(x, {1: (row, END, 2), 2: (column, END, 2)}, f"packed_{row}")
        rows.append(g.op("Unsqueeze", [part, g.constant(f"axis_{row}", np.array([2], np.int64))], f"packed_{row}_pair"))
    return g.op("Concat", rows, "packed", axis=2)


def _moment_infos(m: int) -> list[onnx.ValueInfoProto]:
    shape = ("batch", "row_pairs", 2, "columns", m)
    return [_info("mean", TensorProto.INT32, shape), _info("index", TensorProto.UINT8, shape)]
