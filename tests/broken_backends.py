"""Stand-ins for engines on a GPU machine: a right one, and one for each way to be wrong; the CPU runs all."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np

from vaert.package import Package
from vaert.runtime.backends import OnnxRuntimeCpu, Runner
from vaert.runtime.backends.base import Named
from vaert.runtime.backends.selection import Engine

PRIOR = ("prior_anchor", "prior_context")


def available() -> str:
    return ""


def engine(factory: str, name: str = "cuda", *, module: str = "broken_backends") -> Engine:
    """A line for the list of engines."""
    return Engine(name, module, factory)


class Changed:
    """A runner whose outputs are changed on their way out."""

    def __init__(self, runner: Runner, change: Any) -> None:
        self._runner, self._change = runner, change

    def run(self, inputs: Named) -> dict[str, Any]:
        return {name: self._change(name, value) for name, value in self._runner.run(inputs).items()}


class Right:
    """As good as the CPU. `loads` are the graphs loaded by all of its kind."""

    name, flavour = "cuda", "cpu"
    loads: list[str] = []  # noqa: RUF012 - shared on purpose
    closed = 0

    def __init__(self) -> None:
        self._cpu = OnnxRuntimeCpu(threads=1)

    def load(self, package: Package, graph: str) -> Runner:
        self.loads.append(graph)
        return self._cpu.load(package, graph)

    def close(self) -> None:
        type(self).closed += 1


class WrongByOne(Right):
    """Off by one in one integer of the prior."""

    def load(self, package: Package, graph: str) -> Runner:
        runner = super().load(package, graph)
        return Changed(runner, self._change) if graph in PRIOR else runner

    @staticmethod
    def _change(name: str, value: Any) -> Any:
        changed = np.array(value)
        if name == "mean":
            changed.flat[-1] += 1
        return changed


class WrongOnLargeInputs(Right):
    """Right on the known answers, which are small, and wrong on larger inputs: another kernel runs there."""

    def load(self, package: Package, graph: str) -> Runner:
        runner = super().load(package, graph)
        return Changed(runner, self._change) if graph in PRIOR else runner

    @staticmethod
    def _change(name: str, value: Any) -> Any:
        changed = np.array(value)
        if name == "mean" and changed.shape[1] * changed.shape[3] > 16:
            changed.flat[-1] += 1
        return changed


class WrongPixels(Right):
    """Pictures that are turned over."""

    def load(self, package: Package, graph: str) -> Runner:
        runner = super().load(package, graph)
        return runner if graph in PRIOR else Changed(runner, lambda name, value: value[:, ::-1].copy())


class NoNumbers(Right):
    """Latents that are not numbers, as after an overflow of FP16."""

    def load(self, package: Package, graph: str) -> Runner:
        def change(name: str, value: Any) -> Any:
            return np.full_like(value, np.nan) if value.dtype == np.float32 else value

        runner = super().load(package, graph)
        return runner if graph in PRIOR else Changed(runner, change)


class RaisesWhenMade(Right):
    def __init__(self) -> None:
        raise OSError("libcudnn.so.9: cannot open shared object file\nsecond line")


class RaisesAtLoad(Right):
    def load(self, package: Package, graph: str) -> Runner:
        raise RuntimeError(f"CUDNN_STATUS_NOT_INITIALIZED in {graph}")


class Crashes(Right):
    def load(self, package: Package, graph: str) -> Runner:
        os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError


class Hangs(Right):
    def load(self, package: Package, graph: str) -> Runner:
        time.sleep(600)
        raise AssertionError


class CrashesInDecoder(Right):
    def load(self, package: Package, graph: str) -> Runner:
        if graph == "decoder":
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().load(package, graph)


class Stale(Right):
    """Gives a shape's first result again, as a CUDA graph with old addresses does."""

    def load(self, package: Package, graph: str) -> Runner:
        runner = super().load(package, graph)
        kept: dict[tuple[int, ...], dict[str, Any]] = {}

        class Kept:
            def run(self, inputs: Named) -> dict[str, Any]:
                shape = next(iter(inputs.values())).shape
                return kept.setdefault(shape, runner.run(inputs))

        return Kept() if graph == "encoder" else runner
