"""A strict stand-in for `pycuda.driver` and `libcuda.so.1`: what a GPU forgives or punishes at random is an error here.

Device memory is numpy bytes at made-up addresses. Copies and kernels wait in their stream until it is synchronised, so
a missing synchronisation is seen. A `Fault` is raised at once and also kept in `World.faults`, as code may swallow it.
"""

from __future__ import annotations

import builtins
import ctypes
import importlib.machinery
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

Op = Callable[[], None]
FREED, UNWRITTEN, IN_FLIGHT = 0xDD, 0xEE, 0xA5  # what memory holds while nobody may read it


class Fault(AssertionError):
    """The code under test broke a rule."""


class Error(Exception):
    """pycuda's base class."""


class LogicError(Error): ...


class OutOfMemory(Error, builtins.MemoryError): ...


@dataclass
class Block:
    """One allocation on the device."""

    address: int
    data: np.ndarray[Any, np.dtype[np.uint8]]
    freed: bool = False
    written: int = 0  # bytes from its start


@dataclass
class World:
    """One machine. `faults` and `live()` tell at the end of a test what went wrong."""

    total_memory: int = 1 << 34
    devices: int = 1
    driver: int = 13000
    faults: list[str] = field(default_factory=list)
    blocks: dict[int, Block] = field(default_factory=dict)
    streams: weakref.WeakValueDictionary[int, Stream] = field(default_factory=weakref.WeakValueDictionary)
    graphs: dict[int, list[Op]] = field(default_factory=dict)
    executions: dict[int, list[Op]] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)  # of the fake TensorRT, alive
    counts: dict[str, int] = field(default_factory=dict)  # how often something was done
    refuse_graphs: bool = False
    initialised: bool = False
    next_handle: int = 0x1000
    next_address: int = 0x7F00_0000_0000
    objects_lock: Any = field(default_factory=threading.RLock)  # also taken by destructors
    lock: threading.Lock = field(default_factory=threading.Lock)
    thread: threading.local = field(default_factory=threading.local)

    def fault(self, text: str) -> Fault:
        self.faults.append(text)
        return Fault(text)

    def handle(self) -> int:
        with self.lock:
            self.next_handle += 0x10
            return self.next_handle

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    @property
    def stack(self) -> list[Context]:
        if not hasattr(self.thread, "stack"):
            self.thread.stack = []
        stack: list[Context] = self.thread.stack
        return stack

    def current(self, what: str) -> Context:
        if not self.stack:
            raise self.fault(f"{what}: no context is current in this thread")
        return self.stack[-1]

    def made(self, kind: str, change: int) -> None:
        with self.objects_lock:
            self.objects[kind] = self.objects.get(kind, 0) + change

    def live(self) -> dict[str, int]:
        """What still exists, by kind."""
        found = {
            "device memory": sum(not block.freed for block in list(self.blocks.values())),
            "streams": len(self.streams),
            "graphs": len(self.graphs) + len(self.executions),
            **self.objects,
        }
        return {kind: count for kind, count in found.items() if count}

    def memory(self, address: int, size: int, what: str) -> Block:
        """The allocation that holds these bytes."""
        for block in list(self.blocks.values()):
            if block.address <= address < block.address + len(block.data):
                if block.freed:
                    raise self.fault(f"{what}: device memory was freed")
                if address + size > block.address + len(block.data):
                    raise self.fault(f"{what}: {size} bytes at {address:#x} pass the end of the allocation")
                return block
        raise self.fault(f"{what}: {address:#x} is no device memory")

    def stream(self, handle: int, what: str) -> Stream:
        if handle == 0:
            raise self.fault(f"{what}: the default stream is used")
        if handle not in self.streams:
            raise self.fault(f"{what}: {handle:#x} is no stream, or one that was destroyed")
        return self.streams[handle]


class Context:
    """A primary context."""

    def __init__(self, world: World) -> None:
        self._world, self._maker = world, threading.get_ident()

    def push(self) -> None:
        self._world.stack.append(self)

    def reachable(self, kind: str) -> bool:
        """pycuda frees things only under the object that was current when they were made, or in its thread."""
        stack = self._world.stack
        if stack and stack[-1] is self:
            return True
        self._world.faults.append(f"{kind} was released while its context was not current")
        return False


