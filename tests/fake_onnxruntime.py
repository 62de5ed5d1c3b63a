"""A strict stand-in for onnxruntime-gpu and the libraries it needs: it runs graphs on the CPU and raises on misuse.

Names and signatures are those of the real package, which a test compares. What the real one would do wrong silently
is an error here: inputs or outputs that are not bound, reading before `synchronize_outputs`, another binding or other
buffers for a graph that was captured, buffers that are freed while a graph has their addresses.
"""

from __future__ import annotations

import sys
import threading
import types
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as real
import pytest

Array = np.ndarray[Any, Any]
CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
# Options found in the providers of onnxruntime-gpu 1.31.1 that are of use here.
OPTIONS = {
    CUDA: "device_id gpu_mem_limit arena_extend_strategy cudnn_conv_algo_search do_copy_in_default_stream "
    "cudnn_conv_use_max_workspace enable_cuda_graph prefer_nhwc use_tf32 fuse_conv_bias",
    TENSORRT: "device_id trt_fp16_enable trt_int8_enable trt_engine_cache_enable trt_engine_cache_path "
    "trt_timing_cache_enable trt_timing_cache_path trt_profile_min_shapes trt_profile_opt_shapes "
    "trt_profile_max_shapes trt_max_workspace_size trt_min_subgraph_size trt_onnx_model_folder_path "
    "trt_cuda_graph_enable trt_builder_optimization_level",
}
TYPES = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8}


class Misuse(Exception):
    """What the real library would not forgive, or not notice."""


@dataclass
class Machine:
    """The machine that the stand-in pretends, and what happened on it."""

    folder: Path  # where the package pretends to be installed
    providers: tuple[str, ...] = (TENSORRT, CUDA, CPU)
    libraries: set[str] = field(default_factory=lambda: {"libcuda.so.1", "libcudnn.so.9"})
    unloadable: tuple[str, ...] = ()  # of CUDA, as `preload_dlls` would print them
    gpus: int = 1
    inference_library: int = 101600  # version of libnvinfer
    on_cpu: frozenset[str] = frozenset()  # operators that no GPU provider takes
    not_capturable: bool = False  # refuse sessions with CUDA graphs, as for control flow
    failing_capture: bool = False
    silent: bool = False  # load the CPU provider and only log that
    fails: str = ""  # what every run raises
    records: bool = True  # where nodes run
    sessions: list[InferenceSession] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    misuses: list[str] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
        """Put the stand-in in the place of onnxruntime, and of the libraries that are loaded through ctypes."""
        for kind in ("cuda", "tensorrt"):
            library = self.folder / "capi" / f"libonnxruntime_providers_{kind}.so"
            library.parent.mkdir(exist_ok=True)
            library.write_bytes(b"...\0libnvinfer.so.10\0..." if kind == "tensorrt" else b"")
        module = types.ModuleType("onnxruntime")
        module.__spec__ = ModuleSpec("onnxruntime", None, is_package=True)
        module.__spec__.submodule_search_locations = [str(self.folder)]
        session = type("InferenceSession", (InferenceSession,), {"machine": self})
        ort_value = type("OrtValue", (OrtValue,), {"machine": self})
        names: Mapping[str, object] = {
            "__version__": "1.31.1",
            "InferenceSession": session,
            "OrtValue": ort_value,
            "SessionOptions": real.SessionOptions,
            "RunOptions": real.RunOptions,
            "GraphOptimizationLevel": real.GraphOptimizationLevel,
            "get_available_providers": lambda: list(self.providers),
            "set_default_logger_severity": real.set_default_logger_severity,
            "preload_dlls": self.preload_dlls,
        }
        for name, value in names.items():
            setattr(module, name, value)
        monkeypatch.setitem(sys.modules, "onnxruntime", module)
        monkeypatch.setattr("ctypes.CDLL", self.library)
        return module

    def preload_dlls(self, cuda: bool = True, cudnn: bool = True, msvc: bool = True, directory: Any = None) -> None:
        for name in self.unloadable:
            print(f"Failed to load {name}: {name}: cannot open shared object file: No such file or directory")
        if self.unloadable:
            print("Please follow https://onnxruntime.ai/docs/install/#cuda-and-cudnn to install CUDA.")

    def library(self, name: str, mode: int = 0) -> Any:
        if Path(name).name not in self.libraries:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        if name == "libcuda.so.1":
            return Driver(self)
        return types.SimpleNamespace(getInferLibVersion=lambda: self.inference_library)

    def misuse(self, text: str) -> Misuse:
        """Remember it, as the code under test may catch what is raised."""
        self.misuses.append(text)
        return Misuse(text)


