"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np

from vaert.errors import OptionError
from vaert.package import CPU_FLAVOUR, Package
from vaert.runtime.backends._onnxruntime import (
    CPU_PROVIDER,
    EXTERNAL_DATA,
    OpenRunners,
    guarded,
    import_onnxruntime,
)
from vaert.runtime.backends.base import Array, Named

MAPPED_BYTES = 31 << 20
OPTIMISATIONS = ("all", "none")


class OnnxRuntimeCpu:
    """The reference backend, present in every installation with `vaert[cpu]` or `vaert[gpu]`.

    threads: of one graph run, all cores if None. optimisation: "all" or "none" (to prove that it changes nothing).
    """

    name = "cpu"
    flavour = CPU_FLAVOUR

    def __init__(self, *, threads: int | None = None, optimisation: str = "all") -> None:
        onnxruntime = import_onnxruntime("cpu")
        _keep_freed_memory()
        if threads is not None and threads < 1:
            raise OptionError(f"threads must be at least 1, not {threads}")
        if optimisation not in OPTIMISATIONS:
            raise OptionError(f"optimisation must be one of {', '.join(OPTIMISATIONS)}, not {optimisation!r}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimisation == "all" else levels.ORT_DISABLE_ALL
        # It plans memory per shape and keeps it: tiles at the borders have other shapes.
        options.enable_mem_pattern = False
        # Without it the idle workers of one graph spin on the core that the next graph needs: compress 85 ms, not 30.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._onnxruntime, self._options, self._runners = onnxruntime, options, OpenRunners()

    def load(self, package: Package, graph: str) -> OnnxRuntimeRunner:
        """Load a graph of a package. ModelError if its file is damaged, BackendError if the engine refuses it."""
        self._runners.require_open(self.name)
        data = package.read_graph(graph, self.flavour)
        self._options.add_session_config_entry(EXTERNAL_DATA, str(package.path))
        session = guarded(
            f"ONNX Runtime cannot load {graph} of {package.path}",
            lambda: self._onnxruntime.InferenceSession(
                data, self._options, providers=[CPU_PROVIDER], enable_fallback=0
            ),
        )
        runner = OnnxRuntimeRunner(session, graph)
        self._runners.add(runner)
        return runner

    def close(self) -> None:
        """See `Backend.close`."""
        self._runners.close()


@cache
def _keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next array: giving it back costs a page fault for every 4 kB.

    Freeing an array once raises the size from which glibc maps memory separately to that of the array, and what it
    keeps to twice as much (mallopt(3), M_MMAP_THRESHOLD; 32 MB is the largest). Nothing is touched, so nothing is used.
    """
    np.empty(MAPPED_BYTES, np.uint8)


class OnnxRuntimeRunner:
    """One session."""

    def __init__(self, session: Any, graph: str) -> None:
        self._session, self._graph = session, graph
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, inputs: Named) -> dict[str, Array]:
        """See `Runner.run`."""
        session = self._session
        failed = f"ONNX Runtime failed in {self._graph}"
        values = guarded(failed, lambda: session.run(self._outputs, dict(inputs)))
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        """Release the session; `run` raises BackendError afterwards."""
        self._session = _Closed()


class _Closed:
    """What takes the place of a session that was released."""

    def run(self, *_: object) -> None:
        raise RuntimeError("its backend was closed; make a new one")