class Stream:
    """Work in order, none of which is done before somebody waits."""

    def __init__(self, world: World, flags: int = 0) -> None:
        self._world, self._context = world, world.current("Stream")
        self.pending: list[Op] = []
        self.capture: list[Op] | None = None
        self.captured_by = 0  # a thread
        self.busy: list[object] = []  # host memory with work here
        self.handle = world.handle()
        world.streams[self.handle] = self

    def synchronize(self) -> None:
        self._world.current("Stream.synchronize")
        if self.capture is not None:
            raise self._world.fault("a stream was synchronised while it is captured")
        pending, self.pending = self.pending, []
        for op in pending:
            op()
        self.busy.clear()

    def queue(self, op: Op, *owners: object) -> None:
        if self.capture is not None:
            self.capture.append(op)
        else:
            self.pending.append(op)
            self.busy += owners

    def __del__(self) -> None:
        if self.pending:
            self._world.faults.append("a stream was destroyed with work pending")
        if self._context.reachable("a stream"):
            self._world.streams.pop(self.handle, None)


class Event:
    def __init__(self, world: World, flags: int = 0) -> None:
        self._world, self._stream = world, None
        self._context = world.current("Event")
        self._recorded: Stream | None = None
        world.made("events", 1)

    def record(self, stream: Stream | None = None) -> Event:
        if stream is None:
            raise self._world.fault("Event.record: the default stream is used")
        self._recorded = stream
        return self

    def synchronize(self) -> Event:
        if self._recorded is None:
            raise LogicError("cuEventSynchronize failed: the event was not recorded")
        self._recorded.synchronize()
        return self

    def time_since(self, other: Event) -> float:
        if self._recorded is None or other._recorded is None:
            raise LogicError("cuEventElapsedTime failed: invalid resource handle")
        return 0.25

    def __del__(self) -> None:
        self._context.reachable("an event")
        self._world.made("events", -1)


class DeviceAllocation:
    def __init__(self, world: World, size: int) -> None:
        self._world, self._context = world, world.current("mem_alloc")
        if any(stream.captured_by == threading.get_ident() for stream in list(world.streams.values())):
            raise world.fault("device memory was allocated while a stream is captured")
        if size < 1:
            raise LogicError("cuMemAlloc failed: invalid argument")
        used = sum(len(block.data) for block in list(world.blocks.values()) if not block.freed)
        if used + size > world.total_memory:
            raise OutOfMemory("cuMemAlloc failed: out of memory")
        with world.objects_lock:  # never an address twice, so that stale ones are seen
            address = world.next_address
            world.next_address += (size + 0xFFF) & ~0xFFF
            self._block = Block(address, np.full(size, UNWRITTEN, np.uint8))
            world.blocks[address] = self._block

    def __int__(self) -> int:
        return self._block.address

    def free(self) -> None:
        if self._block.freed:
            raise LogicError("device_allocation::free failed: invalid resource handle")
        if self._context.reachable("device memory"):
            self._block.freed = True
            self._block.data[:] = FREED

    def __del__(self) -> None:
        block = getattr(self, "_block", None)
        if block is not None and not block.freed:
            self.free()


class PinnedOwner:
    """The allocation behind page-locked arrays; it goes with the last of them."""

    def __init__(self, world: World) -> None:
        self._world, self._context = world, world.current("pagelocked_empty")
        world.made("page-locked memory", 1)

    def __del__(self) -> None:
        if self._context.reachable("page-locked memory"):
            self._world.made("page-locked memory", -1)

    def check(self, what: str) -> None:
        if any(self is owner for stream in list(self._world.streams.values()) for owner in stream.busy):
            raise self._world.fault(f"page-locked memory was {what} before its stream was synchronised")


class PinnedArray(np.ndarray[Any, np.dtype[Any]]):
    """Says when it is read or written while a copy is under way."""

    owner: PinnedOwner | None

    def __array_finalize__(self, base: Any) -> None:
        self.owner = getattr(base, "owner", None)

    def _check(self, what: str) -> None:
        if self.owner is not None:
            self.owner.check(what)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        for value in args:
            if isinstance(value, PinnedArray):
                value._check("used")
        return function(*(plain(value) for value in args), **kwargs)

    def __array_ufunc__(self, ufunc: Any, method: Any, *inputs: Any, **kwargs: Any) -> Any:
        for value in inputs:
            if isinstance(value, PinnedArray):
                value._check("used")
        return getattr(ufunc, method)(*(plain(value) for value in inputs), **kwargs)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._check("written")
        super().__setitem__(key, value)

    def copy(self, *args: Any, **kwargs: Any) -> Any:
        self._check("read")
        return super().copy(*args, **kwargs)

    def tobytes(self, *args: Any, **kwargs: Any) -> bytes:
        self._check("read")
        return super().tobytes(*args, **kwargs)


def plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, PinnedArray) else value


