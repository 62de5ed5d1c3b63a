"""What every backend owes, with stand-ins for engines that break it."""

from __future__ import annotations

import hashlib
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaert import bitstream
from vaert.errors import BackendError, MissingExtraError, ModelError, OptionError
from vaert.image import read_image
from vaert.package import Package, find_package
from vaert.runtime.backends import Backend, OnnxRuntimeCpu, Runner, open_backend
from vaert.runtime.backends.base import Named
from vaert.runtime.codec import Codec

GRAPHS = ("encoder", "hyper_encoder", "decoder", "prior_anchor", "prior_context")
BACKENDS = [OnnxRuntimeCpu(threads=1), OnnxRuntimeCpu(threads=2, optimisation="none")]


@dataclass
class Wrong:
    """A backend that computes right but for one element of one output of one graph, which is off by one."""

    graph: str
    output: str
    name: str = "crooked"
    flavour: str = "cpu"

    def load(self, package: Package, graph: str) -> Runner:
        runner = OnnxRuntimeCpu(threads=1).load(package, graph)
        return WrongRunner(runner, self.output) if graph == self.graph else runner

    def close(self) -> None: ...


@dataclass(frozen=True)
class WrongRunner:
    runner: Runner
    output: str

    def run(self, inputs: Named) -> dict[str, np.ndarray[Any, np.dtype[np.generic]]]:
        out = self.runner.run(inputs)
        changed = np.array(out[self.output])
        changed.flat[-1] += 1 if changed.flat[-1] < 5 else -1
        return {**out, self.output: changed}


@pytest.fixture(scope="module")
def package() -> Package:
    return find_package("fast")


@pytest.fixture(scope="module")
def crop(root: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    encoded = (root / "examples/kodim23.png").read_bytes()
    return read_image(encoded, name="kodim23", max_pixels=2**20).pixels[100:230, 200:300]


@pytest.mark.parametrize(
    ("graph", "output", "text"),
    [
        ("prior_anchor", "mean", "anchor mean"),
        ("prior_anchor", "index", "anchor index"),
        ("prior_context", "mean", "rest mean"),
        ("prior_context", "index", "rest index"),
    ],
)
def test_a_backend_with_a_wrong_prior_is_replaced_and_named(
    package: Package, crop: np.ndarray[Any, np.dtype[np.uint8]], graph: str, output: str, text: str
) -> None:
    right = Codec(package, threads=1)
    data = right.compress(crop, 45)
    with pytest.warns(RuntimeWarning, match=f"the crooked backend does not compute the prior exactly .*{text}"):
        codec = Codec(package, backend=Wrong(graph, output))
    latents = right.decode_latents(bitstream.parse_photo(data))
    assert np.array_equal(codec.decode_latents(bitstream.parse_photo(data)), latents)
    assert np.array_equal(codec.decompress(data), right.decompress(data))
    assert codec.compress(crop, 45) == data
    assert codec._prior.backend_name == "cpu"


def test_a_right_backend_is_kept_without_a_word(package: Package) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Codec(package, backend=OnnxRuntimeCpu(threads=1))._prior.backend_name == "cpu"


def sample_inputs(package: Package, graph: str) -> dict[str, np.ndarray[Any, Any]]:
    """Zeros of the manifest's types and shapes; each free size stands for a small number that fits the others."""
    sizes = {"batch": 1, "hyper_height": 1, "hyper_width": 2, "height": 4, "width": 8, "row_pairs": 2, "columns": 4}
    inputs = {}
    for tensor in package.manifest.graphs[graph]["inputs"]:
        shape = [n if isinstance(n, int) else sizes.get(n) or 2 * int(n.split("*")[0]) for n in tensor["shape"]]
        inputs[tensor["name"]] = np.zeros(shape, {"float": np.float32}.get(tensor["type"], tensor["type"]))
    return inputs


@pytest.mark.parametrize("backend", BACKENDS, ids=["all", "none"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_outputs_are_what_the_manifest_says(package: Package, backend: Backend, graph: str) -> None:
    outputs = backend.load(package, graph).run(sample_inputs(package, graph))
    promised = package.manifest.graphs[graph]["outputs"]
    assert sorted(outputs) == sorted(tensor["name"] for tensor in promised)
    for tensor in promised:
        value = outputs[tensor["name"]]
        assert value.dtype == {"float": np.float32}.get(tensor["type"], tensor["type"])
        assert len(value.shape) == len(tensor["shape"])
        assert all(n == m for n, m in zip(value.shape, tensor["shape"], strict=True) if isinstance(m, int))


@pytest.mark.parametrize("backend", BACKENDS, ids=["all", "none"])
def test_outputs_are_new_arrays(package: Package, backend: Backend) -> None:
    runner, inputs = backend.load(package, "prior_anchor"), sample_inputs(package, "prior_anchor")
    kept = runner.run(inputs)
    first = {name: value.copy() for name, value in kept.items()}
    inputs["z"][:] = 100
    runner.run(inputs)
    assert all(np.array_equal(kept[name], first[name]) for name in first)


@pytest.mark.parametrize("backend", BACKENDS, ids=["all", "none"])
def test_wrong_inputs_are_backend_errors_of_one_line(package: Package, backend: Backend) -> None:
    runner = backend.load(package, "decoder")
    for inputs in ({}, {"latents": np.zeros((1, 4, 4, 3), np.int32)}, {"latents": np.zeros(3), "scale": np.zeros(3)}):
        with pytest.raises(BackendError, match="decoder") as caught:
            runner.run(inputs)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS, ids=["all", "none"])
def test_graphs_that_are_not_there(package: Package, backend: Backend) -> None:
    with pytest.raises(ModelError, match=r"has no upscaler\.onnx"):
        backend.load(package, "upscaler")


def test_a_graph_that_is_none(package: Package, tmp_path: Path) -> None:
    (tmp_path / "encoder.onnx").write_bytes(b"nonsense")
    manifest = replace(package.manifest, files={"encoder.onnx": hashlib.sha256(b"nonsense").hexdigest()})
    with pytest.raises(BackendError, match="cannot load encoder") as caught:
        OnnxRuntimeCpu().load(Package(tmp_path, manifest), "encoder")
    assert "\n" not in str(caught.value)


def test_options() -> None:
    with pytest.raises(OptionError, match="optimisation must be one of all, none, not 'some'"):
        OnnxRuntimeCpu(optimisation="some")
    with pytest.raises(OptionError, match="threads must be at least 1, not -1"):
        OnnxRuntimeCpu(threads=-1)
    with pytest.raises(OptionError, match="no backend named"):
        open_backend("")
    backend = OnnxRuntimeCpu(threads=1)
    assert open_backend(backend) is backend
    assert open_backend("auto").name == "cpu"


def test_without_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vaert\[cpu\]'"):
        OnnxRuntimeCpu()


def test_a_broken_onnx_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libsomething.so.1: cannot open')\n")
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendError, match=r"ONNX Runtime cannot be loaded: libsomething\.so\.1: cannot open"):
        OnnxRuntimeCpu()
