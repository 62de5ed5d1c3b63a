"""What the suite measures with: packages in every precision, backends, and pictures of every size."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks._machine import ROOT
from benchmarks._suite import LEFT_OUT, NotMeasured, Settings
from benchmarks.memory import mirrored
from vaert.errors import VaertError
from vaert.evaluate import find_images, read_rgb
from vaert.idx import read_idx
from vaert.package import Package, find_package
from vaert.runtime.backends import Backend, open_backend

Pixels = npt.NDArray[np.uint8]
EXAMPLE = ROOT / "examples" / "kodim23.png"
DIGITS = ROOT / "tests" / "golden" / "digits.idx3-ubyte.gz"
MODULES = {
    "cpu": "onnxruntime_cpu",
    "cuda": "onnxruntime_cuda",
    "tensorrt": "tensorrt",
    "ort-tensorrt": "onnxruntime_tensorrt",
}
EXPORT_S = 240.0
# In a process of its own, because it loads torch, whose threads and memory are not what is measured.
EXPORT = """
import sys
from vaert.errors import VaertError
from vaert.export import export_model
from pathlib import Path
try:
    export_model(sys.argv[1], Path(sys.argv[2]), precision=sys.argv[3])
except VaertError as error:
    sys.exit(str(error))
"""


class Shelf:
    """Makes each thing when it is first asked for and keeps it. NotMeasured where something cannot be had."""

    def __init__(self, settings: Settings, scratch: Path) -> None:
        self.settings, self._scratch = settings, scratch
        self._opened: list[Backend] = []
        self.backend = cache(self._open)
        self.package = remembered(self._find)
        self._sources = cache(self._read_sources)
        self.photographs = lru_cache(maxsize=2)(self._photographs)  # eight of 3840x2160 take 200 MB

    def close(self) -> None:
        """Release the engines."""
        for backend in self._opened:
            backend.close()

    def _open(self, name: str) -> Backend:
        if reason := unavailable(name):
            raise NotMeasured(reason)
        self._opened.append(open_backend(name, threads=self.settings.threads))
        return self._opened[-1]

    def _find(self, model: str, precision: str) -> Package:
        bundled = find_package(model)
        if bundled.manifest.precision == precision:
            return bundled
        for folder in self.settings.packages:
            given = find_package(folder)
            if (given.manifest.model_id, given.manifest.precision) == (bundled.manifest.model_id, precision):
                return given
        if self.settings.quick and not self.settings.asked_precisions:
            raise NotMeasured(f"{LEFT_OUT}: give --precision {precision}, or --package with an exported folder")
        return exported(model, self._scratch / f"{model}-{precision}", precision)

    def _read_sources(self) -> tuple[Pixels, ...]:
        folder = self.settings.images
        return (read_rgb(EXAMPLE),) if folder is None else tuple(read_rgb(path) for path in find_images(folder)[:8])

    def _photographs(self, width: int, height: int, count: int) -> tuple[Pixels, ...]:
        """Different pictures of one size: sources in turn, mirrored to the size from another corner each time."""
        sources, made = self._sources(), []
        for number in range(count):
            turn = number // len(sources)
            down, right = 37 * turn, 53 * turn
            large = mirrored(sources[number % len(sources)], height + down, width + right)
            made.append(np.ascontiguousarray(large[down:, right:]))
        return tuple(made)


def remembered(make: Callable[[str, str], Package]) -> Callable[[str, str], Package]:
    """Like `cache`, but a refusal is kept as well: an export that failed once is not tried again for every row."""
    kept: dict[tuple[str, str], Package | NotMeasured] = {}

    def find(model: str, precision: str) -> Package:
        if (model, precision) not in kept:
            try:
                kept[model, precision] = make(model, precision)
            except NotMeasured as reason:
                kept[model, precision] = reason
        found = kept[model, precision]
        if isinstance(found, NotMeasured):
            raise NotMeasured(str(found))
        return found

    return find


@cache
def unavailable(name: str) -> str:
    """Why a backend cannot be made here, in one line; nothing if it can."""
    try:
        module = importlib.import_module(f"vaert.runtime.backends.{MODULES[name]}")
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("vaert."):
            return f"this version of vaert has no backend {name}"
        raise
    if not hasattr(module, "available"):
        try:
            open_backend(name).close()
        except VaertError as error:
            return str(error)
        return ""
    return str(module.available())


def exported(model: str, folder: Path, precision: str) -> Package:
    """A bundled model in another precision. NotMeasured with the exporter's own words if there is none."""
    line = [sys.executable, "-c", EXPORT, model, str(folder), precision]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=EXPORT_S)
    except subprocess.TimeoutExpired as error:
        raise NotMeasured(
            f"exporting {model} as {precision} takes more than {EXPORT_S:.0f} s: give --package"
        ) from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise NotMeasured(f"{model} cannot be exported as {precision}: {said}")
    return find_package(folder)


def digits(count: int) -> Pixels:
    """Handwritten digits, uint8 (count, 28, 28), those of the tests again and again."""
    found = read_idx(DIGITS)
    return np.ascontiguousarray(found[np.arange(count) % len(found)])