def _pinned(world: World, shape: Any, dtype: Any) -> PinnedArray:
    array: PinnedArray = np.full(shape, UNWRITTEN, np.uint8).view(np.dtype(dtype)).view(PinnedArray)
    if not array.size:
        raise LogicError("cuMemHostAlloc failed: invalid argument")
    array.owner = PinnedOwner(world)
    return array


def _upload(world: World, dest: int, src: Any, stream: Stream | None = None) -> None:
    stream, host = _copy(world, "memcpy_htod_async", src, stream)
    block = world.memory(dest, host.nbytes, "memcpy_htod_async")
    before = host.tobytes()

    def op() -> None:
        if block.freed:
            raise world.fault("memcpy_htod_async: the device memory was freed before the copy was done")
        if host.tobytes() != before:
            raise world.fault("page-locked memory was written before its copy to the device was done")
        start = dest - block.address
        block.data[start : start + host.nbytes] = host
        block.written = max(block.written, start + host.nbytes)

    stream.queue(op, src.owner)


def _download(world: World, dest: Any, src: int, stream: Stream | None = None) -> None:
    stream, host = _copy(world, "memcpy_dtoh_async", dest, stream)
    block = world.memory(src, host.nbytes, "memcpy_dtoh_async")
    host[:] = IN_FLIGHT

    def op() -> None:
        if block.freed:
            raise world.fault("memcpy_dtoh_async: the device memory was freed before the copy was done")
        start = src - block.address
        if block.written < start + host.nbytes:
            raise world.fault("an output was read that nothing has written")
        host[:] = block.data[start : start + host.nbytes]

    stream.queue(op, dest.owner)


def _copy(world: World, what: str, host: Any, stream: Stream | None) -> tuple[Stream, Any]:
    world.current(what)
    if stream is None:
        raise world.fault(f"{what}: the default stream is used")
    if not isinstance(host, PinnedArray) or host.owner is None:
        raise world.fault(f"{what}: the host memory is not page-locked, so the copy is not asynchronous")
    if not host.flags.c_contiguous:
        raise ValueError("ndarray is not contiguous")
    return stream, host.view(np.ndarray).reshape(-1).view(np.uint8)


def driver_module(world: World) -> ModuleType:
    """`pycuda.driver`, with what we use of it."""

    class FakeContext(Context):
        @staticmethod
        def pop() -> None:
            if not world.stack:
                raise LogicError("context::pop failed: invalid device context - cannot pop non-current context")
            world.stack.pop()

    class Device:
        def __init__(self, ordinal: int) -> None:
            if not world.initialised:
                raise LogicError("cuDeviceGet failed: initialization error")
            if not 0 <= ordinal < world.devices:
                raise LogicError("cuDeviceGet failed: invalid device ordinal")

        @staticmethod
        def count() -> int:
            if not world.initialised:
                raise LogicError("cuDeviceGetCount failed: initialization error")
            return world.devices

        def name(self) -> str:
            return "Fake GPU"

        def compute_capability(self) -> tuple[int, int]:
            return (9, 0)

        def retain_primary_context(self) -> FakeContext:
            world.count("primary contexts")
            return FakeContext(world)

    def init(flags: int = 0) -> None:
        if world.devices < 0:
            raise LogicError("cuInit failed: no CUDA-capable device is detected")
        world.initialised = True

    def mem_get_info() -> tuple[int, int]:
        world.current("mem_get_info")
        used = sum(len(block.data) for block in list(world.blocks.values()) if not block.freed)
        return world.total_memory - used, world.total_memory

    module = ModuleType("pycuda.driver")
    module.__spec__ = importlib.machinery.ModuleSpec("pycuda.driver", None)
    names: dict[str, Any] = {
        "init": init,
        "Device": Device,
        "Context": FakeContext,
        "Stream": lambda flags=0: Stream(world, flags),
        "Event": lambda flags=0: Event(world, flags),
        "mem_alloc": lambda size: DeviceAllocation(world, size),
        "mem_get_info": mem_get_info,
        "pagelocked_empty": lambda shape, dtype, order="C", mem_flags=0: _pinned(world, shape, dtype),
        "memcpy_htod_async": lambda dest, src, stream=None: _upload(world, dest, src, stream),
        "memcpy_dtoh_async": lambda dest, src, stream=None: _download(world, dest, src, stream),
        "get_driver_version": lambda: world.driver,
        "Error": Error,
        "LogicError": LogicError,
        "MemoryError": OutOfMemory,
    }
    for name, value in names.items():
        setattr(module, name, value)
    return module


