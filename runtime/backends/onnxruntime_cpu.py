"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from typing import Any

from vaert.errors import BackendError, MissingExtraError, OptionError
from vaert.package import CPU_FLAVOUR, Package
from vaert.runtime.backends.base import Array, Named

OPTIMISATIONS = ("all", "none")
EXTERNAL_DATA = "session.model_external_initializers_file_folder_path"


class OnnxRuntimeCpu:
    """The reference backend, present in every installation with `vaert[cpu]` or `vaert[gpu]`.

    threads: of one graph run, all cores if None. optimisation: "all" or "none" (to prove that it changes nothing).
    """

    name = "cpu"
    flavour = CPU_FLAVOUR

    def __init__(self, *, threads: int | None = None, optimisation: str = "all") -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingExtraError("running a model", extra="cpu") from error
        except ImportError as error:  # installed, but a library of it is missing or damaged
            raise BackendError(f"ONNX Runtime cannot be loaded: {_first_line(error)}; install it again") from error
        if threads is not None and threads < 1:
            raise OptionError(f"threads must be at least 1, not {threads}")
        if optimisation not in OPTIMISATIONS:
            raise OptionError(f"optimisation must be one of {', '.join(OPTIMISATIONS)}, not {optimisation!r}")
        onnxruntime.set_default_logger_severity(3)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimisation == "all" else levels.ORT_DISABLE_ALL
        # It plans memory per shape and keeps it: tiles at the borders have other shapes.
        options.enable_mem_pattern = False
        # Without it the idle workers of one graph spin on the core that the next graph needs: compress 85 ms, not 30.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._onnxruntime, self._options = onnxruntime, options

    def load(self, package: Package, graph: str) -> OnnxRuntimeRunner:
        """Load a graph of a package. ModelError if its file is damaged, BackendError if the engine refuses it."""
        data = package.read_graph(graph, self.flavour)
        self._options.add_session_config_entry(EXTERNAL_DATA, str(package.path))
        try:
            session = self._onnxruntime.InferenceSession(
                data, self._options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime's errors share no base class but Exception
            raise BackendError(f"ONNX Runtime cannot load {graph} of {package.path}: {_first_line(error)}") from error
        return OnnxRuntimeRunner(session, graph)

    def close(self) -> None:
        """Nothing to do: a session is released with its runner."""


class OnnxRuntimeRunner:
    """One session."""

    def __init__(self, session: Any, graph: str) -> None:
        self._session, self._graph = session, graph
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, inputs: Named) -> dict[str, Array]:
        """See `Runner.run`."""
        try:
            values = self._session.run(self._outputs, dict(inputs))
        except Exception as error:  # as above
            raise BackendError(f"ONNX Runtime failed in {self._graph}: {_first_line(error)}") from error
        return dict(zip(self._outputs, values, strict=True))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
