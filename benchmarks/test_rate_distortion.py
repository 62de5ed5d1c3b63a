"""How large are files at which fidelity, beside other formats on the same pictures and beside published codecs?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks._formats import FORMATS, Format, timed_ms
from benchmarks._machine import Bar
from benchmarks._rate_distortion import (
    CLI_QUALITIES,
    KODAK,
    QUALITIES,
    MeanPoint,
    Sample,
    bd_rates,
    check_command_line,
    curve,
    mean_points,
    of_codec,
    of_format,
    quality_bars,
)
from benchmarks._suite import LEFT_OUT, NotMeasured, Run, Settings, timed
from benchmarks._suite_clock import Rounds
from benchmarks._suite_engines import EXAMPLE, Shelf, unavailable
from vaert.anchors import published_curves
from vaert.evaluate import JPEG_NAME, Comparison, Pixels, find_images, read_rgb
from vaert.package import CODEC, find_package
from vaert.runtime.codec import Codec

SECTION = "rate_distortion"
TIMED_BPP = 0.7  # times are taken at the setting whose mean rate is nearest
LEAST_DB = 15.0  # of the worst format at its lowest setting
NO_CODEC = "no codec among the models that were asked for"
NOT_KODAK = "published curves are means over the 24 Kodak images: give their folder with --images, without --quick"


@dataclass(frozen=True)
class Case:
    """A model in one precision, or another format."""

    name: str
    precision: str = ""

    @property
    def id(self) -> str:
        """For pytest."""
        return f"{self.name}-{self.precision}" if self.precision else self.name.replace(" ", "_")

    @property
    def codec(self) -> str:
        """How rows and curves call it."""
        return f"vaert {self.name}, {self.precision}" if self.precision else self.name


@dataclass
class Found:
    """What the tests of one session leave for the last."""

    points: dict[str, list[MeanPoint]] = field(default_factory=dict)


def cases(settings: Settings) -> list[Case]:
    """Codecs that were asked for, then every format."""
    models = [name for name in settings.models if find_package(name).manifest.kind == CODEC]
    ours = [Case(model, precision) for model in models for precision in settings.precisions]
    return ours + [Case(form.name) for form in FORMATS] if ours else []


def pictures(settings: Settings) -> list[Path]:
    """Those of --images, of which --quick takes one, or the example."""
    if settings.images is None:
        return [EXAMPLE]
    return find_images(settings.images)[: 1 if settings.quick else None]


def described(settings: Settings) -> dict[str, Any]:
    """Parameters that tell which pictures."""
    paths = pictures(settings)
    name = EXAMPLE.stem if settings.images is None else settings.images.resolve().name
    return {"images": name, "pictures": len(paths)}


@pytest.fixture(scope="module")
def found() -> Found:
    """Shared by the tests of this module."""
    return Found()


def test_rate_distortion(case: Case | None, run: Run, shelf: Shelf, found: Found, stopwatch: Callable[[], Any]) -> None:
    """Rows: a codec's rate and fidelity at every setting, then the times of encoding and decoding at one of them."""
    shared = described(run.settings) | ({"codec": case.codec} if case else {})
    with run.row(SECTION, "points", **shared) as row:
        if case is None:
            raise NotMeasured(NO_CODEC)
        coder = opened(case, run.settings, shelf)
        paths = pictures(run.settings)
        images = [coder.sample(path) for path in paths]
        points = mean_points(coder.settings, images)
        row.check(min(sample.psnr for image in images for sample in image) > LEAST_DB, f"above {LEAST_DB:g} dB, all")
        coder.prove(row.check, images, paths)
        found.points[case.codec] = points
        row.facts |= {"least_bpp": round(points[0].bpp, 5), "most_bpp": round(points[-1].bpp, 5)}
        row.set(len(points), "settings")
    add_points(run, points, shared, left_out=coder.left_out)
    add_times(run, coder, points, shared, stopwatch=stopwatch)


@dataclass(frozen=True)
class Coder:
    """A codec of any kind, ready to measure."""

    settings: tuple[float, ...]
    left_out: tuple[float, ...]
    sample: Callable[[Path], list[Sample]]
    encode: Callable[[Pixels, float], bytes]
    decode: Callable[[bytes], Pixels]
    prove: Callable[..., None]


def opened(case: Case, settings: Settings, shelf: Shelf) -> Coder:
    """NotMeasured with the reason where it cannot be used."""
    form = next((form for form in FORMATS if form.name == case.name), None)
    if form is not None:
        return of_form(form, settings)
    backend = next((name for name in settings.backends if not unavailable(name)), None)
    if backend is None:
        raise NotMeasured(f"no backend: {unavailable(settings.backends[0])}")
    codec = Codec(shelf.package(case.name, case.precision), backend=shelf.backend(backend))
    kept, left_out = parted(QUALITIES, settings, keep=CLI_QUALITIES)

    def prove(check: Callable[[object, str], None], images: Sequence[Sequence[Sample]], paths: Sequence[Path]) -> None:
        if case.precision != find_package(case.name).manifest.precision:
            return  # the command line runs the bundled package
        for path, image in zip(paths, images, strict=True):
            values = [(s.bpp, s.psnr) for s in (image[kept.index(quality)] for quality in CLI_QUALITIES)]
            differs = check_command_line(path, case.name, values=values)
            assert not differs, differs
        check(True, "the command line writes files of these sizes, which decode to this fidelity")

    return Coder(
        kept,
        left_out,
        lambda path: of_codec(codec, read_rgb(path), kept),
        codec.compress,
        codec.decompress,
        prove,
    )


