"""Networks run by torch behind the backend contract: what float16 does is seen on a CPU only here.

ONNX Runtime's CPU kernels compute float16 graphs in float32, so an overflow would go unseen; torch rounds every result.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from vaert.export.trace import Network
from vaert.package import CPU_FLAVOUR, Package
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.runtime.backends.base import Array, Named, Runner


class TorchBackend:
    """Runs the given networks by torch, graphs that are not among them (the exact ones) by ONNX Runtime."""

    name = "torch"
    flavour = CPU_FLAVOUR

    def __init__(self, networks: Mapping[str, Network]) -> None:
        self._networks, self._rest = networks, OnnxRuntimeCpu()

    def load(self, package: Package, graph: str) -> Runner:
        """See `Backend.load`."""
        if graph in self._networks:
            return TorchRunner(self._networks[graph])
        return self._rest.load(package, graph)

    def close(self) -> None:
        """See `Backend.close`."""
        self._rest.close()


class TorchRunner:
    """One network."""

    def __init__(self, network: Network) -> None:
        self._network = network

    @torch.no_grad()
    def run(self, inputs: Named) -> dict[str, Array]:
        """See `Runner.run`."""
        made = self._network.module(*(torch.from_numpy(inputs[name].copy()) for name in self._network.inputs))
        values = made if isinstance(made, tuple) else (made,)
        return {name: value.numpy() for name, value in zip(self._network.outputs, values, strict=True)}
