"""NVIDIA TensorRT: engines built on this machine from a package's graphs, kept in a cache, run through CUDA graphs."""

from __future__ import annotations

import os
import re
import threading
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from vaert.errors import BackendError, MissingExtraError
from vaert.package import TENSORRT_FLAVOUR, Package
from vaert.runtime.backends import cuda
from vaert.runtime.backends._trt_builder import (
    BuildOptions,
    Progress,
    Source,
    Timings,
    build_engine,
    describe,
    make_log,
)
from vaert.runtime.backends._trt_cache import CachedEngine, EngineCache, EngineKey, content_hash
from vaert.runtime.backends._trt_runner import EngineRunner, UnreadableEngineError
from vaert.runtime.backends.base import Array, Named
from vaert.runtime.backends.shapes import (
    Range,
    Shape,
    Shapes,
    default_shapes,
    input_ranges,
    picture_size,
    shapes_around,
)

OLDEST = (10, 13)
INSTALL = "pip install 'vaert[gpu]'"


@dataclass(frozen=True)
class EngineReport:
    """One engine: of which graph, for which sizes, where it lies and how long it took to build, then or now."""

    graph: str
    shapes: str
    path: Path | None  # None if it could not be kept
    bytes: int
    build_seconds: float
    from_cache: bool


class TensorRt:
    """Runs graphs on one GPU. Engines are built when they are first needed, which takes up to minutes, and kept.

    device: index of the GPU. shapes: what engines are built for, `Shapes` or `MIN:OPT:MAX` like
    64x64:512x768:2048x2048; the runtime's tiles if None. Sizes beyond it get engines of their own. cache: their folder.
    progress: called with done and total while one is built. Threads may share it.
    Raises MissingExtraError, BackendError, OptionError.
    """

    name = "tensorrt"
    flavour = TENSORRT_FLAVOUR

    def __init__(
        self,
        *,
        device: int = 0,
        shapes: Shapes | str | None = None,
        cache: str | os.PathLike[str] | None = None,
        cuda_graphs: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self.version = _tensorrt_version()
        self.shapes = Shapes.parse(shapes) if isinstance(shapes, str) else shapes
        self.device = cuda.Device(device)
        self.options = BuildOptions()
        self.cuda_graphs, self.progress = cuda_graphs, progress
        self.log = make_log()
        self._cache = EngineCache(cache)
        self._building = threading.Lock()  # TensorRT times kernels while it builds: one at a time
        self._runners: weakref.WeakSet[TensorRtRunner] = weakref.WeakSet()
        self._closed = False

    def load(self, package: Package, graph: str) -> TensorRtRunner:
        """Load a graph of a package. ModelError if its file is damaged, BackendError if TensorRT refuses it."""
        if self._closed:
            raise BackendError("the tensorrt backend is closed; open it again")
        runner = TensorRtRunner(self, package, graph)
        self._runners.add(runner)
        return runner

    def engine_report(self, package: Package, graph: str) -> EngineReport:
        """Build the engine of a graph, or find it in the cache, without loading it."""
        shapes = self.shapes or default_shapes(package.manifest)
        engine = self._engine(package, graph, shapes)
        return EngineReport(graph, str(shapes), engine.path, len(engine.data), engine.build_seconds, engine.from_cache)

    def close(self) -> None:
        """Release the engines; their runners raise BackendError afterwards. May be called twice."""
        self._closed = True
        for runner in list(self._runners):
            runner.close()

    def open_engine(self, package: Package, graph: str, shapes: Shapes) -> EngineRunner:
        """An engine for these sizes, loaded. One from the cache that TensorRT does not take is built again."""
        engine = self._engine(package, graph, shapes)
        try:
            return self._runner(engine, graph)
        except UnreadableEngineError as error:
            if not engine.from_cache:
                raise
            warnings.warn(f"{error}; it is built again", RuntimeWarning, stacklevel=2)
        return self._runner(self._engine(package, graph, shapes, fresh=True), graph)

    def _runner(self, engine: CachedEngine, graph: str) -> EngineRunner:
        return EngineRunner(self.device, engine.data, graph=graph, log=self.log, cuda_graphs=self.cuda_graphs)

    def _engine(self, package: Package, graph: str, shapes: Shapes, *, fresh: bool = False) -> CachedEngine:
        manifest = package.manifest
        data = package.read_graph(graph, self.flavour)
        source = Source(graph, data, package.path / package.graph_file(graph, self.flavour))
        ranges = input_ranges(manifest, graph, shapes)
        others = {name: manifest.files[name] for name in manifest.graphs[graph].get("files", ())}
        key = EngineKey(
            model=manifest.name,
            graph=graph,
            content=content_hash(data, others),
            gpu=self.device.name,
            compute_capability=self.device.compute_capability,
            driver=self.device.driver,
            tensorrt=self.version,
            precision=manifest.precision,
            shapes=str(sorted(ranges.items())),
            options=describe(self.options),
        )
        with self._building:
            return self._cache.get(key, lambda: self._build(source, ranges), fresh=fresh)

    def _build(self, source: Source, ranges: Mapping[str, Range]) -> bytes:
        machine = f"{self.device.name}-{self.device.driver}-{self.version}"
        timings = Timings(self._cache, re.sub(r"[^\w.-]+", "_", f"timings-{machine}"))
        with self.device.current():
            return build_engine(source, ranges, self.options, log=self.log, timings=timings, progress=self.progress)


class TensorRtRunner:
    """One graph, with an engine for the usual sizes, and others once they are needed."""

    def __init__(self, backend: TensorRt, package: Package, graph: str) -> None:
        self._backend, self._package, self._graph = backend, package, graph
        self._usual = backend.shapes or default_shapes(package.manifest)
        self._lock = threading.Lock()
        self._closed = False
        self.engines = [backend.open_engine(package, graph, self._usual)]

    def run(self, inputs: Named) -> dict[str, Array]:
        """See `Runner.run`."""
        self.engines[0].check(inputs)
        return self._engine_for({name: array.shape for name, array in inputs.items()}).run(inputs)

    def close(self) -> None:
        """Release the engines."""
        with self._lock:
            self._closed = True
            for engine in self.engines:
                engine.close()

    def _engine_for(self, shapes: Mapping[str, Shape]) -> EngineRunner:
        """The first engine that takes these shapes; it is built if there is none and there can be one."""
        with self._lock:
            for engine in self.engines:
                if engine.takes(shapes):
                    return engine
            wider = shapes_around(self._usual, *self._size(shapes))
            if self._closed or not _within(shapes, input_ranges(self._package.manifest, self._graph, wider)):
                return self.engines[0]  # says what it does not take
            self.engines.append(self._backend.open_engine(self._package, self._graph, wider))
            return self.engines[-1]

    def _size(self, shapes: Mapping[str, Shape]) -> tuple[int, tuple[int, int]]:
        try:
            return picture_size(self._package.manifest, self._graph, shapes)
        except ValueError:  # another number of dimensions
            return 1, (1, 1)


def available() -> str:
    """Why this backend cannot be used here, in one line that says what would help, or an empty string."""
    if find_spec("tensorrt") is None:
        return f"TensorRT is not installed: {INSTALL}"
    if reason := cuda.missing():
        return reason
    try:
        versions()
    except (BackendError, MissingExtraError) as error:
        return str(error)
    return ""


def versions() -> dict[str, str]:
    """Versions of what this backend rests on. Raises MissingExtraError, BackendError."""
    found = {"tensorrt": _tensorrt_version()}
    return found | {"pycuda": cuda.version(), "driver": cuda.driver_version()}


def _tensorrt_version() -> str:
    try:
        import tensorrt as trt
    except ModuleNotFoundError as error:
        raise MissingExtraError("running a model with TensorRT", extra="gpu") from error
    except (ImportError, OSError) as error:  # a library of it is missing or damaged
        raise BackendError(f"TensorRT cannot be loaded: {cuda.one_line(error)}; install it again: {INSTALL}") from error
    version = str(trt.__version__)
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST:
        raise BackendError(f"TensorRT {version} is too old, expected 10.13 or newer: {INSTALL}")
    return version


def _within(shapes: Mapping[str, Shape], ranges: Mapping[str, Range]) -> bool:
    """Whether an engine for these ranges would take inputs of these shapes."""
    return all(
        len(shapes[name]) == len(low) and all(a <= n <= b for a, n, b in zip(low, shapes[name], high, strict=True))
        for name, (low, _, high) in ranges.items()
    )