@dataclass(frozen=True)
class Driver:
    """The functions of libcuda that are called without a context."""

    machine: Machine

    def cuInit(self, flags: int) -> int:
        return 0 if self.machine.gpus else 100  # CUDA_ERROR_NO_DEVICE

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.machine.gpus
        return 0

    def cuDeviceGet(self, handle: Any, device: int) -> int:
        handle._obj.value = device
        return 0 if device < self.machine.gpus else 101  # CUDA_ERROR_INVALID_DEVICE

    def cuDeviceGetName(self, name: Any, length: int, handle: Any) -> int:
        name.value = b"Pretended GPU"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, handle: Any) -> int:
        value._obj.value = {75: 9, 76: 0}[attribute]
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 13000
        return 0


class OrtValue:
    """An array that pretends to be on a GPU."""

    machine: Machine

    def __init__(self, array: Array) -> None:
        self._array, self._written, self._synchronised = array, False, True

    @classmethod
    def ortvalue_from_shape_and_type(
        cls,
        shape: Sequence[int],
        element_type: Any,
        device_type: str = "cpu",
        device_id: int = 0,
    ) -> OrtValue:
        if device_type != "cuda" or not 0 <= device_id < cls.machine.gpus:
            raise cls.machine.misuse(f"memory on {device_type} {device_id}")
        cls.machine.events["buffers"] += 1
        return cls(np.full(shape, 77, element_type))

    def update_inplace(self, data: Array) -> None:
        if data.size != self._array.size:
            raise RuntimeError("The input size of numpy arrays does not match the size of the OrtValue.")
        if data.dtype != self._array.dtype or data.shape != self._array.shape or not data.flags.c_contiguous:
            raise self.machine.misuse(f"{data.dtype} {data.shape} copied over {self._array.dtype} {self._array.shape}")
        self._array[...] = data
        self._written = self._synchronised = True

    def numpy(self) -> Array:
        if not self._written or not self._synchronised:
            raise self.machine.misuse("memory read that was not written, or before synchronize_outputs")
        return self._array.copy()

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def write(self, array: Array) -> None:
        """As a kernel does."""
        if array.shape != self._array.shape or array.dtype != self._array.dtype:
            raise self.machine.misuse(f"output {array.shape} written to a buffer of {self._array.shape}")
        self._array[...] = array
        self._written, self._synchronised = True, False


class IOBinding:
    """What a session reads and writes."""

    def __init__(self, session: InferenceSession) -> None:
        self._session = session
        self._inputs: dict[str, OrtValue] = {}
        self._outputs: dict[str, OrtValue | None] = {}  # None: ONNX Runtime allocates
        self._results: list[OrtValue] = []
        self._running = False

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        self._require(name, [node.name for node in self._session.get_inputs()])
        self._inputs[name] = ortvalue

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Any = None,
        buffer_ptr: Any = None,
    ) -> None:
        self._require(name, [node.name for node in self._session.get_outputs()])
        if device_type != "cuda" or device_id != self._session.device:
            raise self._session.machine.misuse(f"output bound to {device_type} {device_id}")
        self._outputs[name] = None

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        self._require(name, [node.name for node in self._session.get_outputs()])
        self._outputs[name] = ortvalue

    def clear_binding_inputs(self) -> None:
        self._session.require_no_graph(self)
        self._inputs.clear()

    def clear_binding_outputs(self) -> None:
        self._session.require_no_graph(self)
        self._outputs.clear()
        self._results.clear()

    def synchronize_inputs(self) -> None:
        pass

    def synchronize_outputs(self) -> None:
        for value in self._results:
            value._synchronised = True

    def get_outputs(self) -> list[OrtValue]:
        return list(self._results)

    def _require(self, name: str, names: list[str]) -> None:
        self._session.require_no_graph(self)
        if name not in names:
            raise RuntimeError(f"Error when binding: {name} is not one of {names}")


