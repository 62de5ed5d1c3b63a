"""What the CPU itself can do: multiply-adds of fp32 matrix products, and bytes copied, with a number of threads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from vaert.runtime.backends import Backend

# Rows, inner length and columns: squares, which engines like best, and what 1x1 convolutions make of 768x512 pixels.
PRODUCTS = ((1024, 1024, 1024), (2048, 1024, 1024), (6144, 384, 96), (6144, 96, 384))
COPY_BYTES = 1 << 27  # four times the last cache of the machines at hand
LEAST_S = 0.01  # of one timing of a product
GRAPH = "product"


class _Product:
    """A package of one graph, a matrix product, for a backend to load: only what backends read of a package."""

    def __init__(self, data: bytes) -> None:
        self.path = os.devnull
        self._data = data

    def read_graph(self, name: str, flavour: str = "cpu") -> bytes:
        """See `Package.read_graph`."""
        return self._data


def product_graph(weight: np.ndarray[Any, Any]) -> bytes:
    """ONNX of x @ weight, x (rows, inner)."""
    from onnx import TensorProto, helper, numpy_helper

    inner, columns = weight.shape
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", length])
        for name, length in (("x", inner), ("y", columns))
    ]
    graph = helper.make_graph([node], GRAPH, ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


@dataclass(frozen=True)
class Product:
    """A matrix product, run `repeats` times in a row: about as long as a network, so that disturbances meet both."""

    run_once: Callable[[], Any]
    repeats: int
    once: int  # multiply-adds

    def run(self) -> None:
        """All repeats."""
        for _ in range(self.repeats):
            self.run_once()

    @property
    def multiply_adds(self) -> int:
        """Of `run`."""
        return self.repeats * self.once


def products(backend: Backend, *, threads: int) -> dict[str, Product]:
    """Matrix products by name; numpy's only where it uses as many threads.

    AssertionError unless each agrees with numpy in double precision.
    """
    made: dict[str, Product] = {}
    random = np.random.default_rng(0)
    for rows, inner, columns in PRODUCTS:
        x = random.standard_normal((rows, inner), np.float32)
        weight = random.standard_normal((inner, columns), np.float32)
        out = np.empty((rows, columns), np.float32)
        package: Any = _Product(product_graph(weight))
        runner = backend.load(package, GRAPH)
        wanted = x[:8].astype(np.float64) @ weight
        assert np.allclose(runner.run({"x": x})["y"][:8], wanted, rtol=1e-3, atol=1e-2), "the product is not right"
        actions: dict[str, Callable[[], Any]] = {backend.name: partial(runner.run, {"x": x})}
        if threads == len(os.sched_getaffinity(0)):
            actions["numpy"] = partial(np.matmul, x, weight, out=out)
        for engine, action in actions.items():
            made[f"{engine} {rows}x{inner}x{columns}"] = Product(action, _repeats(action), rows * inner * columns)
    return made


def _repeats(action: Callable[[], Any]) -> int:
    """How often it is run to take LEAST_S; the better of two tries counts, since the first one plans."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return max(1, round(LEAST_S / min(times)))


class Copy:
    """Copies one array to another, cut among threads; numpy releases the interpreter meanwhile."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._source, self._target = np.ones(COPY_BYTES, np.uint8), np.zeros(COPY_BYTES, np.uint8)
        edges = np.linspace(0, COPY_BYTES, threads + 1).astype(int)
        self._parts = [slice(first, last) for first, last in pairwise(edges)]

    def run(self) -> None:
        """Once; it reads COPY_BYTES and writes as many."""
        list(self._pool.map(self._copy, self._parts))

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def right(self) -> bool:
        """Whether all was copied."""
        return np.array_equal(self._source, self._target)

    def _copy(self, part: slice) -> None:
        np.copyto(self._target[part], self._source[part])
