"""A serialised engine, run: own stream, reused buffers, CUDA graphs, one execution context per shape.

Names of variables here and their types in TensorRT (imported as `trt`):

    log: trt.ILogger                  runtime, held.runtime: trt.Runtime
    engine, held.engine: trt.ICudaEngine
    lane.context: trt.IExecutionContext

What lives on the GPU is held by `Held` and `Lane` alone, never by a local variable when something may fail: the
traceback of an exception would keep it beyond the moment when its CUDA context is current.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vaert.errors import BackendError
from vaert.runtime.backends.base import Array, Named
from vaert.runtime.backends.cuda import Bytes, Device, DeviceMemory, Event, Graph, Stream, one_line, pinned
from vaert.runtime.backends.shapes import Range, Shape

SHAPES_KEPT = 8  # execution contexts, each with its graph
PROFILE = 0  # engines have one
_LOG = logging.getLogger("vaert.tensorrt")


class UnreadableEngineError(BackendError):
    """TensorRT does not take a serialised engine: made by another version, or damaged."""


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine; of an input, the shapes that it takes."""

    name: str
    dtype: np.dtype[Any]
    shapes: Range | None = None  # None: an output

    def takes(self, shape: Shape) -> bool:
        """Whether the engine was built for an input of this shape."""
        if self.shapes is None or len(shape) != len(self.shapes[0]):
            return False
        low, _, high = self.shapes
        return all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))


class Buffer:
    """The same bytes on the device and page-locked on the host."""

    def __init__(self, size: int) -> None:
        self.device, self.host = DeviceMemory(size), pinned(size)

    def view(self, dtype: np.dtype[Any], shape: Shape) -> Array:
        """The first bytes of the host's side as an array."""
        return self.bytes(dtype, shape).view(dtype).reshape(shape)

    def bytes(self, dtype: np.dtype[Any], shape: Shape) -> Bytes:
        """The bytes that such an array takes."""
        return self.host[: dtype.itemsize * math.prod(shape)]

    def free(self) -> None:
        """Give both sides back; nothing may be queued."""
        self.device.free()
        self.host = np.empty(0, np.uint8)  # page-locked memory goes with its last view


@dataclass
class Lane:
    """What belongs to one shape: a context is not touched again once a graph was recorded from it."""

    context: Any
    outputs: dict[str, Shape] = field(default_factory=dict)
    runs: int = 0
    graph: Graph | None = None


class Held:
    """All that must be released, and its order: graphs, contexts, buffers, stream, engine, runtime."""

    def __init__(self, device: Device, runtime: Any) -> None:
        self.device, self.runtime = device, runtime
        self.engine: Any = None
        self.stream: Stream | None = Stream()
        self.lanes: OrderedDict[Any, Lane] = OrderedDict()
        self.buffers: dict[str, Buffer] = {}
        self.scratch: DeviceMemory | None = None

    def drop_lanes(self, keep: int = 0) -> None:
        """Release the lanes that were not used for longest. Nothing may be queued."""
        while len(self.lanes) > keep:
            _, lane = self.lanes.popitem(last=False)
            if lane.graph is not None:
                lane.graph.free()
            lane.context = None

    def reset(self) -> None:
        """After a failure: wait for what was queued, then release all that depends on shapes."""
        with contextlib.suppress(Exception):  # the failure itself is what the caller must hear of
            if self.stream is not None:
                self.stream.synchronize()
            self.drop_lanes()

    def release(self) -> None:
        """Release everything; may be called twice. Also runs when the runner is collected, and at exit."""
        if self.stream is None:
            return
        try:
            with self.device.current():
                self.reset()
                for buffer in self.buffers.values():
                    buffer.free()
                self.buffers.clear()
                if self.scratch is not None:
                    self.scratch.free()
                self.stream.free()
                self.scratch = self.stream = None
                self.engine = None
                self.runtime = None
        except BackendError as error:  # the GPU is gone, and all of this with it
            _LOG.info("releasing an engine: %s", error)


