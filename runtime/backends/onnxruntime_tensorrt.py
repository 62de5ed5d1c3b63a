"""ONNX Runtime on an NVIDIA GPU, with its TensorRT provider; what TensorRT does not take runs on the CUDA provider."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import stat
import threading
from collections import OrderedDict
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vaert.errors import BackendError
from vaert.package import TENSORRT_FLAVOUR, Package
from vaert.runtime.backends._onnxruntime import (
    CUDA_PROVIDER,
    TENSORRT_PROVIDER,
    OpenRunners,
    guarded,
    import_onnxruntime,
    is_exact,
    require_placed,
)
from vaert.runtime.backends._onnxruntime_bound import BoundRunner, Made
from vaert.runtime.backends._onnxruntime_libraries import gpu, missing_cuda, missing_provider, provider_library
from vaert.runtime.backends._trt_cache import VARIABLE, default_folder
from vaert.runtime.backends.base import Array, Named
from vaert.runtime.backends.onnxruntime_cuda import (
    check_options,
    cuda_options,
    require,
    require_device,
    require_provider,
    session_options,
    with_or_without_graphs,
)
from vaert.runtime.backends.shapes import Range, Shapes, default_shapes, input_ranges, picture_size, shapes_around

SCHEMA = 1  # of how engines are built here: raise it when they must be built anew
LIBRARIES = ("libnvinfer", "libnvonnxparser")
OTHER_SHAPES = 4  # sessions for sizes outside the usual profile that are kept; each holds an engine


def available() -> str:
    """Why this backend cannot be made here, in one line with what would help; "" if it can. Makes no GPU context."""
    return missing_cuda() or missing_provider("tensorrt") or missing_tensorrt()


class OnnxRuntimeTensorRt:
    """Runs graphs on one GPU through TensorRT, where the version that this ONNX Runtime was built for is installed.

    Engines are built when a size of picture comes first, which takes minutes, and are kept in a private folder.
    Options as of `OnnxRuntimeCuda`; memory_limit: bytes of TensorRT's workspace as well; cuda_graphs: off, as they were
    not tried with this provider. It has no option to clear TF32: exact graphs have operands of at most 2^11, which TF32
    holds, and sums of absolute products below 2^24, so they are exact with it, and their known answers are checked when
    they are loaded.
    """

    name = "ort-tensorrt"
    flavour = TENSORRT_FLAVOUR

    def __init__(
        self,
        *,
        device: int = 0,
        cuda_graphs: bool = False,
        memory_limit: int | None = None,
        threads: int | None = None,
    ) -> None:
        self._onnxruntime = import_onnxruntime("gpu")
        check_options(device, memory_limit, threads)
        require(available())
        require_device(device)
        self._device, self._cuda_graphs, self._memory_limit = device, cuda_graphs, memory_limit
        self._threads, self._runners = threads, OpenRunners()

    def load(self, package: Package, graph: str) -> ShapedRunner:
        """Load a graph. ModelError if its file is damaged, BackendError if it is refused or would use the CPU."""
        self._runners.require_open(self.name)
        runner = ShapedRunner(self, package, graph)
        self._runners.add(runner)
        return runner

    def runner(self, package: Package, graph: str, shapes: Shapes) -> BoundRunner:
        """A runner whose engine takes these sizes."""
        package.read_graph(graph, self.flavour)  # checks the files; TensorRT finds the weights by the path
        path = str(package.path / package.graph_file(graph, self.flavour))
        options = session_options(self._onnxruntime, self._threads)
        settings = self._tensorrt_options(package, graph, shapes)
        fallback = cuda_options(graph, device=self._device, limit=self._memory_limit, tf32=False)

        def session(graphs: bool) -> Any:
            providers = [
                (TENSORRT_PROVIDER, settings | {"trt_cuda_graph_enable": str(int(graphs))}),
                (CUDA_PROVIDER, fallback),
            ]
            made = self._onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=0)
            require_provider(made, TENSORRT_PROVIDER, graph)
            return made

        def make(graphs: bool) -> Made:
            what = f"ONNX Runtime cannot load {graph} of {package.path} on TensorRT"
            made = guarded(what, lambda: with_or_without_graphs(session, graphs and self._cuda_graphs))
            require_placed(made.nodes, graph, (TENSORRT_PROVIDER, CUDA_PROVIDER))
            return made

        return BoundRunner(self._onnxruntime, graph, self._device, make)

    def close(self) -> None:
        """See `Backend.close`."""
        self._runners.close()

    def _tensorrt_options(self, package: Package, graph: str, shapes: Shapes) -> dict[str, str]:
        """Options of the TensorRT provider: types as in the graph, one profile, and where engines are kept."""
        exact, precision = is_exact(graph), package.manifest.precision
        quantised = precision == "int8" and "flavours" in package.manifest.graphs[graph]
        low, best, high = _profile(input_ranges(package.manifest, graph, shapes))
        options = {
            # These allow types, they do not ask for them: an fp32 graph must not be given fp16.
            "trt_fp16_enable": str(int(precision in ("fp16", "int8") and not exact)),
            "trt_int8_enable": str(int(quantised and not exact)),
            "trt_min_subgraph_size": "1",
            "trt_engine_cache_enable": "1",
            "trt_timing_cache_enable": "1",
        }
        if low:  # a graph without free sizes has no profile
            options |= {
                "trt_profile_min_shapes": low,
                "trt_profile_opt_shapes": best,
                "trt_profile_max_shapes": high,
            }
        if self._memory_limit is not None:
            options["trt_max_workspace_size"] = str(self._memory_limit)
        folder = self._engine_folder(package, graph, options)
        return options | {
            "device_id": str(self._device),
            "trt_onnx_model_folder_path": str(package.path),
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_path": str(folder),
        }

    def _engine_folder(self, package: Package, graph: str, options: Mapping[str, str]) -> Path:
        """A private folder for the engines of one graph as it is built here and now.

        ONNX Runtime loads what it finds there, and its own names of engines tell neither weights nor driver, so the
        folder's name tells all that they depend on.
        """
        manifest = package.manifest
        files = (package.graph_file(graph, self.flavour), *manifest.graphs[graph].get("files", ()))
        depends = {
            "files": {name: manifest.files[name] for name in files},
            "graph": graph,
            "gpu": repr(gpu(self._device)),
            "onnxruntime": str(self._onnxruntime.__version__),
            "tensorrt": tensorrt_version(),
            "options": dict(options),
            "schema": SCHEMA,
        }
        digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
        name = re.sub(r"[^\w.-]+", "_", f"{manifest.name}-{graph}")
        return private_folder(default_folder() / "ort" / f"{name}-{digest[:40]}")


class ShapedRunner:
    """One graph: a session for the usual sizes, and others, made when they are needed, for larger ones."""

    def __init__(self, backend: OnnxRuntimeTensorRt, package: Package, graph: str) -> None:
        self._backend, self._package, self._graph = backend, package, graph
        self._usual = default_shapes(package.manifest)
        self._lock = threading.Lock()
        self._first = backend.runner(package, graph, self._usual)
        self._others: OrderedDict[Shapes, BoundRunner] = OrderedDict()

    def run(self, inputs: Named) -> dict[str, Array]:
        """See `Runner.run`."""
        with self._lock:
            runner = self._runner(self._first.checked(inputs))
        return runner.run(inputs)

    def close(self) -> None:
        """Release all sessions; `run` raises BackendError afterwards."""
        with self._lock:
            self._first.close()
            while self._others:
                self._others.popitem()[1].close()

    def _runner(self, inputs: Named) -> BoundRunner:
        shapes = {name: array.shape for name, array in inputs.items()}
        manifest = self._package.manifest
        ranges = input_ranges(manifest, self._graph, self._usual)
        if all(_inside(shapes[name], one) for name, one in ranges.items()):
            return self._first
        wanted = shapes_around(self._usual, *picture_size(manifest, self._graph, shapes))
        if wanted not in self._others:
            while len(self._others) >= OTHER_SHAPES:
                self._others.popitem(last=False)[1].close()
            self._others[wanted] = self._backend.runner(self._package, self._graph, wanted)
        self._others.move_to_end(wanted)
        return self._others[wanted]


def private_folder(folder: Path) -> Path:
    """Make a folder that nobody else can put engines into, below the folder for engines. BackendError if others can.

    Every folder from the root of the cache on must be a folder, no link, ours, and closed to others.
    """
    root = default_folder()
    below = [folder, *folder.parents]
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for one in reversed(below[: below.index(root) + 1]):
            one.mkdir(mode=0o700, exist_ok=True)
            status = os.lstat(one)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                raise BackendError(
                    f"{one} is a link, no folder, or belongs to user {status.st_uid} instead of {os.geteuid()}: "
                    f"engines run as code, so choose a folder of your own with {VARIABLE}"
                )
            if status.st_mode & 0o077:
                raise BackendError(
                    f"{one} is open to others (mode {status.st_mode & 0o777:o}): engines run as code, so say: "
                    f"chmod 700 {one}"
                )
    except OSError as error:
        raise BackendError(
            f"the folder for engines {folder} cannot be made ({error.strerror}); choose one with {VARIABLE}"
        ) from error
    return folder


def missing_tensorrt() -> str:
    """Why the TensorRT provider cannot be loaded; "" if it can. Loads TensorRT's libraries, also those of pip."""
    major = tensorrt_major()
    folders = [Path(place) for place in _installed("tensorrt_libs")]
    for library in LIBRARIES:
        name = f"{library}.so.{major}"
        places = [str(folder / name) for folder in folders if (folder / name).is_file()]
        if not any(_loaded(place) for place in (*places, name)):
            return (
                f"ONNX Runtime's TensorRT provider needs TensorRT {major} ({name} is missing): "
                f"pip install 'tensorrt=={major}.*'"
            )
    return ""


