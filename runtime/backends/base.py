"""The backend contract: what an engine must offer so that the codec can run its graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy.typing as npt

from vaert.package import Package

Array = npt.NDArray[Any]
Named = Mapping[str, Array]


class Runner(Protocol):
    """One loaded graph."""

    def run(self, inputs: Named) -> dict[str, Array]:
        """C-contiguous arrays by input name, with the manifest's types and shapes, to new arrays by output name.

        BackendError if the engine fails.
        """
        ...


class Backend(Protocol):
    """One engine on one device."""

    name: str
    flavour: str  # of the graphs that it runs: `vaert.package.CPU_FLAVOUR` or `TENSORRT_FLAVOUR`

    def load(self, package: Package, graph: str) -> Runner:
        """Load `graph` (without `.onnx`) of a package; BackendError says what the engine did not like."""
        ...

    def close(self) -> None:
        """Release what the engine holds, its runners first; they raise BackendError afterwards. May be called twice."""
        ...
