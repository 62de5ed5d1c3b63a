"""How near is every network to what the machine can do?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import _suite_gpu
from benchmarks._suite import LEFT_OUT, NotMeasured, Pace, Run, Settings, Stats, timed
from benchmarks._suite_ceiling import COPY_BYTES, Copy, products
from benchmarks._suite_clock import Clock, Rounds, WatchedBackend
from benchmarks._suite_engines import Shelf, digits, unavailable
from benchmarks._suite_graphs import Work, work
from benchmarks._suite_operations import KINDS, PHOTOGRAPHS, operation
from vaert.package import CODEC, DIGITS, LOSSLESS_DIGITS, Package, find_package
from vaert.runtime.backends import Runner, cuda

SECTION = "roofline"
SIZES = ((768, 512), (1920, 1080))
DIGITS_AT_ONCE = 64
DIGIT_SIZE = (28, 28)
SHARE = 0.65
PAUSE_S = 0.1  # numpy's idle threads spin for a while after a product, on a core that a graph would need
# Digits are compressed by a search that runs the same decoder a thousand times.
OPERATIONS = {**KINDS, DIGITS: ("encode", "render"), LOSSLESS_DIGITS: ("compress",)}
STEERED = ("encoder", "decoder")  # of the codec: the graphs that the bar is about


@dataclass(frozen=True)
class Case:
    """The graphs of one model at one size."""

    model: str
    precision: str
    width: int
    height: int

    @property
    def id(self) -> str:
        """For pytest."""
        return f"{self.model}-{self.precision}-{self.width}x{self.height}"


def cases(settings: Settings) -> list[Case]:
    """Photographs of two sizes, digits by the batch."""
    made = []
    for model in settings.models:
        photographs = find_package(model).manifest.kind in PHOTOGRAPHS
        sizes = SIZES if photographs else (DIGIT_SIZE,)
        made += [Case(model, precision, *size) for precision in settings.precisions for size in sizes]
    return made


@pytest.fixture(scope="module")
def copy(settings: Settings) -> Iterator[Copy]:
    """Shared, since its arrays are large."""
    made = Copy(settings.threads)
    yield made
    made.close()


@pytest.mark.parametrize("precision", _suite_gpu.PRECISIONS)
@pytest.mark.parametrize("name", ["cuda", "tensorrt", "ort-tensorrt"])
def test_gpu_ceilings(
    name: str, precision: str, run: Run, shelf: Shelf, tmp_path: Path, stopwatch: Callable[[], Any]
) -> None:
    """A row for each GPU backend and precision: the best that its tensor cores do, or why there is no figure."""
    if name not in run.settings.backends:
        return
    with run.row(SECTION, "ceiling", backend=name, precision=precision) as row:
        if reason := unavailable(name):
            raise NotMeasured(reason)
        _suite_gpu.refuse(name, precision)
        chain = _suite_gpu.Chain()
        runner = shelf.backend(name).load(chain.package(tmp_path / precision, precision), _suite_gpu.GRAPH)
        value = {"value": np.ones((1, 1), np.float32)}
        stats = timed(stopwatch, lambda: runner.run(value), pace(run.settings))
        row.check(chain.right(runner.run(value)["row"], precision), "the product is within what the precision loses")
        row.facts |= {"multiply_adds": chain.multiply_adds}
        row.set(2 * chain.multiply_adds / stats.p50_ms / 1e6, "GFLOP/s", stats)


def test_gpu_copy(run: Run, stopwatch: Callable[[], Any]) -> None:
    """A row: bytes that the GPU reads and writes in a second within its own memory."""
    with run.row(SECTION, "device copy", backend="cuda") as row:
        if reason := cuda.missing():
            raise NotMeasured(reason)
        with _suite_gpu.device_copy() as copy:
            stats = timed(stopwatch, copy, pace(run.settings))
        row.set(2 * _suite_gpu.COPY_BYTES / stats.p50_ms / 1e6, "GB/s", stats)


def test_roofline(case: Case, run: Run, shelf: Shelf, copy: Copy, stopwatch: Callable[[], Any]) -> None:
    """Rows: multiply-adds per second of every graph and its share of the best product measured in the same rounds."""
    shared: dict[str, Any] = {"backend": "cpu", **asdict(case), "kind": find_package(case.model).manifest.kind}
    with run.row(SECTION, "ceiling", **shared) as row:
        refuse(case, run.settings)
        package, backend = shelf.package(case.model, case.precision), shelf.backend("cpu")
        graphs = captured(package, shelf, case)
        ceilings = products(backend, threads=run.settings.threads)
        engine = [name for name in ceilings if name.startswith(backend.name)]
        others = [name for name in ceilings if name not in engine]
        rounds = Rounds()

        def one() -> None:
            ceilings[engine[0]].run()  # wakes the threads: the first product after a pause takes twice as long
            for name in engine:
                rounds.time(name, ceilings[name].run)
            for graph in graphs:
                rounds.time(f"graph {graph.name}", graph.run)
            rounds.time("copy", copy.run)
            for name in others:
                rounds.time(name, ceilings[name].run)
            time.sleep(PAUSE_S)

        stats = timed(stopwatch, one, pace(run.settings))
        medians = rounds.medians(stats.runs)
        rates = {name: 2 * product.multiply_adds / medians[name] / 1e6 for name, product in ceilings.items()}
        best = max(rates, key=lambda name: rates[name])
        row.facts |= {"best": best, "products_gflops": {name: round(rate, 1) for name, rate in rates.items()}}
        row.facts["copy_gb_per_s"] = round(2 * COPY_BYTES / medians["copy"] / 1e6, 2)
        row.check(copy.right(), "what was copied is what was there")
        least = {name: rounds.stats(name, stats).least_ms for name in ceilings}
        peak = max(2 * product.multiply_adds / least[name] / 1e6 for name, product in ceilings.items())
        row.facts["best_run_gflops"] = round(peak, 1)
        row.set(rates[best], "GFLOP/s", rounds.stats(best, stats))
    for graph in graphs:
        found = rounds.stats(f"graph {graph.name}", stats)
        add_graph(run, graph, found, shared, ceilings=(rates[best], peak))


@dataclass(frozen=True)
class Graph:
    """One graph with the inputs of a real call: of several runs, that with the largest."""

    name: str
    runner: Runner
    inputs: dict[str, Any]
    work: Work
    pixels: int

    def run(self) -> None:
        """Once."""
        self.runner.run(self.inputs)


def captured(package: Package, shelf: Shelf, case: Case) -> list[Graph]:
    """The graphs that the model's operations run, with what went into them. NotMeasured without onnx."""
    if find_spec("onnx") is None:
        raise NotMeasured("counting multiply-adds needs onnx: pip install 'vaert[train]'")
    photograph = (case.width, case.height) != DIGIT_SIZE
    pictures = shelf.photographs(case.width, case.height, 1) if photograph else tuple(digits(DIGITS_AT_ONCE))
    kept: dict[str, tuple[Runner, dict[str, Any]]] = {}
    for name in OPERATIONS[package.manifest.kind]:
        backend = WatchedBackend(shelf.backend("cpu"), Clock())
        asked = operation(shelf, package, backend, name=name, pictures=pictures)
        backend.keeping = True
        asked.run()
        for graph, runner, inputs in backend.runs:
            if graph not in kept or _bytes(inputs) > _bytes(kept[graph][1]):
                kept[graph] = runner, inputs
    flavour = shelf.backend("cpu").flavour
    return [
        Graph(name, runner, inputs, work(package.read_graph(name, flavour), inputs), _pixels(inputs, case))
        for name, (runner, inputs) in kept.items()
    ]