def tensorrt_major() -> int:
    """The major version of TensorRT that the provider which is installed was linked to."""
    library = provider_library("tensorrt")
    found = re.search(rb"libnvinfer\.so\.(\d+)", library.read_bytes()) if library else None
    return int(found[1]) if found else 10


def tensorrt_version() -> str:
    """Version of the TensorRT that the provider uses, as its library tells it; "unknown" without the library."""
    try:
        return str(ctypes.CDLL(f"libnvinfer.so.{tensorrt_major()}").getInferLibVersion())
    except (OSError, AttributeError):
        return "unknown"


def _installed(package: str) -> tuple[str, ...]:
    spec = find_spec(package)
    return tuple(spec.submodule_search_locations or ()) if spec else ()


def _loaded(name: str) -> bool:
    try:
        ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def _inside(shape: tuple[int, ...], one: Range) -> bool:
    low, _, high = one
    return all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))


def _profile(ranges: Mapping[str, Range]) -> tuple[str, str, str]:
    """The three options of a profile, `name:1x64x64x3,...` each, of the inputs that have free sizes."""
    free = {name: one for name, one in ranges.items() if one[0] != one[2]}
    texts = (",".join(f"{name}:{'x'.join(map(str, one[k]))}" for name, one in free.items()) for k in range(3))
    low, best, high = texts
    return low, best, high
