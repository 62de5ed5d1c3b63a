"""Engines behind one contract. Engine libraries are imported only here, and only when a backend is made."""

from __future__ import annotations

from vaert.errors import OptionError
from vaert.package import Package
from vaert.runtime.backends.base import Backend, Runner
from vaert.runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu

__all__ = ["Backend", "OnnxRuntimeCpu", "Runner", "open_backend"]

NAMES = ("auto", "cpu")


def open_backend(name: str | Backend, *, threads: int | None = None, package: Package | None = None) -> Backend:
    """The backend of that name; `auto` is the best one installed. A backend is returned as it is.

    OptionError if there is none of that name.
    """
    if not isinstance(name, str):
        return name
    if name not in NAMES:
        raise OptionError(f"no backend named {name!r}; there are {', '.join(NAMES)}")
    return OnnxRuntimeCpu(threads=threads)
