"""Every fault that TensorRT's parser would refuse is found in planted graphs, and none is in what is bundled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vaert.export.tensorrt_lint import lint
from vaert.package import BUNDLED, TENSORRT_FLAVOUR, bundled_models, find_package

HALVES = np.array(0.5, np.float32)
FLOAT, HALF, INT8, INT32, INT64 = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT8,
    TensorProto.INT32,
    TensorProto.INT64,
)
UINT8, BOOL, DOUBLE = TensorProto.UINT8, TensorProto.BOOL, TensorProto.DOUBLE
PICTURE = (1, 8, 4, 6)
Constants = Mapping[str, npt.NDArray[Any]]


def f32(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


def f16(*values: float) -> npt.NDArray[np.float16]:
    return np.array(values, np.float16)


def i64(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, np.int64)


def zeros(dtype: str, count: int = 1) -> npt.NDArray[Any]:
    return np.zeros(count, dtype).squeeze()


class Made:
    """A graph in the making: x comes in, y goes out."""

    def __init__(self, x: int = FLOAT, y: int = FLOAT, *, shape: tuple[int | str, ...] = PICTURE) -> None:
        self.inputs = [helper.make_tensor_value_info("x", x, shape)]
        self.outputs = [helper.make_tensor_value_info("y", y, None)]
        self.nodes, self.constants, self.opset = list[onnx.NodeProto](), list[onnx.TensorProto](), 20

    def add(
        self, op: str, inputs: str, output: str = "y", constants: Constants | None = None, **attributes: Any
    ) -> Made:
        """A node named as its first output; inputs and outputs by name, with blanks between them."""
        names = ["" if name == "-" else name for name in inputs.split()]
        self.nodes.append(
            helper.make_node(op, names, output.split(), name=f"node_{output.split(maxsplit=1)[0]}", **attributes)
        )
        self.constants += [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
        return self

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "made", self.inputs, self.outputs, self.constants)
        return helper.make_model(graph, opset_imports=self.opsets, ir_version=10)

    @property
    def opsets(self) -> list[onnx.OperatorSetIdProto]:
        others = sorted({node.domain for node in self.nodes} - {""})
        return [helper.make_opsetid("", self.opset), *(helper.make_opsetid(domain, 1) for domain in others)]

    def found(self) -> list[str]:
        return lint(self.model(), graph="made")


def quantised(
    scale: npt.NDArray[Any], zero: npt.NDArray[Any], *, x: int = FLOAT, y: int = FLOAT, shape: tuple[int, ...] = PICTURE
) -> Made:
    """x, quantised and back, both with one scale and zero point."""
    made = Made(x, y, shape=shape).add("QuantizeLinear", "x s z", "q", {"s": scale, "z": zero})
    return made.add("DequantizeLinear", "q s z")


def resized(scales: npt.NDArray[Any] | None = None, **attributes: Any) -> Made:
    return Made().add(
        "Resize", "x - scales", constants={"scales": f32(1, 1, 2, 2) if scales is None else scales}, **attributes
    )


def weights(dtype: type[np.generic] = np.float32) -> npt.NDArray[Any]:
    return np.ones((3, 8, 1, 1), dtype)


def with_opset(opset: int) -> Made:
    made = Made().add("Relu", "x")
    made.opset = opset
    return made


def of_another_domain() -> Made:
    made = Made().add("Relu", "x")
    made.nodes[0].domain = "com.microsoft"
    return made


def branches() -> Made:
    body = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["inner"])],
        "body",
        [],
        [helper.make_tensor_value_info("inner", FLOAT, PICTURE)],
    )
    return Made().add("If", "c", constants={"c": np.array(True)}, then_branch=body, else_branch=body)


GOOD = {
    "pixels in and out": Made(UINT8, UINT8)
    .add("Cast", "x", "a", to=FLOAT)
    .add("Relu", "a", "b")
    .add("Cast", "b", to=UINT8),
    "float16 inside": Made(UINT8)
    .add("Cast", "x", "a", to=HALF)
    .add("Conv", "a w", "b", {"w": weights(np.float16)})
    .add("Cast", "b", to=FLOAT),
    "float16 resized by float32 scales": Made(HALF, HALF).add(
        "Resize", "x - s", constants={"s": f32(1, 1, 2, 2)}, mode="linear"
    ),
    "nearest": resized(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    "int8": quantised(HALVES, zeros("int8")),
    "int8 per channel": quantised(f32(*[0.5] * 8), zeros("int8", 8)),
    "int8 and float16": quantised(f16(0.5).squeeze(), zeros("int8"), x=HALF, y=HALF),
    "float bias": quantised(HALVES, zeros("int8")).add("Conv", "y w b", "c", {"w": weights(), "b": f32(1, 2, 3)}),
    "shapes in int64": Made().add("Shape", "x", "s").add("Reshape", "x s"),
    "integers": Made(INT32, INT32).add(
        "Clip", "x low high", constants={"low": np.array(0, np.int32), "high": np.array(9, np.int32)}
    ),
    "mod of integers": Made(INT64, INT64).add("Mod", "x n", constants={"n": i64(4)}),
    "constants as nodes": Made().add("Constant", "", "n", value=numpy_helper.from_array(f32(2))).add("Mul", "x n"),
    "int64 to float": Made(INT64).add("Cast", "x", to=FLOAT),
    "bool": Made(FLOAT).add("Cast", "x", "b", to=BOOL).add("Not", "b", "n").add("Where", "n x x"),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_tensorrt_takes_has_no_findings(name: str) -> None:
    onnx.shape_inference.infer_shapes(GOOD[name].model(), check_type=True, strict_mode=True)
    assert GOOD[name].found() == []


BAD: dict[str, tuple[Made, str]] = {
    "operator": (
        Made().add("CenterCropPad", "x s", constants={"s": i64(1, 8, 2, 2)}),
        "node_y (CenterCropPad): an operator that",
    ),
    "integer convolution": (
        Made(INT8, INT32).add("ConvInteger", "x w", constants={"w": np.ones((3, 8, 1, 1), np.int8)}),
        "node_y (ConvInteger): an operator that",
    ),
    "domain": (of_another_domain(), "node_y (Relu): operator of domain com.microsoft"),
    "control flow": (branches(), "node_y (If): control flow"),
    "opset": (with_opset(25), "opset 25; 9 to 24 is needed"),
    "old opset": (with_opset(8), "opset 8; 9 to 24 is needed"),
    "uint8 moved before the cast": (
        Made(UINT8).add("Transpose", "x", "t").add("Cast", "t", to=FLOAT),
        "node_t (Transpose): takes UINT8 x and gives UINT8 t; only a Cast may",
    ),
    "uint8 moved after the cast": (
        Made(FLOAT, UINT8).add("Cast", "x", "c", to=UINT8).add("Transpose", "c"),
        "node_c (Cast): gives UINT8 c, no network output",
    ),
    "uint8 constant": (
        Made().add("Cast", "n", "c", {"n": np.array(3, np.uint8)}, to=FLOAT).add("Mul", "x c"),
        "node_c (Cast): takes UINT8 n, no network input",
    ),
    "uint8 from int32": (
        Made(INT32, UINT8).add("Cast", "x", to=UINT8),
        "node_y (Cast): between UINT8 and INT32; FLOAT or FLOAT16",
    ),
    "uint8 to bool": (Made(UINT8, BOOL).add("Cast", "x", to=BOOL), "node_y (Cast): between UINT8 and BOOL"),
    "double": (Made(DOUBLE, DOUBLE).add("Relu", "x"), "x (network input or output): DOUBLE"),
    "double inside": (Made().add("Cast", "x", "d", to=DOUBLE).add("Cast", "d", to=FLOAT), "node_d (Cast): d is DOUBLE"),
    "int8 by cast": (Made(FLOAT, INT8).add("Cast", "x", to=INT8), "node_y (Cast): y is INT8"),
    "int32 convolution": (
        Made(INT32, INT32).add("Conv", "x w", constants={"w": weights(np.int32)}),
        "node_y (Conv): x is INT32; FLOAT",
    ),
    "int64 rounding": (
        Made(INT64, INT64).add("Floor", "x"),
        "node_y (Floor): x is INT64; FLOAT or FLOAT16 or BFLOAT16",
    ),
    "clip of bool": (Made(BOOL, BOOL).add("Clip", "x"), "node_y (Clip): x is BOOL"),
    "min of types": (
        Made().add("Cast", "x", "h", to=HALF).add("Min", "x h"),
        "node_y (Min): inputs of different types (x FLOAT, h FLOAT16)",
    ),
    "max of uint8": (Made(UINT8, UINT8).add("Max", "x x"), "node_y (Max): takes UINT8 x"),
    "float mod": (Made().add("Mod", "x n", constants={"n": f32(2)}), "node_y (Mod): fmod 0 on FLOAT"),
    "clip by other type": (
        Made(HALF, HALF).add("Clip", "x low", constants={"low": np.array(0, np.float32)}),
        "node_y (Clip): inputs of different types",
    ),
    "mixed floats": (
        Made(HALF, HALF).add("Conv", "x w", constants={"w": weights()}),
        "node_y (Conv): inputs of different types (x FLOAT16, w FLOAT)",
    ),
    "mixed bias": (
        Made().add("Conv", "x w b", constants={"w": weights(), "b": f16(1, 2, 3)}),
        "b FLOAT16); one type is needed, with a Cast",
    ),
    "mixed integers": (
        Made(INT64, INT64).add("Add", "x n", constants={"n": np.array(3, np.int32)}),
        "(x INT64, n INT32)",
    ),
    "mixed pad": (
        Made(HALF, HALF).add("Pad", "x p v", constants={"p": i64(*[0] * 8), "v": np.array(1, np.float32)}),
        "(x FLOAT16, v FLOAT)",
    ),
    "cubic": (resized(mode="cubic"), "node_y (Resize): mode cubic; nearest or linear is needed"),
    "cropping": (
        resized(mode="linear", coordinate_transformation_mode="tf_crop_and_resize"),
        "coordinate_transformation_mode tf_crop_and_resize",
    ),
    "antialias": (resized(mode="linear", antialias=1), "antialias 1; 0 is needed"),
    "aspect": (resized(keep_aspect_ratio_policy="not_larger"), "keep_aspect_ratio_policy not_larger; stretch"),
    "some axes": (resized(f32(2, 2), axes=[2, 3]), "axes [2, 3] with scales; all of 0 to 3"),
    "scales of float16": (resized(f16(1, 1, 2, 2)), "scales scales are FLOAT16; FLOAT is needed"),
    "zero point": (
        quantised(HALVES, np.array(3, np.int8)),
        "node_q (QuantizeLinear): zero point z holds values from 3 to 3; all zeros",
    ),
    "uint8 zero point": (
        quantised(HALVES, zeros("uint8")),
        "node_q (QuantizeLinear): q is UINT8; INT8 is needed, with an INT8",
    ),
    "no zero point": (
        Made(FLOAT, UINT8).add("QuantizeLinear", "x s", constants={"s": f32(1)}),
        "node_y (QuantizeLinear): y is UINT8; INT8",
    ),
    "int32 bias": (
        Made()
        .add("DequantizeLinear", "b s", "f", {"b": np.ones(8, np.int32), "s": f32(1).squeeze()})
        .add("Conv", "x w f", constants={"w": np.ones((8, 8, 1, 1), np.float32)}),
        "node_f (DequantizeLinear): b is INT32; INT8 is needed, with an INT8 zero point, so the bias must stay float",
    ),
    "scale of another type": (
        quantised(HALVES, zeros("int8"), x=HALF),
        "node_q (QuantizeLinear): scale s is FLOAT, but x FLOAT16",
    ),
    "surroundings of another type": (
        quantised(HALVES, zeros("int8")).add("Conv", "y w", "c", {"w": weights(np.float16)}),
        "node_c (Conv): inputs of different types (y FLOAT, w FLOAT16)",
    ),
    "negative scale": (
        quantised(f32(-1).squeeze(), zeros("int8")),
        "scale s holds values from -1.0 to -1.0; all must be positive",
    ),
    "too few scales": (quantised(f32(1, 1, 1), zeros("int8", 3)), "3 scales for axis 1 of x, which has 8"),
    "computed scale": (
        Made(FLOAT, INT8)
        .add("ReduceMax", "x", "s", keepdims=0)
        .add("QuantizeLinear", "x s z", constants={"z": zeros("int8")}),
        "node_y (QuantizeLinear): scale s is computed; an initializer",
    ),
    "scatter": (
        Made().add(
            "ScatterND",
            "x i u",
            constants={"i": i64(0).reshape(1, 1), "u": np.ones((1, 8, 4, 6), np.float32)},
            reduction="add",
        ),
        "node_y (ScatterND): reduction add; none is needed",
    ),
    "rank": (
        Made(shape=(1, 2, 3)).add("GridSample", "x g", constants={"g": np.zeros((1, 2, 1), np.float32)}),
        "rank 3; rank 4 is needed",
    ),
    "pooling in one dimension": (
        Made(shape=(1, 2, 9)).add("MaxPool", "x", kernel_shape=[2]),
        "a window of 1 dimensions; 2 or 3",
    ),
    "dilated pooling": (Made().add("MaxPool", "x", kernel_shape=[2, 2], dilations=[2, 2]), "dilations [2, 2]; none"),
    "indices of pooling": (
        Made().add("MaxPool", "x", "y i", kernel_shape=[2, 2]),
        "gives i as well; only the first output",
    ),
    "computed axes": (
        Made().add("Shape", "x", "s", start=0, end=1).add("ReduceMean", "x s"),
        "node_y (ReduceMean): input s is computed; an initializer",
    ),
    "top k": (Made(shape=(1, 9000)).add("TopK", "x k", "y i", {"k": i64(4000)}), "K 4000; below 3840 is needed"),
}


@pytest.mark.parametrize("name", BAD)
def test_planted_faults_are_found(name: str) -> None:
    made, text = BAD[name]
    found = made.found()
    assert any(text in line for line in found), found
    assert all(line.startswith("made: ") and "\n" not in line and "; " in line for line in found)


def test_depth_to_space_of_another_rank() -> None:
    model = Made().add("DepthToSpace", "x", blocksize=2).model()
    assert lint(model, graph="g") == []
    model.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 1
    assert "g: node_y (DepthToSpace): rank 5; rank 4 is needed" in lint(model, graph="g")


def test_a_pad_mode_of_the_future() -> None:
    made = Made().add("Pad", "x p", constants={"p": i64(*[1] * 8)}, mode="mirror")
    assert made.found() == ["made: node_y (Pad): mode mirror; constant or reflect or edge or wrap is needed"]


def test_a_function_of_the_model_is_named() -> None:
    model = Made().add("Relu", "x").model()
    model.functions.add(name="twice", domain="here")
    assert "made: function twice; write its operators out" in lint(model, graph="made")


def test_values_in_another_file_are_not_taken_for_right() -> None:
    model = quantised(HALVES, zeros("int8")).model()
    (scale,) = (tensor for tensor in model.graph.initializer if tensor.name == "s")
    scale.data_location = TensorProto.EXTERNAL
    scale.external_data.add(key="location", value="weights.safetensors")
    found = lint(model, graph="made")
    assert any("scale s lies in another file and cannot be checked; load it" in line for line in found)


GRAPHS = [
    f"{model}/{package.graph_file(name, TENSORRT_FLAVOUR)}"
    for model in bundled_models()
    for package in (find_package(model),)
    for name in package.manifest.graphs
]


def bundled(graph: str) -> list[str]:
    return lint(onnx.load(BUNDLED / graph), graph=graph)


def test_there_are_bundled_graphs() -> None:
    assert len(GRAPHS) > 20


@pytest.mark.parametrize("graph", GRAPHS)
def test_bundled_graphs_pass(graph: str) -> None:
    assert bundled(graph) == []
