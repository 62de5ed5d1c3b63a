"""Which engine runs a package: the one that was named, or the best that computes the package right.

The engines are a list, best first, of names of modules: a module is imported when its engine is looked at, the engine's
own library when a backend is made. Each module but the CPU's offers `available() -> str`: what is missing, or "".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

from vaert.errors import BackendError, OptionError, VaertError
from vaert.package import Package
from vaert.runtime.backends.base import Backend, Runner

AUTO = "auto"
NAMES = (AUTO, "cpu", "cuda", "tensorrt", "ort-tensorrt")
DRIVER = "libcuda.so.1"
Progress = Callable[[int, int], None]
"""Called with done and total."""


@dataclass(frozen=True)
class Engine:
    """One line of the list: the backend's name, its module and the class in it.

    options: arguments of `make` that the class takes.
    """

    name: str
    module: str
    factory: str
    gpu: bool = True
    options: tuple[str, ...] = ()

    def missing(self) -> str:
        """One line that says why this backend cannot be made here, and what would help; "" if it can."""
        if not self.gpu:
            return ""  # its constructor tells at no cost
        try:
            return str(import_module(self.module).available())
        except Exception as error:  # noqa: BLE001 - whatever the look met, the backend cannot be used
            return failure(error)

    def make(self, *, threads: int | None = None, progress: Progress | None = None) -> Backend:
        """The backend; `threads` are those of the CPU. BackendError, MissingExtraError, OptionError."""
        given = {"threads": threads, "progress": progress}
        options = {name: given[name] for name in self.options}
        try:
            backend: Backend = getattr(import_module(self.module), self.factory)(**options)
        except VaertError:
            raise
        except Exception as error:  # of a native library: they raise anything
            raise BackendError(f"the {self.name} backend cannot be made: {failure(error)}") from error
        return backend


ENGINES = (
    Engine("tensorrt", "vaert.runtime.backends.tensorrt", "TensorRt", options=("progress",)),
    Engine("cuda", "vaert.runtime.backends.onnxruntime_cuda", "OnnxRuntimeCuda"),
    Engine("ort-tensorrt", "vaert.runtime.backends.onnxruntime_tensorrt", "OnnxRuntimeTensorRt"),
    Engine("cpu", "vaert.runtime.backends.onnxruntime_cpu", "OnnxRuntimeCpu", gpu=False, options=("threads",)),
)


Make = Callable[[Engine], Backend]


@dataclass(frozen=True)
class PassedOver:
    """A backend that `auto` did not take, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Choice:
    """The backend taken, how it came to that, and the better ones that were passed over."""

    backend: Backend
    why: str
    passed_over: tuple[PassedOver, ...] = ()

    def lines(self) -> list[str]:
        """For people, one line a backend."""
        rejected = [f"backend {one.name} passed over: {one.reason}" for one in self.passed_over]
        return [*rejected, f"backend {self.backend.name} taken: {self.why}"]


def open_backend(name: str | Backend, *, threads: int | None = None, package: Package | None = None) -> Backend:
    """The backend of that name; `auto` is the best that computes `package` right. A backend is returned as it is.

    OptionError if there is none of that name; BackendError or MissingExtraError, with what would help, if it cannot be
    used here: another one never takes its place.
    """
    return choose(name, threads=threads, package=package).backend


def choose(
    name: str | Backend,
    *,
    threads: int | None = None,
    package: Package | None = None,
    progress: Progress | None = None,
) -> Choice:
    """The same with the reasons. Without a package `auto` takes the best that is there, untried.

    progress: called with done and total while an engine is built, which may take minutes, now or later.
    """
    if not isinstance(name, str):
        return Choice(name, "it was given")
    if name == AUTO:
        return _best(partial(Engine.make, threads=threads, progress=progress), package)
    for engine in ENGINES:
        if engine.name == name:
            if reason := engine.missing():
                raise BackendError(f"the {name} backend cannot be used here: {reason}")
            return Choice(engine.make(threads=threads, progress=progress), "it was asked for by name")
    raise OptionError(f"no backend named {name!r}; there are {', '.join(NAMES)}")


def _best(make: Make, package: Package | None) -> Choice:
    """The first that is there and right. The last one is the reference: not tried, and its errors are the answer."""
    passed_over: list[PassedOver] = []
    *better, last = ENGINES
    missing = driver_missing() if any(engine.gpu for engine in better) else ""
    for engine in better:
        reason = missing if engine.gpu else ""
        if not reason:
            found = _tried(engine, make, package)
            if not isinstance(found, str):
                why = "the best of those that are there" if package is None else "its known answers are right"
                return Choice(found, why, tuple(passed_over))
            reason = found
        passed_over.append(PassedOver(engine.name, reason))
    why = "none better can be used" if better else "it is the only one"
    return Choice(make(last), why, tuple(passed_over))


def _tried(engine: Engine, make: Make, package: Package | None) -> Backend | str:
    """The backend if it can be made and is right, else why not."""
    if reason := engine.missing():
        return reason
    try:
        backend = Tried(make(engine))
    except Exception as error:  # noqa: BLE001 - native libraries raise anything, and the next backend may do
        return failure(error)
    if package is not None and (reason := _wrong(backend, package)):
        with suppress(Exception):
            backend.close()
        return reason
    backend.tried()
    return backend


def _wrong(backend: Backend, package: Package) -> str:
    try:
        from vaert.runtime.trial import wrong_answers

        return wrong_answers(package, backend)
    except Exception as error:  # noqa: BLE001 - as above
        return failure(error)


class Tried:
    """A backend that hands out, once, the graphs that were loaded to try it: engines are slow to load."""

    def __init__(self, backend: Backend) -> None:
        self.name, self.flavour, self._backend = backend.name, backend.flavour, backend
        self._loaded: dict[tuple[Path, str], Runner] = {}
        self._trying = True

    def load(self, package: Package, graph: str) -> Runner:
        """See `Backend.load`."""
        key = (package.path, graph)
        if not self._trying:
            return self._loaded.pop(key, None) or self._backend.load(package, graph)
        self._loaded[key] = self._backend.load(package, graph)
        return self._loaded[key]

    def tried(self) -> None:
        """End of the trial: from now on what was loaded is handed out."""
        self._trying = False

    def close(self) -> None:
        """See `Backend.close`."""
        self._loaded.clear()
        self._backend.close()


def driver_missing() -> str:
    """Why no GPU can be used, "" if NVIDIA's driver is there. Costs less than a millisecond where it is not."""
    import ctypes

    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return (
            f"no NVIDIA driver: {DRIVER} is not found (apt-get install nvidia-driver-580, or run on a machine with one)"
        )
    return ""


def failure(error: BaseException) -> str:
    """An error as one line: ours speak for themselves, others need the name of their type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, VaertError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")
