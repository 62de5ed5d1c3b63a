"""What TensorRT's parser would refuse in a graph, found without TensorRT.

Operators and types: onnx-tensorrt, docs/operators.md of 10.15. UINT8, zero points, scales and ranks: the importers of
that version (ModelImporter.cpp, onnxOpImporters.cpp). Networks are strongly typed, so nothing is cast behind our back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = range(9, 25)
_FLOAT = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_NUMBER = _FLOAT | {TensorProto.INT32, TensorProto.INT64}
_ANY = _NUMBER | {TensorProto.BOOL}
_PORTS = _ANY | {TensorProto.UINT8}
_UINT8_PARTNERS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})  # NvInferRuntime.h, DataType::kUINT8

_TABLE: tuple[tuple[frozenset[int], str], ...] = (
    (
        _FLOAT,
        "Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Conv ConvTranspose Cos Cosh CumSum "
        "Einsum Elu Erf Exp Floor Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization HardSigmoid "
        "HardSwish Hardmax InstanceNormalization IsInf LRN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization "
        "LpPool MatMul MaxPool MeanVarianceNormalization PRelu QuantizeLinear RMSNormalization Reciprocal Resize Round "
        "Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu",
    ),
    (_FLOAT - {TensorProto.BFLOAT16}, "GridSample Mish NonZero"),
    (
        _NUMBER,
        "Abs Add ArgMax ArgMin Clip DepthToSpace Div Equal Gelu Greater GreaterOrEqual IsNaN Less LessOrEqual Max Mean "
        "Min Mod Mul Neg Pad Pow Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
        "ReduceProd ReduceSum ReduceSumSquare Relu ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum TopK",
    ),
    (
        _ANY,
        "Concat Constant ConstantOfShape Expand Flatten Gather GatherElements GatherND Identity OneHot Reshape Shape "
        "Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where",
    ),
    (frozenset({TensorProto.BOOL}), "And Not Or Xor"),
    (_PORTS, "Cast"),
    (frozenset({TensorProto.INT8}), "DequantizeLinear"),
)
_TYPES = {op: types for types, ops in _TABLE for op in ops.split()}
_BREAKS_GRAPHS = {"If", "Loop", "Scan"}  # TensorRT takes them, but CUDA graphs cannot be captured

# Which inputs are data, all of one type; for the others ONNX asks for other types. All inputs where nothing is said.
_FIRST = (
    "Cast ConstantOfShape CumSum DequantizeLinear Expand Gather GatherElements GatherND Pow QuantizeLinear Reshape "
    "Resize Slice Split Squeeze Tile TopK Trilu Unsqueeze"
)
_REDUCE = [op for op in _TYPES if op.startswith("Reduce")]
_DATA: dict[str, tuple[int, ...]] = {
    **dict.fromkeys([*_FIRST.split(), *_REDUCE], (0,)),
    "OneHot": (2,),
    "Pad": (0, 2),
    "ScatterElements": (0, 2),
    "ScatterND": (0, 2),
    "Where": (1, 2),
}
_CONSTANT = {"CumSum": 1, "Squeeze": 1, "Unsqueeze": 1, **dict.fromkeys(_REDUCE, 1)}
_RANK_4 = {"DepthToSpace", "SpaceToDepth", "GridSample"}
_RESIZE = {
    "mode": ("nearest", "linear"),
    "coordinate_transformation_mode": (
        "half_pixel",
        "pytorch_half_pixel",
        "tf_half_pixel_for_nn",
        "asymmetric",
        "align_corners",
    ),
    "nearest_mode": ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
    "keep_aspect_ratio_policy": ("stretch",),
    "antialias": (0,),
}
_RESIZE_DEFAULTS = {"mode": "nearest", "coordinate_transformation_mode": "half_pixel"}
_PAD_MODES = ("constant", "reflect", "edge", "wrap")
_TOPK_MAX = 3840


def lint(model: onnx.ModelProto, *, graph: str) -> list[str]:
    """What TensorRT 10.13 to 11 would refuse in a model that ONNX's checker accepts; an empty list if nothing.

    Each finding is a line `graph: node (operator): what was found; what TensorRT needs`. Values of zero points, scales
    and axes must be in the model or loaded into it.
    """
    tensors = _Tensors.of(model)
    found = [*_model(model), *_ports(model.graph)]
    for node in model.graph.node:
        label = f"{node.name or ', '.join(node.output)} ({node.op_type})"
        found += [f"{label}: {finding}" for finding in _node(_Node(node, tensors))]
    return [f"{graph}: {line}" for line in found]


@dataclass(frozen=True)
class _Tensors:
    """Types, ranks and constants of a graph's tensors by name, as far as they are known."""

    types: dict[str, int]
    shapes: dict[str, tuple[int | None, ...]]
    constants: dict[str, TensorProto]
    inputs: frozenset[str]
    outputs: frozenset[str]

    @staticmethod
    def of(model: onnx.ModelProto) -> _Tensors:
        graph = onnx.shape_inference.infer_shapes(model).graph
        types, shapes = dict[str, int](), dict[str, tuple[int | None, ...]]()
        for info in (*graph.value_info, *graph.input, *graph.output):
            tensor = info.type.tensor_type
            types[info.name] = tensor.elem_type
            if tensor.HasField("shape"):
                shapes[info.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
        constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
        for name, tensor in constants.items():
            types[name], shapes[name] = tensor.data_type, tuple(tensor.dims)
        names = (frozenset(info.name for info in infos) for infos in (graph.input, graph.output))
        return _Tensors(types, shapes, constants, *names)

    def values(self, name: str) -> npt.NDArray[Any] | None:
        """Of a constant, None where they are kept outside the model."""
        tensor = self.constants[name]
        external = tensor.data_location == TensorProto.EXTERNAL
        return None if external else np.asarray(numpy_helper.to_array(tensor))


@dataclass(frozen=True)
class _Node:
    """A node among its tensors."""

    proto: onnx.NodeProto
    tensors: _Tensors

    @property
    def op(self) -> str:
        return self.proto.op_type

    def attribute(self, name: str, default: Any = None) -> Any:
        """Value of an attribute, text as str."""
        for attribute in self.proto.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def input(self, index: int) -> str:
        """Name of an input, empty if it is left out."""
        return self.proto.input[index] if index < len(self.proto.input) else ""

    def kind(self, name: str) -> int:
        """Type of a tensor, UNDEFINED if it is not known."""
        return self.tensors.types.get(name, TensorProto.UNDEFINED)

    @property
    def data(self) -> list[str]:
        """Names of the inputs that hold data."""
        indices = _DATA.get(self.op, tuple(range(len(self.proto.input))))
        return [name for name in map(self.input, indices) if name]


def _model(model: onnx.ModelProto) -> Iterator[str]:
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version not in OPSETS:
            yield f"opset {opset.version}; {OPSETS[0]} to {OPSETS[-1]} is needed"
    yield from (f"function {function.name}; write its operators out" for function in model.functions)


def _ports(graph: onnx.GraphProto) -> Iterator[str]:
    for info in (*graph.input, *graph.output):
        if (kind := info.type.tensor_type.elem_type) not in _PORTS:
            yield f"{info.name} (network input or output): {_name(kind)}; {_names(_PORTS)} is needed"


def _node(node: _Node) -> Iterator[str]:
    """Findings of one node."""
    if node.proto.domain not in ("", "ai.onnx"):
        yield f"operator of domain {node.proto.domain}; TensorRT needs a plugin for it"
        return
    if node.op in _BREAKS_GRAPHS:
        yield "control flow, which no CUDA graph can hold; a graph without it is needed"
        return
    if node.op not in _TYPES:
        yield "an operator that TensorRT's parser does not have; express it with others"
        return
    for name in (*node.data, *node.proto.output):
        if name and not node.kind(name):
            yield f"the type of {name} cannot be inferred; it must be known"
    yield from _uint8(node)
    yield from _types(node)
    if (index := _CONSTANT.get(node.op)) is not None:
        name = node.input(index)
        if name and name not in node.tensors.constants:
            yield f"input {name} is computed; an initializer is needed"
    if node.op in _RANK_4:
        shape = node.tensors.shapes.get(node.input(0))
        if shape is not None and len(shape) != 4:
            yield f"rank {len(shape)}; rank 4 is needed"
    if rule := _RULES.get(node.op):
        yield from rule(node)


def _uint8(node: _Node) -> Iterator[str]:
    """UINT8 comes in only as network input straight into Cast, and goes out only straight from Cast."""
    uint8 = TensorProto.UINT8
    taken = [name for name in node.proto.input if node.kind(name) == uint8]
    given = [name for name in node.proto.output if node.kind(name) == uint8]
    if node.op in ("QuantizeLinear", "DequantizeLinear"):
        return  # their own rules say more
    if node.op != "Cast":
        if taken or given:
            what = [f"{verb} UINT8 {', '.join(n)}" for verb, n in (("takes", taken), ("gives", given)) if n]
            yield f"{' and '.join(what)}; only a Cast may, from a network input or to a network output"
        return
    for name in taken:
        if name not in node.tensors.inputs:
            yield f"takes UINT8 {name}, no network input; UINT8 is only for network inputs and outputs"
    for name in given:
        if name not in node.tensors.outputs:
            yield f"gives UINT8 {name}, no network output; UINT8 is only for network inputs and outputs"


def _types(node: _Node) -> Iterator[str]:
    allowed = _TYPES[node.op]
    outputs = node.proto.output if node.op in ("Constant", "ConstantOfShape", "Cast") else ()
    kinds = {name: node.kind(name) for name in (*node.data, *outputs) if node.kind(name)}
    for name, kind in kinds.items():
        if kind not in allowed and kind != TensorProto.UINT8 and node.op != "DequantizeLinear":
            yield f"{name} is {_name(kind)}; {_names(allowed)} is needed"
    data = {kinds[name] for name in node.data if name in kinds}
    if len(data) > 1:
        which = ", ".join(f"{name} {_name(kinds[name])}" for name in node.data if name in kinds)
        yield f"inputs of different types ({which}); one type is needed, with a Cast in front"


def _cast(node: _Node) -> Iterator[str]:
    pair = {node.kind(node.input(0)), node.kind(node.proto.output[0])}
    others = pair - {TensorProto.UINT8, TensorProto.UNDEFINED} - _UINT8_PARTNERS
    if TensorProto.UINT8 in pair and others:
        yield f"between UINT8 and {_names(others)}; {_names(_UINT8_PARTNERS)} is needed beside UINT8"


def _quantisation(node: _Node) -> Iterator[str]:
    """QuantizeLinear and DequantizeLinear: symmetric INT8, positive constant scales of the surroundings' type."""
    data, scale, zero = (node.input(i) for i in range(3))
    wide, narrow = data, node.proto.output[0]
    if node.op == "DequantizeLinear":
        wide, narrow = narrow, wide
    if (kind := node.kind(narrow)) != TensorProto.INT8:
        hint = ", so the bias must stay float" if kind == TensorProto.INT32 else ""
        yield f"{narrow} is {_name(kind)}; INT8 is needed, with an INT8 zero point{hint}"
    if zero and node.kind(zero) not in (TensorProto.INT8, kind):
        yield f"zero point {zero} is {_name(node.kind(zero))}; INT8 is needed"
    if node.kind(scale) != node.kind(wide):
        yield f"scale {scale} is {_name(node.kind(scale))}, but {wide} {_name(node.kind(wide))}; one type is needed"
    for name, what, right in ((scale, "scale", lambda v: v > 0), (zero, "zero point", lambda v: v == 0)):
        yield from _constant(node, name, what, right)
    shape, scales = node.tensors.shapes.get(data), node.tensors.shapes.get(scale, ())
    count, axis = math.prod(n or 0 for n in scales), node.attribute("axis", 1)
    if count > 1 and shape is not None:
        along = shape[axis] if -len(shape) <= axis < len(shape) else None
        if along != count or len(scales) != 1:
            yield f"{count} scales for axis {axis} of {data}, which has {along}; as many are needed, in one row"


def _constant(node: _Node, name: str, what: str, right: Callable[[Any], Any]) -> Iterator[str]:
    if not name:
        return
    if name not in node.tensors.constants:
        yield f"{what} {name} is computed; an initializer is needed"
    elif (values := node.tensors.values(name)) is None:
        yield f"{what} {name} lies in another file and cannot be checked; load it into the model"
    elif not np.all(right(values.astype(np.float64))):
        wanted = "all zeros are needed (symmetric quantisation)" if what == "zero point" else "all must be positive"
        yield f"{what} {name} holds values from {values.min()} to {values.max()}; {wanted}"


def _resize(node: _Node) -> Iterator[str]:
    for name, allowed in _RESIZE.items():
        value = node.attribute(name, _RESIZE_DEFAULTS.get(name, allowed[0]))
        if value not in allowed:
            yield f"{name} {value}; {' or '.join(map(str, allowed))} is needed"
    scales = node.input(2)
    if scales and node.kind(scales) != TensorProto.FLOAT:
        yield f"scales {scales} are {_name(node.kind(scales))}; FLOAT is needed, whatever the data is"
    axes, shape = node.attribute("axes"), node.tensors.shapes.get(node.input(0), ())
    if scales and axes is not None and list(axes) != list(range(len(shape))):
        yield f"axes {list(axes)} with scales; all of 0 to {len(shape) - 1} in order are needed"


def _mod(node: _Node) -> Iterator[str]:
    kind = node.kind(node.input(0))
    if kind in _FLOAT and not node.attribute("fmod", 0):
        yield f"fmod 0 on {_name(kind)}; INT32 or INT64 is needed, or fmod 1"


def _scatter(node: _Node) -> Iterator[str]:
    if (reduction := node.attribute("reduction", "none")) != "none":
        yield f"reduction {reduction}; none is needed"


def _pad(node: _Node) -> Iterator[str]:
    if (mode := node.attribute("mode", "constant")) not in _PAD_MODES:
        yield f"mode {mode}; {' or '.join(_PAD_MODES)} is needed"


def _pool(node: _Node) -> Iterator[str]:
    if any(d != 1 for d in node.attribute("dilations", ())):
        yield f"dilations {list(node.attribute('dilations'))}; none are needed"
    if len(node.attribute("kernel_shape", ())) not in (2, 3):
        yield f"a window of {len(node.attribute('kernel_shape', ()))} dimensions; 2 or 3 are needed"


def _one_output(node: _Node) -> Iterator[str]:
    if extra := [name for name in node.proto.output[1:] if name]:
        yield f"gives {', '.join(extra)} as well; only the first output is there"


def _max_pool(node: _Node) -> Iterator[str]:
    yield from _pool(node)
    yield from _one_output(node)


def _top_k(node: _Node) -> Iterator[str]:
    values = node.tensors.values(k) if (k := node.input(1)) in node.tensors.constants else None
    if values is not None and int(values.max()) >= _TOPK_MAX:
        yield f"K {int(values.max())}; below {_TOPK_MAX} is needed"
    if not node.attribute("sorted", 1):
        yield "sorted 0; sorted 1 is needed"


_RULES: dict[str, Callable[[_Node], Iterator[str]]] = {
    "AveragePool": _pool,
    "Cast": _cast,
    "DequantizeLinear": _quantisation,
    "LayerNormalization": _one_output,
    "LpPool": _pool,
    "MaxPool": _max_pool,
    "Mod": _mod,
    "Pad": _pad,
    "QuantizeLinear": _quantisation,
    "Resize": _resize,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "TopK": _top_k,
}


def _name(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind))


def _names(kinds: Any) -> str:
    return " or ".join(_name(kind) for kind in sorted(kinds))