def of_form(form: Format, settings: Settings) -> Coder:
    """A format of Pillow's. NotMeasured."""
    if reason := form.missing():
        raise NotMeasured(reason)
    kept, left_out = parted(form.settings, settings)
    threads = settings.threads
    return Coder(
        kept,
        left_out,
        lambda path: of_format(form, read_rgb(path), tuple(map(int, kept)), threads=threads),
        lambda picture, setting: form.encode(picture, int(setting), threads=threads),
        form.decode,
        lambda *_: None,
    )


def parted(
    values: Sequence[float], settings: Settings, *, keep: Sequence[float] = ()
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Settings to measure, and those that --quick leaves out: every second but the last."""
    kept = {value for number, value in enumerate(values) if number % 2 == 0 or number == len(values) - 1} | set(keep)
    if not settings.quick:
        kept = set(values)
    return tuple(v for v in values if v in kept), tuple(v for v in values if v not in kept)


def add_points(run: Run, points: Sequence[MeanPoint], shared: dict[str, Any], *, left_out: Sequence[float]) -> None:
    """One row for each setting; the value is the rate."""
    for point in points:
        with run.row(SECTION, "point", **shared, setting=point.quality) as row:
            row.facts |= {"psnr_db": round(point.psnr, 4)}
            row.facts |= {"ms_ssim": None if point.ms_ssim is None else round(point.ms_ssim, 5)}
            row.facts |= {"encode_ms": point.encode_ms, "decode_ms": point.decode_ms}
            row.set(point.bpp, "bits/pixel", better="lower")
    for setting in left_out:
        with suppress(NotMeasured), run.row(SECTION, "point", **shared, setting=setting):
            raise NotMeasured(LEFT_OUT)


def add_times(
    run: Run, coder: Coder, points: Sequence[MeanPoint], shared: dict[str, Any], *, stopwatch: Callable[[], Any]
) -> None:
    """Rows `encode` and `decode`: milliseconds a picture, files of all pictures in turn, at the rate of TIMED_BPP."""
    chosen = min(points, key=lambda point: abs(point.bpp - TIMED_BPP))
    images = [read_rgb(path) for path in pictures(run.settings)]
    files = [coder.encode(image, chosen.quality) for image in images]
    actions: dict[str, Callable[[], object]] = {
        "encode": lambda: [coder.encode(image, chosen.quality) for image in images],
        "decode": lambda: [coder.decode(data) for data in files],
    }
    rounds = Rounds()
    pace = replace(run.settings.pace, least=3, most=30, limit_s=6 * run.settings.row_limit_s)

    def one() -> None:
        for name, action in actions.items():
            rounds.add(name, timed_ms(action)[1] / len(images))

    stats = timed(stopwatch, one, pace)
    for name in actions:
        with run.row(SECTION, name, **shared, setting=chosen.quality, threads=run.settings.threads) as row:
            each = rounds.stats(name, stats)
            megapixels = sum(image.shape[0] * image.shape[1] for image in images) / len(images) / 1e6
            row.facts |= {"bpp": round(chosen.bpp, 4), "psnr_db": round(chosen.psnr, 3)}
            row.facts |= {"megapixels_per_s": round(1000 * megapixels / each.p50_ms, 3)}
            row.set(each.p50_ms, "ms", each, better="lower")


def test_bd_rates(run: Run, found: Found) -> None:
    """Rows: BD-rate of every model against the formats of this run and against published curves; two bars."""
    ours = [name for name in found.points if name.startswith("vaert ")]
    if not ours or JPEG_NAME not in found.points:
        with run.row(SECTION, "BD-rate", **described(run.settings)):
            raise NotMeasured(NO_CODEC if not ours else f"{JPEG_NAME}, which gives the range, was not measured")
    curves = {name: curve(name, points) for name, points in found.points.items()}
    jpeg, others = curves[JPEG_NAME], [c for name, c in curves.items() if name not in (JPEG_NAME, *ours)]
    kodak = tuple(path.stem for path in pictures(run.settings)) == KODAK
    published = published_curves()
    for name in ours:
        against = bd_rates(curves[name], jpeg, others, published if kodak else ())
        for comparison in against:
            add_comparison(run, name, comparison)
        for form in FORMATS:
            if form.name not in curves:
                refused(run, name, form.name, measured=True, reason=form.missing() or "not part of this run")
        for one in () if kodak else published:
            refused(run, name, one.name, measured=False, reason=NOT_KODAK)
        for bar in quality_bars(found.points[name], against[0], of=f"{name}, "):
            add_bar(run, bar, of_all=kodak)


def add_comparison(run: Run, name: str, comparison: Comparison) -> None:
    """Percent; negative where ours needs fewer bits."""
    if comparison.percent is None:
        refused(run, name, comparison.reference, measured=comparison.measured, reason=comparison.remark)
        return
    parameters = described(run.settings) | {"codec": name, "against": comparison.reference}
    with run.row(SECTION, "BD-rate", **parameters, curve=kind(comparison.measured)) as row:
        row.facts |= {"low_db": comparison.low, "high_db": comparison.high, "complete": comparison.complete}
        row.facts |= {"remark": comparison.remark}
        row.set(comparison.percent, "%", better="lower")


def refused(run: Run, name: str, against: str, *, measured: bool, reason: str) -> None:
    """A BD-rate that there is not, and why."""
    parameters = described(run.settings) | {"codec": name, "against": against, "curve": kind(measured)}
    with suppress(NotMeasured), run.row(SECTION, "BD-rate", **parameters):
        raise NotMeasured(reason)


@cache
def kind(measured: bool) -> str:
    """Where a curve is from."""
    return "measured here" if measured else "published, Kodak"


def add_bar(run: Run, bar: Bar, *, of_all: bool) -> None:
    """The bars are about Kodak; elsewhere they are open."""
    run.bar(bar.what, bar.bar, bar.measured, met=bar.met if of_all else None)
