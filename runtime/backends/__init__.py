"""Engines behind one contract. Engine libraries are imported only here, and only when a backend is made."""

from __future__ import annotations

from vaert.runtime.backends.base import Backend, Runner
from vaert.runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
from vaert.runtime.backends.selection import open_backend

__all__ = ["Backend", "OnnxRuntimeCpu", "Runner", "open_backend"]
