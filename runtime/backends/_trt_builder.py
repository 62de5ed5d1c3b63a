"""From an ONNX graph to a serialised TensorRT engine.

Precision lies in the graph: networks are strongly typed, which is the same code for TensorRT 10.13 to 11. Names of
variables here and their types in TensorRT (imported as `trt`):

    log: trt.ILogger                     monitor: trt.IProgressMonitor
    builder: trt.Builder                 network: trt.INetworkDefinition
    parser: trt.OnnxParser               error: trt.ParserError
    tensor: trt.ITensor                  config: trt.IBuilderConfig
    profile: trt.IOptimizationProfile    timing: trt.ITimingCache
    plan: trt.IHostMemory
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaert.errors import BackendError
from vaert.runtime.backends._trt_cache import EngineCache
from vaert.runtime.backends.cuda import one_line
from vaert.runtime.backends.shapes import Range

Progress = Callable[[int, int], None]  # done, total

STEPS = 1000  # that progress is told in
ERRORS_SHOWN = 3
_LOG = logging.getLogger("vaert.tensorrt")


@dataclass(frozen=True)
class Source:
    """A graph to build: its bytes, and where it lies, as files beside it may hold its weights."""

    name: str
    data: bytes
    path: Path


@dataclass(frozen=True)
class BuildOptions:
    """How hard TensorRT tries, and with how much memory: bytes, all of the GPU's if None."""

    optimisation: int = 3  # 0..5
    workspace: int | None = None


@dataclass(frozen=True)
class Timings:
    """Where what TensorRT measured of its kernels is kept, so that the next build is shorter."""

    cache: EngineCache
    name: str


def describe(options: BuildOptions) -> str:
    """All choices of the builder that an engine depends on."""
    return f"strongly typed, tf32 off, {options}"


def make_log() -> Any:
    """A logger for TensorRT that passes all on to Python's logging, and remembers the last error in `last_error`."""
    import tensorrt as trt

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = ""

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last_error = msg
            _LOG.log(logging.DEBUG if severity == trt.ILogger.Severity.VERBOSE else logging.INFO, "%s", msg)

    return Log()


def build_engine(
    source: Source,
    ranges: Mapping[str, Range],
    options: BuildOptions,
    *,
    log: Any,
    timings: Timings | None = None,
    progress: Progress | None = None,
) -> bytes:
    """Build an engine for the current CUDA device that takes inputs in these ranges; seconds to minutes.

    progress: called with done and total. Ctrl-C stops the build (KeyboardInterrupt), and so does an exception in
    `progress`, which is raised again. BackendError says what TensorRT did not like.
    """
    import tensorrt as trt

    log.last_error = ""
    try:
        builder = trt.Builder(log)
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(flags)
        parser = trt.OnnxParser(network, log)  # holds the weights until the engine is built
        if not parser.parse(source.data, str(source.path)):
            raise BackendError(f"TensorRT cannot read {source.path}: {_parser_errors(parser)}")
        config = builder.create_builder_config()
        _configure(config, options)
        _add_profile(builder, network, config, ranges)
        monitor = _make_monitor(progress)
        config.progress_monitor = monitor
        with _timed(config, timings), _interruptible(monitor):
            plan = builder.build_serialized_network(network, config)
    except (TypeError, ValueError, RuntimeError) as error:  # pybind11's, for nulls and for what C++ throws
        raise BackendError(
            f"TensorRT cannot build {source.path}: {one_line(RuntimeError(log.last_error or one_line(error)))}"
        ) from error
    if monitor.stopped is not None:
        raise monitor.stopped
    if plan is None:
        reason = one_line(log.last_error or "it gave no reason")
        raise BackendError(f"TensorRT cannot build {source.path}: {reason}; vaert doctor tests the installation")
    return bytes(plan)


def _configure(config: Any, options: BuildOptions) -> None:
    import tensorrt as trt

    config.builder_optimization_level = options.optimisation
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    # What is float32 in a graph is meant to be: the prior's integers, fp32 packages, layers that float16 cannot hold.
    config.clear_flag(trt.BuilderFlag.TF32)


