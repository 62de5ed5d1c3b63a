"""The little of CUDA that the TensorRT backend needs: pycuda's driver API, and CUDA graphs, which pycuda lacks.

Rules that hold everywhere: the device's primary context is the one used (TensorRT and ONNX Runtime use it as well);
it is current only inside `with device.current():`, in every thread; what was made inside is released inside.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vaert.errors import BackendError, MissingExtraError

Bytes = npt.NDArray[np.uint8]

LIBRARY = "libcuda.so.1"
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream; pycuda has no name for it
THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile
SUCCESS = 0
_RETAINING = threading.Lock()


class Device:
    """One GPU, by its index. Raises MissingExtraError without pycuda, BackendError if there is no such GPU."""

    def __init__(self, index: int = 0) -> None:
        _require_pycuda()
        import pycuda.driver as cuda

        try:
            cuda.init()
            count = cuda.Device.count()
            if not 0 <= index < count:
                raise BackendError(f"there is no GPU {index}: this machine has {count}, counted from 0, see nvidia-smi")
            device = cuda.Device(index)
            self.index, self.name = index, str(device.name())
            self.compute_capability = ".".join(map(str, device.compute_capability()))
            self.driver = driver_version()
            self._context = _primary_context(index)
        except cuda.Error as error:
            raise BackendError(f"the NVIDIA driver refuses GPU {index}: {one_line(error)}; see nvidia-smi") from error

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the primary context current in this thread for a while. BackendError for CUDA errors inside."""
        import pycuda.driver as cuda

        try:
            self._context.push()
        except cuda.Error as error:
            raise BackendError(f"GPU {self.index} cannot be used: {one_line(error)}") from error
        try:
            yield
        except cuda.MemoryError as error:
            raise BackendError(
                f"GPU {self.index} ({self.name}) has too little free memory: {one_line(error)}; "
                "close other programs, or choose smaller tiles or --shapes"
            ) from error
        except cuda.Error as error:
            raise BackendError(f"GPU {self.index} ({self.name}) failed: {one_line(error)}") from error
        finally:
            cuda.Context.pop()

    def memory(self) -> tuple[int, int]:
        """Free and total bytes. The context must be current."""
        import pycuda.driver as cuda

        free, total = cuda.mem_get_info()
        return int(free), int(total)


class Stream:
    """A queue of work on a device, not the default one. Made, used and released in the device's context."""

    def __init__(self) -> None:
        import pycuda.driver as cuda

        self._stream: Any = cuda.Stream(NON_BLOCKING)

    @property
    def handle(self) -> int:
        """The CUstream as a number."""
        return int(self._stream.handle)

    def upload(self, target: DeviceMemory, source: Bytes) -> None:
        """Queue a copy from page-locked memory, which must stay as it is until `synchronize`."""
        import pycuda.driver as cuda

        cuda.memcpy_htod_async(target.address, source, self._stream)

    def download(self, target: Bytes, source: DeviceMemory) -> None:
        """Queue a copy to page-locked memory, which may be read after `synchronize`."""
        import pycuda.driver as cuda

        cuda.memcpy_dtoh_async(target, source.address, self._stream)

    def synchronize(self) -> None:
        """Wait until all that was queued is done."""
        self._stream.synchronize()

    def free(self) -> None:
        """Give it back; nothing may be queued."""
        self._stream = None  # here and not with the last reference, which an exception's traceback may hold


class Event:
    """A moment on a stream, for timing."""

    def __init__(self) -> None:
        import pycuda.driver as cuda

        self._event: Any = cuda.Event()

    def record(self, stream: Stream) -> None:
        """Mark the moment when all that was queued before is done."""
        self._event.record(stream._stream)

    def milliseconds_since(self, earlier: Event) -> float:
        """Between two events; waits for this one."""
        self._event.synchronize()
        return float(self._event.time_since(earlier._event))

    def free(self) -> None:
        """Give it back."""
        self._event = None


class DeviceMemory:
    """Bytes on the device, at least one."""

    def __init__(self, size: int) -> None:
        import pycuda.driver as cuda

        self.size = max(size, 1)
        self._memory = cuda.mem_alloc(self.size)

    @property
    def address(self) -> int:
        """Where it lies on the device; BackendError once it is freed."""
        if self._memory is None:
            raise BackendError("device memory was used after it was freed; this is a defect of vaert")
        return int(self._memory)

    def free(self) -> None:
        """Give it back; may be called twice."""
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.free()


def pinned(size: int) -> Bytes:
    """Page-locked host memory of at least one byte; freed with its last view, in the device's context."""
    import pycuda.driver as cuda

    array: Bytes = cuda.pagelocked_empty(max(size, 1), np.dtype(np.uint8))
    return array