def _bytes(inputs: dict[str, Any]) -> int:
    return sum(array.nbytes for array in inputs.values())


def _pixels(inputs: dict[str, Any], case: Case) -> int:
    """Of the pictures that a run is about: a tile where the input is one, else the whole; digits, all of them."""
    first = next(iter(inputs.values()))
    if (case.width, case.height) == DIGIT_SIZE:
        return len(first) * case.width * case.height
    shape = inputs["pixels"].shape[:3] if "pixels" in inputs else (case.height, case.width)
    return math.prod(shape)


def add_graph(
    run: Run, graph: Graph, stats: Stats, parameters: dict[str, Any], *, ceilings: tuple[float, float]
) -> None:
    """The row of one graph, and its bar where it has one; ceilings: of the medians, and of the best runs."""
    ceiling, peak = ceilings
    rate = 2 * graph.work.total / stats.p50_ms / 1e6
    with run.row(SECTION, graph.name, **parameters) as row:
        outputs = graph.runner.run(graph.inputs)
        row.check(all(np.isfinite(array).all() for array in outputs.values()), "all outputs are finite")
        again = graph.runner.run(graph.inputs)
        row.check(all(np.array_equal(outputs[name], again[name]) for name in outputs), "a second run gives the same")
        row.facts |= {
            "share_of_ceiling": round(rate / ceiling, 4),
            "share_in_best_run": round(2 * graph.work.total / stats.least_ms / 1e6 / peak, 4),
            "multiply_adds": graph.work.total,
            "depthwise": graph.work.depthwise,
            "multiply_adds_per_pixel": round(graph.work.total / graph.pixels, 1),
            "pixels": graph.pixels,
        }
        row.set(rate, "GFLOP/s", stats)
    if parameters["kind"] == CODEC and graph.name in STEERED and parameters["precision"] == "fp32":
        what = (
            f"{parameters['model']} {graph.name}, {parameters['width']}x{parameters['height']}, share of fp32 ceiling"
        )
        text = f"{rate / ceiling:.0%} ({rate:.0f} of {ceiling:.0f} GFLOP/s)"
        run.bar(what, f"at least {SHARE:.0%}", text, met=rate >= SHARE * ceiling, others=stats.others_cores)


def refuse(case: Case, settings: Settings) -> None:
    """NotMeasured for what --quick leaves out."""
    if settings.quick and (case.width, case.height) not in (SIZES[0], DIGIT_SIZE):
        raise NotMeasured(f"{LEFT_OUT}, which keeps {SIZES[0][0]}x{SIZES[0][1]} and digits")


def pace(settings: Settings) -> Pace:
    """A round holds every product and every graph once."""
    budget = 2 * settings.pace.budget_s
    return replace(settings.pace, budget_s=budget, least=5, most=60, limit_s=1.5 * settings.row_limit_s)
