"""What a GPU itself can do: chains of matrix products on its tensor cores, and copies within its memory.

A chain stays on the device: its only input is one number and its output one row, so that no transfer counts. It is a
package of one graph, which every backend loads like a model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._suite import NotMeasured
from vaert.package import FORMAT, MANIFEST, Manifest, Package

GRAPH = "products"
PRECISIONS = ("fp32", "fp16", "int8")
TOLERANCE = {"fp32": 0.001, "fp16": 0.05, "int8": 0.25}  # relative, of the whole row
ACTIVATION_SCALE, WEIGHT_LEVELS = 5 / 127, 127  # entries are about N(0, 1)
COPY_BYTES = 1 << 28
NO_INT8 = "ONNX Runtime's CUDA provider multiplies no 8-bit matrices: only TensorRT does"


@dataclass(frozen=True)
class Chain:
    """`length` products of a `side` x `side` matrix, all of whose entries are the input, with one matrix of weights."""

    side: int = 4096
    length: int = 16

    @property
    def multiply_adds(self) -> int:
        """Of one run."""
        return self.length * self.side**3

    def weight(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Entries of variance 1 / side, so that rows keep their norm; on 255 levels, which int8 has as well."""
        normal = np.random.default_rng(0).standard_normal((self.side, self.side), np.float32)
        levels = np.clip(np.rint(normal * (WEIGHT_LEVELS / 4)), -WEIGHT_LEVELS, WEIGHT_LEVELS)
        made: np.ndarray[Any, np.dtype[np.float32]] = (levels * self.weight_scale()).astype(np.float32)
        return made

    def weight_scale(self) -> float:
        """Of one level."""
        return float(4 / WEIGHT_LEVELS / self.side**0.5)

    def expected(self, value: float) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Every row of the result."""
        row, weight = np.full(self.side, value), self.weight().astype(np.float64)
        for _ in range(self.length):
            row = row @ weight
        return row

    def package(self, folder: Path, precision: str) -> Package:
        """Write the chain as a package."""
        data = self.graph(precision)
        folder.mkdir(parents=True)
        (folder / f"{GRAPH}.onnx").write_bytes(data)
        ends = {
            "inputs": [{"name": "value", "type": "float", "shape": [1, 1]}],
            "outputs": [{"name": "row", "type": "float", "shape": [1, self.side]}],
        }
        manifest = Manifest(
            name=f"{GRAPH}-{precision}",
            kind=GRAPH,
            version=FORMAT,
            profile=GRAPH,
            precision=precision,
            model_id=0,
            config={},
            geometry={},
            graphs={GRAPH: ends},
            rates={},
            training={},
            verification={},
            licence="",
            files={f"{GRAPH}.onnx": hashlib.sha256(data).hexdigest()},
        )
        (folder / MANIFEST).write_text(manifest.to_json(), "utf-8")
        return Package.open(folder)

    def graph(self, precision: str) -> bytes:
        """ONNX of the chain; int8 as quantised and dequantised operands, which TensorRT fuses."""
        from onnx import TensorProto, helper, numpy_helper

        dtype = np.float16 if precision == "fp16" else np.float32
        shape = numpy_helper.from_array(np.array([self.side, self.side], np.int64), "shape")
        stored, nodes, x, w = [shape], [], "value", "w"
        if precision == "int8":
            weight = np.rint(self.weight() / self.weight_scale()).astype(np.int8)
            stored += [numpy_helper.from_array(weight, "w8"), *_scales(self.weight_scale())]
            nodes.append(helper.make_node("DequantizeLinear", ["w8", "w_scale", "zero"], ["w"]))
        else:
            stored.append(numpy_helper.from_array(self.weight().astype(dtype), "w"))
        if precision == "fp16":
            nodes.append(helper.make_node("Cast", [x], ["half"], to=TensorProto.FLOAT16))
            x = "half"
        nodes.append(helper.make_node("Expand", [x, "shape"], ["x0"]))
        for number in range(self.length):
            x = f"x{number}"
            if precision == "int8":
                nodes.append(helper.make_node("QuantizeLinear", [x, "x_scale", "zero"], [f"q{number}"]))
                nodes.append(helper.make_node("DequantizeLinear", [f"q{number}", "x_scale", "zero"], [f"d{number}"]))
                x = f"d{number}"
            nodes.append(helper.make_node("MatMul", [x, w], [f"x{number + 1}"]))
        stored.append(numpy_helper.from_array(np.array([0], np.int64), "rows"))
        nodes.append(helper.make_node("ReduceMean", [f"x{self.length}", "rows"], ["mean"], keepdims=1))
        nodes.append(helper.make_node("Cast", ["mean"], ["row"], to=TensorProto.FLOAT))
        ends = [
            helper.make_tensor_value_info("value", TensorProto.FLOAT, [1, 1]),
            helper.make_tensor_value_info("row", TensorProto.FLOAT, [1, self.side]),
        ]
        graph = helper.make_graph(nodes, GRAPH, ends[:1], ends[1:], stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        return bytes(model.SerializeToString())

    def right(self, row: np.ndarray[Any, Any], precision: str, value: float = 1.0) -> bool:
        """Whether a result is what it should be, within what the precision loses."""
        wanted = self.expected(value)
        error = np.linalg.norm(row.astype(np.float64).ravel() - wanted) / np.linalg.norm(wanted)
        return bool(error <= TOLERANCE[precision])


def _scales(weight_scale: float) -> list[Any]:
    from onnx import numpy_helper

    values = {"w_scale": np.float32(weight_scale), "x_scale": np.float32(ACTIVATION_SCALE), "zero": np.int8(0)}
    return [numpy_helper.from_array(np.array(value), name) for name, value in values.items()]


def refuse(backend: str, precision: str) -> None:
    """NotMeasured for what a backend has no kernels for."""
    if backend == "cuda" and precision == "int8":
        raise NotMeasured(NO_INT8)


@contextmanager
def device_copy(size: int = COPY_BYTES) -> Iterator[Callable[[], None]]:
    """A function that copies `size` bytes from one place of the first GPU's memory to another, and waits."""
    import pycuda.driver as driver

    from vaert.runtime.backends.cuda import Device, DeviceMemory

    with Device(0).current():
        source, target = DeviceMemory(size), DeviceMemory(size)
        try:

            def copy() -> None:
                driver.memcpy_dtod(target.address, source.address, size)
                driver.Context.synchronize()

            yield copy
        finally:
            source.free()
            target.free()