class InferenceSession:
    """A session of the real library on the CPU."""

    machine: Machine

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """The real thing for a session that is asked for on the CPU alone."""
        if kwargs.get("providers") == [CPU]:
            return real.InferenceSession(*args, **kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        path_or_bytes: str | bytes,
        sess_options: Any = None,
        providers: Sequence[tuple[str, dict[str, str]]] | None = None,
        provider_options: Any = None,
        **kwargs: Any,
    ) -> None:
        if kwargs != {"enable_fallback": 0} or provider_options is not None:
            raise self.machine.misuse("a session that falls back to the CPU silently")
        self.options = {name: self._known(name, options) for name, options in providers or ()}
        wants_graphs = "1" in (
            self.options.get(CUDA, {}).get("enable_cuda_graph"),
            self.options.get(TENSORRT, {}).get("trt_cuda_graph_enable"),
        )
        if wants_graphs and self.machine.not_capturable:
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user\nIf")
        self._path, self._session_options, self.captures = path_or_bytes, sess_options, wants_graphs
        self._real: Any = real.InferenceSession(path_or_bytes, sess_options, providers=[CPU], enable_fallback=0)
        self.device = int(next(iter(self.options.values()))["device_id"])
        self._graphs: dict[str, tuple[Any, ...]] = {}
        self._used: set[str] = set()
        self._threads: dict[str, int] = {}
        self._dangling: set[str] = set()  # graphs with addresses of memory that was freed
        self.machine.sessions.append(self)

    def _known(self, provider: str, options: Mapping[str, str]) -> dict[str, str]:
        unknown = set(options) - set(OPTIONS[provider].split())
        if unknown or not all(isinstance(value, str) for value in options.values()):
            raise self.machine.misuse(f"options of {provider} that are unknown or no text: {unknown or options}")
        return dict(options)

    def get_inputs(self) -> Any:
        return self._real.get_inputs()

    def get_outputs(self) -> Any:
        return self._real.get_outputs()

    def get_providers(self) -> list[str]:
        return [CPU] if self.machine.silent else [*self.options, CPU]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        if not self.machine.records:
            raise RuntimeError("recording was not enabled\nat all")
        first = next(iter(self.options))
        parts = []
        for part in self._real.get_provider_graph_assignment_info():
            for node in part.get_nodes():
                provider = CPU if node.op_type in self.machine.on_cpu else first
                parts.append(types.SimpleNamespace(ep_name=provider, get_nodes=lambda node=node: [node]))
        return parts

    def io_binding(self) -> IOBinding:
        return IOBinding(self)

    def release_captured_graph(self, graph_annotation_id: int = 0) -> None:
        self._dangling.discard(str(graph_annotation_id))
        if self._graphs.pop(str(graph_annotation_id), None) is None:
            raise self.machine.misuse(f"graph {graph_annotation_id} released that was not captured")
        self.machine.events["released"] += 1

    def run_with_iobinding(self, iobinding: IOBinding, run_options: Any = None) -> None:
        if iobinding._session is not self:
            raise ValueError("IOBinding must be used with the session that created it.")
        if self.machine.fails:
            raise RuntimeError(self.machine.fails)
        if self._dangling:
            raise self.machine.misuse(f"buffers of graphs {self._dangling} were freed before the graphs were released")
        self._require_bound(iobinding)
        graph = "0" if run_options is None else run_options.get_run_config_entry("gpu_graph_id")
        if self.captures and graph != "-1":
            self._graph(graph, iobinding)
        self.machine.events["runs"] += 1
        self._compute(iobinding)

    def _compute(self, iobinding: IOBinding) -> None:
        names = [node.name for node in self.get_outputs()]
        feed = {name: value._array.copy() for name, value in iobinding._inputs.items()}
        if iobinding._running:
            raise self.machine.misuse("two threads run one binding")
        iobinding._running = True
        results = dict(zip(names, self._real.run(names, feed), strict=True))
        iobinding._results = []
        for name, value in iobinding._outputs.items():
            kept = value
            if kept is None:
                kept = type("OrtValue", (OrtValue,), {"machine": self.machine})(np.empty_like(results[name]))
            kept.write(results[name])
            iobinding._results.append(kept)
        iobinding._running = False

    def _require_bound(self, iobinding: IOBinding) -> None:
        unbound = {node.name for node in self.get_inputs()} - set(iobinding._inputs)
        unbound |= {node.name for node in self.get_outputs()} - set(iobinding._outputs)
        if unbound:
            raise self.machine.misuse(f"not bound: {unbound}")
        if not all(value._written for value in iobinding._inputs.values()):
            raise self.machine.misuse("inputs that were never written")

    def _graph(self, graph: str, iobinding: IOBinding) -> None:
        """Capture, or hold a replay against what was captured."""
        bound: list[OrtValue | None] = [*iobinding._inputs.values(), *iobinding._outputs.values()]
        values = [value for value in bound if value is not None]
        if len(values) < len(bound):
            raise self.machine.misuse(f"graph {graph} over outputs whose address changes")
        if graph in self._graphs:
            if self._threads[graph] != threading.get_ident():
                raise self.machine.misuse(f"graph {graph} of another thread: it would be captured again")
            if self._graphs[graph] != (id(iobinding), *map(id, values)):
                raise self.machine.misuse(f"graph {graph} replayed with other buffers or shapes")
            self.machine.events["replays"] += 1
            return
        if graph in self._used:
            raise self.machine.misuse(f"graph {graph} used after its release")
        self._used.add(graph)
        self._threads[graph] = threading.get_ident()
        if self.machine.failing_capture:
            raise RuntimeError("Graph capture did not complete after 3 internal runs for CUDAExecutionProvider.\nSee")
        self._graphs[graph] = (id(iobinding), *map(id, values))
        for value in values:
            weakref.finalize(value, self._freed, weakref.ref(self), graph)
        self.machine.events["captures"] += 1

    @staticmethod
    def _freed(session: weakref.ref[InferenceSession], graph: str) -> None:
        alive = session()
        if alive is not None and graph in alive._graphs:
            alive._dangling.add(graph)

    def require_no_graph(self, iobinding: IOBinding) -> None:
        """Nothing is rebound that a captured graph reads or writes."""
        if any(graph[0] == id(iobinding) for graph in self._graphs.values()):
            raise self.machine.misuse("a binding changed under a captured graph")
