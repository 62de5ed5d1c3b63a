"""Packages hold weights once: graphs refer to `weights.safetensors`."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vaert.errors import ModelError
from vaert.export.shared_weights import read_weights, share, uses_weights, weights_file
from vaert.package import WEIGHTS, Package, bundled_models, find_package
from vaert.runtime.backends import OnnxRuntimeCpu

RNG = np.random.default_rng(0)
LARGE, SMALL, OTHER = (RNG.normal(size=n).astype(np.float16) for n in ((20, 20), (3, 3), (30, 10)))


def graph(**initializers: np.ndarray) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.ascontiguousarray(a, np.float32), name) for name, a in initializers.items()]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [20, 20])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [20, 20])
    return helper.make_model(helper.make_graph(nodes, "g", [value], [result], tensors))


def test_only_large_equal_tensors_are_shared(tmp_path: Path) -> None:
    weights = weights_file({"small": SMALL, "large": LARGE, "other": OTHER})
    model = graph(w=LARGE, few=SMALL, changed=OTHER + np.float16(1), turned=OTHER.T)
    share([model], weights)
    external = [t.name for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    assert external == ["w"]
    assert uses_weights(model)
    (tmp_path / WEIGHTS).write_bytes(weights)
    (tmp_path / "g.onnx").write_bytes(model.SerializeToString())
    again = onnx.load(tmp_path / "g.onnx")  # onnx itself reads the range of bytes
    found = {t.name: numpy_helper.to_array(t) for t in again.graph.initializer}
    assert np.array_equal(found["w"], LARGE.astype(np.float32))


def test_graphs_of_other_weights_are_left_alone() -> None:
    model = graph(w=LARGE)
    share([model], weights_file({"large": -LARGE}))
    assert not uses_weights(model)


def test_a_package_whose_weights_changed_is_refused(tmp_path: Path) -> None:
    bundled = find_package("mnist-mlp")
    for file in bundled.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = bytearray((tmp_path / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(data)
    with pytest.raises(ModelError, match=rf"{WEIGHTS} is damaged: its SHA-256"):
        OnnxRuntimeCpu().load(Package.open(tmp_path), "decoder")


@pytest.mark.parametrize("name", [n for n in bundled_models() if n.startswith(("mnist-c", "mnist-m", "up", "restore"))])
def test_bundled_models_hold_their_weights_once(name: str) -> None:
    package = find_package(name)
    graphs = sum((package.path / f"{graph}.onnx").stat().st_size for graph in package.manifest.graphs)
    assert graphs < 300_000
    assert all(facts["files"] == [WEIGHTS] for facts in package.manifest.graphs.values())
    assert all(w.dtype == np.float16 for w in read_weights(package).values())