class EngineRunner:
    """One engine. Threads may share it: runs wait for each other. UnreadableEngineError, BackendError."""

    def __init__(self, device: Device, plan: bytes, *, graph: str, log: Any, cuda_graphs: bool = True) -> None:
        import tensorrt as trt

        self.graph, self.cuda_graphs = graph, cuda_graphs
        self.graph_failure = ""  # why CUDA graphs are not used, if they were asked for and are not
        self._log, self._lock = log, threading.Lock()
        log.last_error = ""
        with device.current():
            held = self._held = Held(device, trt.Runtime(log))
            self._finalizer = weakref.finalize(self, held.release)
            held.engine = held.runtime.deserialize_cuda_engine(plan)
            if held.engine is None:
                self._finalizer()
                raise UnreadableEngineError(f"TensorRT cannot load the engine of {graph}: {self._reason()}")
            tensors = [_tensor(held.engine, name) for name in _names(held.engine)]
        self.inputs = {tensor.name: tensor for tensor in tensors if tensor.shapes is not None}
        self.outputs = {tensor.name: tensor for tensor in tensors if tensor.shapes is None}

    def takes(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether the engine was built for inputs of these shapes."""
        return all(tensor.takes(shapes[name]) for name, tensor in self.inputs.items())

    def check(self, inputs: Named) -> None:
        """BackendError unless these are the engine's inputs, of its types. Their strides do not matter."""
        if set(inputs) != set(self.inputs):
            found = ", ".join(sorted(inputs)) or "none"
            raise BackendError(f"{self.graph}: its inputs are {', '.join(sorted(self.inputs))}, not {found}")
        for name, tensor in self.inputs.items():
            array = inputs[name]
            if array.dtype != tensor.dtype:
                raise BackendError(f"{self.graph}: {name} must be {tensor.dtype}, not {array.dtype}")

    def run(self, inputs: Named) -> dict[str, Array]:
        """See `Runner.run`."""
        self.check(inputs)
        shapes = {name: inputs[name].shape for name in self.inputs}
        for name, tensor in self.inputs.items():
            if not tensor.takes(shapes[name]) and tensor.shapes is not None:
                low, _, high = tensor.shapes
                raise BackendError(
                    f"{self.graph}: {name} has shape {shapes[name]}, the engine takes {low} to {high}: "
                    "build one for other sizes with --shapes MIN:OPT:MAX"
                )
        with self._lock, self._ready() as stream:
            lane = self._lane(shapes)
            for name, tensor in self.inputs.items():
                buffer = self._held.buffers[name]
                np.copyto(buffer.view(tensor.dtype, shapes[name]), inputs[name])
                stream.upload(buffer.device, buffer.bytes(tensor.dtype, shapes[name]))
            self._launch(lane, stream)
            for name, tensor in self.outputs.items():
                buffer = self._held.buffers[name]
                stream.download(buffer.bytes(tensor.dtype, lane.outputs[name]), buffer.device)
            stream.synchronize()
            lane.runs += 1
            return {name: self._output(name, lane.outputs[name]) for name in self.outputs}

    def time(self, inputs: Named, runs: int) -> list[float]:
        """Milliseconds of the GPU for each of so many runs, without copies, after two that do not count."""
        for _ in range(2):
            self.run(inputs)
        times = []
        with self._lock, self._ready() as stream:
            lane = self._lane({name: inputs[name].shape for name in self.inputs})
            begin, end = Event(), Event()
            for _ in range(runs):
                begin.record(stream)
                self._launch(lane, stream)
                end.record(stream)
                times.append(end.milliseconds_since(begin))
            stream.synchronize()
            begin.free()
            end.free()
        return times

    @property
    def recorded(self) -> int:
        """How many shapes have a CUDA graph at the moment."""
        return sum(lane.graph is not None for lane in self._held.lanes.values())

    def close(self) -> None:
        """Release everything; `run` raises BackendError afterwards. May be called twice."""
        with self._lock:
            self._finalizer()

    @contextlib.contextmanager
    def _ready(self) -> Any:
        """The stream, with the context current; after a failure nothing that was queued is left."""
        held = self._held
        with held.device.current():
            if held.stream is None:
                raise BackendError(f"{self.graph}: the engine is closed; open the backend again")
            self._log.last_error = ""
            try:
                yield held.stream
            except BaseException as error:
                held.reset()
                if isinstance(error, RuntimeError):  # what pybind11 makes of C++ exceptions
                    raise BackendError(f"TensorRT failed in {self.graph}: {one_line(error)}") from error
                raise

    def _lane(self, shapes: Mapping[str, Shape]) -> Lane:
        """The lane of these shapes, with a CUDA graph from its second run on."""
        key, held = tuple(sorted(shapes.items())), self._held
        lane = held.lanes.pop(key, None)
        if lane is None:
            lane = held.lanes[key] = Lane(self._make_context())
            self._set_up(lane, shapes)
        held.lanes[key] = lane  # now the most recently used
        held.drop_lanes(SHAPES_KEPT)
        if self.cuda_graphs and not self.graph_failure and lane.runs and lane.graph is None:
            self._record(lane)
        return lane

    def _make_context(self) -> Any:
        import tensorrt as trt

        context = self._held.engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise BackendError(f"TensorRT cannot run {self.graph}: {self._reason()}; the GPU may be out of memory")
        return context

    def _set_up(self, lane: Lane, shapes: Mapping[str, Shape]) -> None:
        """Give a new context, the newest lane's, its shapes and memory."""
        held = self._held
        self._choose_profile(lane)
        for name, shape in shapes.items():
            if not lane.context.set_input_shape(name, shape):
                raise BackendError(f"{self.graph}: TensorRT refuses {name} of shape {shape}: {self._reason()}")
        if unknown := lane.context.infer_shapes():
            raise BackendError(f"{self.graph}: the shapes of the inputs do not fit together ({', '.join(unknown)})")
        lane.outputs = {name: tuple(lane.context.get_tensor_shape(name)) for name in self.outputs}
        sizes = {
            name: tensor.dtype.itemsize * math.prod(shapes[name] if name in shapes else lane.outputs[name])
            for name, tensor in {**self.inputs, **self.outputs}.items()
        }
        # 0 stands for an error as well as for nothing needed; then the profile's upper bound tells.
        needed = lane.context.update_device_memory_size_for_shapes()
        scratch = self._reserve(sizes, needed or held.engine.get_device_memory_size_for_profile_v2(PROFILE))
        lane.context.set_device_memory(scratch.address, scratch.size)
        for name in sizes:
            if not lane.context.set_tensor_address(name, held.buffers[name].device.address):
                raise BackendError(f"{self.graph}: TensorRT refuses the memory of {name}: {self._reason()}")

    def _choose_profile(self, lane: Lane) -> None:
        """Contexts begin with the only profile; should one not, it is told to, and that is waited for."""
        stream = self._held.stream
        if lane.context.active_optimization_profile == PROFILE or stream is None:
            return
        if not lane.context.set_optimization_profile_async(PROFILE, stream.handle):
            raise BackendError(f"TensorRT cannot run {self.graph}: {self._reason()}")
        stream.synchronize()

    def _reserve(self, sizes: Mapping[str, int], scratch: int) -> DeviceMemory:
        """Buffers of at least these sizes. All lanes share them: those that knew a smaller one are dropped first."""
        held = self._held
        small = [
            name for name, size in sizes.items() if name not in held.buffers or held.buffers[name].device.size < size
        ]
        if small or held.scratch is None or held.scratch.size < scratch:
            held.drop_lanes(keep=1)
        for name in small:
            if name in held.buffers:
                held.buffers.pop(name).free()
            held.buffers[name] = Buffer(sizes[name])
        if held.scratch is None or held.scratch.size < scratch:
            if held.scratch is not None:
                held.scratch.free()
            held.scratch = None  # if the next line fails
            held.scratch = DeviceMemory(scratch)
        return held.scratch

    def _record(self, lane: Lane) -> None:
        """Record the lane's work in a CUDA graph. If that cannot be, none is tried again."""
        stream = self._held.stream
        try:
            if stream is not None:
                lane.graph = Graph(stream, lambda: bool(lane.context.execute_async_v3(stream.handle)))
        except (BackendError, RuntimeError) as error:
            self.graph_failure = one_line(error) + (f" ({self._reason()})" if self._log.last_error else "")
            _LOG.info("%s runs without CUDA graphs: %s", self.graph, self.graph_failure)

    def _launch(self, lane: Lane, stream: Stream) -> None:
        if lane.graph is not None:
            lane.graph.launch(stream)
        elif not lane.context.execute_async_v3(stream.handle):
            raise BackendError(f"TensorRT failed in {self.graph}: {self._reason()}")

    def _output(self, name: str, shape: Shape) -> Array:
        """A copy of an output, as the buffer is used again."""
        dtype = self.outputs[name].dtype
        array = np.empty(shape, dtype)
        np.copyto(array, self._held.buffers[name].view(dtype, shape))
        return array

    def _reason(self) -> str:
        return one_line(self._log.last_error or "it gave no reason")


def _names(engine: Any) -> list[str]:
    return [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]


def _tensor(engine: Any, name: str) -> Tensor:
    import tensorrt as trt

    dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
    if engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT:
        return Tensor(name, dtype)
    fixed = tuple(engine.get_tensor_shape(name))
    if min(fixed, default=0) >= 0:  # a profile need not know it
        return Tensor(name, dtype, (fixed, fixed, fixed))
    low, best, high = (tuple(shape) for shape in engine.get_tensor_profile_shape(name, PROFILE))
    return Tensor(name, dtype, (low, best, high))
