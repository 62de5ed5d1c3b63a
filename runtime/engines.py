"""TensorRT engines of a whole package, built ahead of their first use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vaert.package import Package
from vaert.runtime.backends.shapes import default_shapes, input_ranges
from vaert.runtime.backends.tensorrt import EngineReport, TensorRt

RUNS = 20
TYPES = {"float": "float32"}  # of the manifest, where numpy's name is another


@dataclass(frozen=True)
class Built:
    """One engine. milliseconds: median of a run with copies, at the sizes it is tuned for."""

    report: EngineReport
    milliseconds: float


def build_engines(package: Package, *, progress: Callable[[int, int], None] | None = None) -> Iterator[Built]:
    """Build, or find in the cache, the engine of each graph and time it. MissingExtraError, BackendError."""
    backend = TensorRt(progress=progress)
    try:
        for graph in package.manifest.graphs:
            report = backend.engine_report(package, graph)
            yield Built(report, _milliseconds(backend, package, graph))
    finally:
        backend.close()


def _milliseconds(backend: TensorRt, package: Package, graph: str) -> float:
    usual = input_ranges(package.manifest, graph, default_shapes(package.manifest))
    types = {tensor["name"]: tensor["type"] for tensor in package.manifest.graphs[graph]["inputs"]}
    inputs = {name: np.zeros(usual[name][1], TYPES.get(kind, kind)) for name, kind in types.items()}
    runner, times = backend.load(package, graph), []
    for _ in range(RUNS):
        start = time.perf_counter()
        runner.run(inputs)
        times.append(time.perf_counter() - start)
    return float(1000 * np.median(times[RUNS // 4 :]))
