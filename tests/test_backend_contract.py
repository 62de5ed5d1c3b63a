"""What every backend owes, with stand-ins for engines that break it."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_suite import CHECK_NAMES, CHECKS, Make

from vaert import bitstream
from vaert.errors import BackendError, MissingExtraError, OptionError
from vaert.image import read_image
from vaert.package import Package, find_package
from vaert.runtime.backends import Backend, OnnxRuntimeCpu, Runner, open_backend, selection
from vaert.runtime.backends.base import Named
from vaert.runtime.codec import Codec


def gpu_engine(name: str) -> Any:
    """A parameter of the suite that is skipped, with the reason, where the engine cannot be used."""
    engine = next(one for one in selection.ENGINES if one.name == name)

    def make() -> Backend:
        if reason := selection.driver_missing() or engine.missing():
            pytest.skip(reason)
        return engine.make()

    # Engines bring libraries whose warnings are not ours to fix, and they were not seen on this side.
    return pytest.param(make, id=name, marks=[pytest.mark.gpu, pytest.mark.filterwarnings("default")])


ENGINES = [
    pytest.param(lambda: OnnxRuntimeCpu(threads=1), id="cpu"),
    pytest.param(lambda: OnnxRuntimeCpu(threads=2, optimisation="none"), id="cpu-plain"),
    *(gpu_engine(engine.name) for engine in selection.ENGINES if engine.gpu),
]


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


@pytest.mark.parametrize("check", CHECKS, ids=CHECK_NAMES)
@pytest.mark.parametrize("make", ENGINES)
def test_backend(make: Make, check: Callable[[Make], None]) -> None:
    """Every check of the suite, on every engine that is present."""
    check(make)


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