class Graph:
    """Work that was recorded once and is launched as one. Valid for the addresses and shapes it was recorded with."""

    def __init__(self, stream: Stream, work: Callable[[], bool]) -> None:
        """Record what `work` queues on the stream; BackendError if it, or the driver, says that this cannot be."""
        library = _library()
        graph, execution = ctypes.c_void_p(), ctypes.c_void_p()
        _check("cuStreamBeginCapture_v2", library.cuStreamBeginCapture_v2(stream.handle, THREAD_LOCAL))
        try:
            try:
                done = work()
            finally:  # a capture must be ended whatever happened, or the stream stays useless
                code = library.cuStreamEndCapture(stream.handle, ctypes.byref(graph))
            if not done:
                raise BackendError("the engine cannot be recorded in a CUDA graph")
            _check("cuStreamEndCapture", code)
            code = library.cuGraphInstantiateWithFlags(ctypes.byref(execution), graph, 0)
            _check("cuGraphInstantiateWithFlags", code)
        finally:
            if graph.value:
                library.cuGraphDestroy(graph)
        self._execution = execution

    def launch(self, stream: Stream) -> None:
        """Queue all of it."""
        _check("cuGraphLaunch", _library().cuGraphLaunch(self._execution, stream.handle))

    def free(self) -> None:
        """Give it back; may be called twice. It must not be running."""
        execution, self._execution = self._execution, ctypes.c_void_p()
        if execution.value:
            _check("cuGraphExecDestroy", _library().cuGraphExecDestroy(execution))


def missing() -> str:
    """Why no GPU can be used, in one line that says what would help, or an empty string. Makes no context."""
    from importlib.util import find_spec

    if find_spec("pycuda") is None:
        return "pycuda is not installed: pip install 'vaert[gpu]'"
    try:
        library = _library()
    except BackendError as error:
        return str(error)
    count = ctypes.c_int()
    code = library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count))
    if code != SUCCESS:
        return f"the NVIDIA driver does not start ({_name(code)}): see whether nvidia-smi works"
    return "" if count.value else "there is no NVIDIA GPU: see whether nvidia-smi lists one"


def driver_version() -> str:
    """Newest CUDA version that the driver serves, like `13.0`, and the driver's own where the system tells it."""
    import pycuda.driver as cuda

    number = int(cuda.get_driver_version())
    served = f"CUDA {number // 1000}.{number % 1000 // 10}"
    try:
        own = Path("/sys/module/nvidia/version").read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return served
    return f"{own} ({served})"


def version() -> str:
    """Version of pycuda. MissingExtraError, BackendError."""
    _require_pycuda()
    import pycuda

    return str(pycuda.VERSION_TEXT)


def one_line(error: BaseException | str) -> str:
    """First line of a text or of an error's text, or the error's type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _require_pycuda() -> None:
    try:
        import pycuda.driver  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("running a model with TensorRT", extra="gpu") from error
    except ImportError as error:  # built for another CUDA, or there is no driver
        raise BackendError(f"pycuda cannot be loaded: {one_line(error)}; install the NVIDIA driver") from error


def _primary_context(index: int) -> Any:
    """The primary context of a GPU, retained once and until the process ends.

    pycuda frees memory in any thread only under the very object that was current when it was allocated, and releasing
    a primary context leaves it on the thread's stack; besides, other libraries in this process rely on it.
    """
    with _RETAINING:
        return _retained_context(index)


@functools.cache
def _retained_context(index: int) -> Any:
    import pycuda.driver as cuda

    return cuda.Device(index).retain_primary_context()


@functools.cache
def _library() -> Any:
    """The driver's library, with the types of the functions that we call. BackendError if there is none."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise BackendError(f"there is no NVIDIA driver ({LIBRARY} is missing): install it, see nvidia-smi") from error
    pointer, address = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
    signatures: dict[str, list[Any]] = {
        "cuInit": [ctypes.c_uint],
        "cuDeviceGetCount": [ctypes.POINTER(ctypes.c_int)],
        "cuGetErrorName": [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)],
        "cuStreamBeginCapture_v2": [pointer, ctypes.c_int],
        "cuStreamEndCapture": [pointer, address],
        "cuGraphInstantiateWithFlags": [address, pointer, ctypes.c_ulonglong],
        "cuGraphLaunch": [pointer, pointer],
        "cuGraphExecDestroy": [pointer],
        "cuGraphDestroy": [pointer],
    }
    for name, arguments in signatures.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise BackendError(f"the NVIDIA driver has no {name}: install one of version 525 or newer") from error
        function.argtypes, function.restype = arguments, ctypes.c_int
    return library


def _check(name: str, code: int) -> None:
    if code != SUCCESS:
        raise BackendError(f"{name} failed: {_name(code)}")


def _name(code: int) -> str:
    """What the driver calls one of its error codes."""
    text = ctypes.c_char_p()
    if _library().cuGetErrorName(code, ctypes.byref(text)) == SUCCESS and text.value:
        return f"{text.value.decode('ascii', 'replace')} ({code})"
    return f"error {code}"