class Function:
    """One function of a C library: it wants its types declared, and arguments of these types."""

    def __init__(self, world: World, name: str, work: Callable[..., int]) -> None:
        self._world, self._name, self._work = world, name, work
        self.argtypes: Any = None
        self.restype: Any = None

    def __call__(self, *args: Any) -> int:
        if self.argtypes is None or self.restype is not ctypes.c_int:
            raise self._world.fault(f"{self._name}: its argument and result types are not declared")
        if len(args) != len(self.argtypes):
            raise self._world.fault(f"{self._name}: {len(args)} arguments instead of {len(self.argtypes)}")
        for value, kind in zip(args, self.argtypes, strict=True):
            kind.from_param(value)  # TypeError as ctypes raises it
        return self._work(*(value.value if isinstance(value, ctypes.c_void_p) else value for value in args))


class Library:
    """`libcuda.so.1`, with what we use of it."""

    def __init__(self, world: World) -> None:
        self._world = world
        for name in (
            "cuInit", "cuDeviceGetCount", "cuGetErrorName", "cuStreamBeginCapture_v2", "cuStreamEndCapture",
            "cuGraphInstantiateWithFlags", "cuGraphLaunch", "cuGraphExecDestroy", "cuGraphDestroy",
        ):  # fmt: skip
            work = getattr(self, f"_{name}")
            setattr(self, name, Function(world, name, work))

    def _cuInit(self, flags: int) -> int:
        return 100 if self._world.devices < 0 else 0

    def _cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self._world.devices
        return 0

    def _cuGetErrorName(self, code: int, text: Any) -> int:
        names = {
            1: b"CUDA_ERROR_INVALID_VALUE",
            100: b"CUDA_ERROR_NO_DEVICE",
            900: b"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        }
        text._obj.value = names.get(code)
        return 0 if code in names else 1

    def _cuStreamBeginCapture_v2(self, handle: int, mode: int) -> int:
        self._world.current("cuStreamBeginCapture_v2")
        stream = self._world.stream(handle, "cuStreamBeginCapture_v2")
        if mode not in (1, 2):
            raise self._world.fault("capture in global mode fails as soon as another thread allocates")
        if stream.capture is not None or stream.pending:
            raise self._world.fault("a capture began on a stream with work pending or captured already")
        stream.capture, stream.captured_by = [], threading.get_ident()
        return 0

    def _cuStreamEndCapture(self, handle: int, graph: Any) -> int:
        stream = self._world.stream(handle, "cuStreamEndCapture")
        if stream.capture is None:
            return 1
        ops, stream.capture, stream.captured_by = stream.capture, None, 0
        if self._world.refuse_graphs:
            return 900
        graph._obj.value = self._world.handle()
        self._world.graphs[graph._obj.value] = ops
        return 0

    def _cuGraphInstantiateWithFlags(self, execution: Any, graph: int, flags: int) -> int:
        execution._obj.value = self._world.handle()
        self._world.executions[execution._obj.value] = self._world.graphs[graph]
        return 0

    def _cuGraphLaunch(self, execution: int, handle: int) -> int:
        self._world.current("cuGraphLaunch")
        if execution not in self._world.executions:
            raise self._world.fault("cuGraphLaunch: the graph was destroyed")
        for op in self._world.executions[execution]:
            self._world.stream(handle, "cuGraphLaunch").queue(op)
        self._world.count("graph launches")
        return 0

    def _cuGraphExecDestroy(self, execution: int) -> int:
        self._world.current("cuGraphExecDestroy")
        return 0 if self._world.executions.pop(execution, None) is not None else 1

    def _cuGraphDestroy(self, graph: int) -> int:
        return 0 if self._world.graphs.pop(graph, None) is not None else 1


def install(world: World, monkeypatch: Any) -> None:
    """Put the stand-ins where `import pycuda.driver` and `ctypes.CDLL` find them."""
    import sys

    from vaert.runtime.backends import cuda

    package = ModuleType("pycuda")
    package.__spec__ = importlib.machinery.ModuleSpec("pycuda", None, is_package=True)
    module = driver_module(world)
    for name, value in {"__path__": [], "VERSION_TEXT": "2026.1", "driver": module}.items():
        setattr(package, name, value)
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", module)
    real, library = ctypes.CDLL, Library(world)
    monkeypatch.setattr(ctypes, "CDLL", lambda name, *rest: library if name == cuda.LIBRARY else real(name, *rest))
    cuda._library.cache_clear()
    cuda._retained_context.cache_clear()


def forget() -> None:
    """Let the code under test forget this machine."""
    from vaert.runtime.backends import cuda

    cuda._library.cache_clear()
    cuda._retained_context.cache_clear()
