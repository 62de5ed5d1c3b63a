"""How many pictures per second: every model, precision, backend, size and batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from benchmarks._suite import LEFT_OUT, NotMeasured, Row, Run, Settings, timed
from benchmarks._suite_engines import Pixels, Shelf, digits, unavailable
from benchmarks._suite_memory import Memory
from benchmarks._suite_operations import KINDS, PHOTOGRAPHS, operation
from vaert.package import find_package

SECTION = "throughput"
SIZES = ((256, 256), (768, 512), (1920, 1080), (3840, 2160))
BATCHES, DIGIT_BATCHES = (1, 8), (1, 8, 64)
DIGIT_SIZE = (28, 28)
QUICK_SIZES, QUICK_BATCH = SIZES[:2], {True: 1, False: 64}


@dataclass(frozen=True)
class Case:
    """Parameters of one row; all but the backend are those of nothing where the backend is absent."""

    backend: str
    model: str = ""
    precision: str = ""
    operation: str = ""
    width: int = 0
    height: int = 0
    batch: int = 0

    @property
    def id(self) -> str:
        """For pytest."""
        if not self.model:
            return f"{self.backend}-absent"
        size = f"{self.width}x{self.height}x{self.batch}"
        return f"{self.backend}-{self.model}-{self.precision}-{self.operation}-{size}"


def cases(settings: Settings) -> list[Case]:
    """One for each row, small pictures first, so that large ones can be foretold; an absent backend is one row."""
    made = []
    for backend in settings.backends:
        if unavailable(backend):
            made.append(Case(backend))
            continue
        for model in settings.models:
            kind = find_package(model).manifest.kind
            photographs = kind in PHOTOGRAPHS
            made += [
                Case(backend, model, precision, name, *size, batch)
                for precision in settings.precisions
                for name in KINDS[kind]
                for size in (SIZES if photographs else (DIGIT_SIZE,))
                for batch in (BATCHES if photographs else DIGIT_BATCHES)
            ]
    return made


def test_throughput(case: Case, run: Run, shelf: Shelf, speeds: dict[Any, float], stopwatch: Callable[[], Any]) -> None:
    """One row: megapixels and pictures per second, percentiles, peak memory."""
    parameters = {"backend": case.backend} if not case.model else asdict(case)
    with run.row(SECTION, case.operation or "all", **parameters) as row:
        backend = shelf.backend(case.backend)
        refuse(case, run.settings)
        package = shelf.package(case.model, case.precision)
        key = (case.backend, case.model, case.precision, case.operation)
        pixels = case.width * case.height * case.batch
        expected = speeds[key] * pixels if key in speeds else None
        if expected is not None:
            run.settings.pace.runs(expected)  # before pictures are made for it
        pictures = pictures_of(case, shelf)
        asked = operation(shelf, package, backend, name=case.operation, pictures=pictures)
        memory = Memory.begin()
        stats = timed(stopwatch, asked.run, run.settings.pace, expected_s=expected)
        row.facts |= memory.facts()
        asked.check(row)
        if case.width > DIGIT_SIZE[0]:
            speeds[key] = stats.p50_ms / 1000 / pixels
        fill(row, case, seconds=stats.p50_ms / 1000)
        row.stats = stats


def refuse(case: Case, settings: Settings) -> None:
    """NotMeasured for what --quick leaves out."""
    photograph = case.width > DIGIT_SIZE[0]
    size = (case.width, case.height)
    if settings.quick and (case.batch != QUICK_BATCH[photograph] or (photograph and size not in QUICK_SIZES)):
        raise NotMeasured(
            f"{LEFT_OUT}, which keeps {' and '.join(f'{w}x{h}' for w, h in QUICK_SIZES)} one by one "
            f"and digits by {QUICK_BATCH[False]}"
        )


def pictures_of(case: Case, shelf: Shelf) -> Sequence[Pixels]:
    """What goes in: different pictures, made the same way every time."""
    if (case.width, case.height) == DIGIT_SIZE:
        return tuple(digits(case.batch))
    return shelf.photographs(case.width, case.height, case.batch)


def fill(row: Row, case: Case, *, seconds: float) -> None:
    """The figures; megapixels are those of the picture that goes in, or, of decompress and render, that comes out."""
    megapixels = case.width * case.height * case.batch / 1e6 / seconds
    row.facts |= {"megapixels_per_s": round(megapixels, 4), "pictures_per_s": round(case.batch / seconds, 3)}
    row.set(megapixels, "megapixels/s")


@pytest.fixture(scope="module")
def speeds() -> dict[Any, float]:
    """Seconds per pixel of what has been measured, by backend, model, precision and operation."""
    return {}