def _add_profile(builder: Any, network: Any, config: Any, ranges: Mapping[str, Range]) -> None:
    """One optimisation profile over all inputs whose shape is not fixed."""
    names = []
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        names.append(tensor.name)
        if tensor.name in ranges and min(tensor.shape, default=0) < 0:
            low, best, high = ranges[tensor.name]
            profile.set_shape(tensor.name, low, best, high)
    if sorted(names) != sorted(ranges):
        raise BackendError(
            f"the graph takes {', '.join(names)}, the manifest says {', '.join(ranges)}; install the package again"
        )
    if config.add_optimization_profile(profile) < 0:
        raise BackendError(f"TensorRT refuses the shapes {dict(ranges)}; choose others with --shapes")


@contextlib.contextmanager
def _timed(config: Any, timings: Timings | None) -> Iterator[None]:
    """Give the builder what it measured before, and keep what it measures now."""
    if timings is None:
        yield
        return
    stored = timings.cache.read(timings.name)
    timing = config.create_timing_cache(stored)
    if stored and (timing is None or not config.set_timing_cache(timing, False)):
        _warn(f"TensorRT does not take its timing cache {timings.name}: it was made elsewhere, and is made anew")
        stored, timing = b"", config.create_timing_cache(b"")
    if not stored:
        config.set_timing_cache(timing, False)
    yield
    measured = bytes(timing.serialize())
    if measured != stored:
        timings.cache.write(timings.name, measured)


@contextlib.contextmanager
def _interruptible(monitor: Any) -> Iterator[None]:
    """Let Ctrl-C stop a build: TensorRT asks the monitor after each step whether to go on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A KeyboardInterrupt inside a callback would have to pass through TensorRT's C++, which cannot be relied on.
    before = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: Any) -> None:
        second = monitor.stopped is not None
        monitor.stopped = KeyboardInterrupt()
        if second and callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)


def _make_monitor(progress: Progress | None) -> Any:
    import tensorrt as trt

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """What TensorRT tells of its phases, which nest, as one number that only grows."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped: BaseException | None = None
            self._phases = Phases()
            self._lock = threading.Lock()  # phases may run in threads

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                self._phases.step(phase_name, step + 1)
                self._tell()
            return self.stopped is None

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.finish(phase_name)
                self._tell()

        def _tell(self) -> None:
            if progress is None or self.stopped is not None:
                return
            try:
                progress(int(STEPS * self._phases.done), STEPS)
            except BaseException as error:  # noqa: BLE001 - it must not pass through TensorRT; raised after
                self.stopped = error

    return Monitor()


class Phases:
    """Share of a build that is done, from phases within phases, each of a known number of steps."""

    def __init__(self) -> None:
        self.done = 0.0  # 0..1, never less than before
        self._open: dict[str, tuple[float, float, int]] = {}  # start, length, steps; both shares of the whole

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, inside the current step of its parent."""
        start, length = self.done, 0.9 * (1 - self.done)  # others may follow
        if parent in self._open:
            _, whole, parts = self._open[parent]
            length = whole / parts
        self._open[name] = (start, length, max(steps, 1))

    def step(self, name: str, steps: int) -> None:
        """So many steps of a phase are done."""
        if name in self._open:
            start, length, parts = self._open[name]
            self.done = max(self.done, min(1.0, start + length * min(steps, parts) / parts))

    def finish(self, name: str) -> None:
        """A phase is over."""
        if name in self._open:
            self.step(name, self._open[name][2])
            del self._open[name]


def _parser_errors(parser: Any) -> str:
    """What the parser did not like, with the names of the nodes, in one line."""
    texts = []
    for index in range(min(parser.num_errors, ERRORS_SHOWN)):
        error = parser.get_error(index)
        where = f"node {error.node_name() or error.node()} ({error.node_operator()}): " if error.node() >= 0 else ""
        texts.append(where + " ".join(error.desc().split()))
    if parser.num_errors > ERRORS_SHOWN:
        texts.append(f"and {parser.num_errors - ERRORS_SHOWN} more")
    return "; ".join(texts) or "it gave no reason"


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=2)
