"""Where does the time go in compress, decompress and upscale, and what would overlapping win?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._suite import LEFT_OUT, NotMeasured, Pace, Run, Settings, Stats, timed
from benchmarks._suite_clock import Clock, Rounds, WatchedBackend, watching
from benchmarks._suite_engines import Pixels, Shelf
from vaert import atomic, bitstream, image
from vaert.metrics import psnr
from vaert.package import CODEC, UPSCALER, find_package
from vaert.runtime.backends import Backend, open_backend
from vaert.runtime.codec import Codec, quality_to_u16
from vaert.runtime.entropy import EntropyCoder, LatentDecoder
from vaert.runtime.networks import Networks
from vaert.runtime.prior import Prior
from vaert.runtime.upscaler import Upscaler

SECTION = "stages"
SIZES = ((768, 512), (1920, 1080), (3840, 2160))
UPSCALED = ((256, 256),)  # seconds for each larger picture, nearly all of them in the one graph
WATCHED = (
    (image, "read_image", "image read"),
    (image, "encode_image", "image write"),
    (bitstream, "parse_photo", "container"),
    (bitstream, "write", "container"),
    (atomic, "write_atomic", "file write"),
    (EntropyCoder, "encode", "entropy coding"),
    (EntropyCoder, "encode_hyper", "entropy coding"),
    (EntropyCoder, "decode_hyper", "entropy coding"),
    (EntropyCoder, "decoder", "entropy coding"),
    (LatentDecoder, "half", "entropy coding"),
    (LatentDecoder, "finish", "entropy coding"),
    (Prior, "quantise", "quantise and pack (host)"),
    (Prior, "decode", "quantise and pack (host)"),
    (Networks, "analyse", "tiles and copies (host)"),
    (Networks, "hyper_analyse", "tiles and copies (host)"),
    (Networks, "synthesise", "tiles and copies (host)"),
)
REST = "the rest (host)"
OVERHEAD, OVERHEAD_FROM = 1.2, 768 * 512
PICTURES = 6  # of one round of an overlap
MIN_DB = 25.0


@dataclass(frozen=True)
class Case:
    """One command on one size."""

    model: str
    operation: str
    width: int
    height: int

    @property
    def id(self) -> str:
        """For pytest."""
        return f"{self.model}-{self.operation}-{self.width}x{self.height}"


@dataclass(frozen=True)
class Work:
    """A command from file to file, and what of it is bytes in, bytes out."""

    whole: Callable[[], object]
    call: Callable[[], object]


def cases(settings: Settings) -> list[Case]:
    """Codecs and upscalers that were asked for."""
    operations = {CODEC: ("compress", "decompress"), UPSCALER: ("upscale",)}
    return [
        Case(model, name, *size)
        for model in settings.models
        for name in operations.get(find_package(model).manifest.kind, ())
        for size in (UPSCALED if name == "upscale" else SIZES)
    ]


def pace(settings: Settings) -> Pace:
    """A round holds the command twice and its graphs once."""
    return replace(settings.pace, budget_s=3 * settings.pace.budget_s, least=5, limit_s=1.5 * settings.row_limit_s)


def test_stages(case: Case, run: Run, shelf: Shelf, tmp_path: Path, stopwatch: Callable[[], Any]) -> None:
    """Rows: every stage, their sum beside the whole, and the call beside its graphs run alone."""
    parameters = {"model": case.model, "operation": case.operation, "width": case.width, "height": case.height}
    parameters |= {"backend": "cpu", "precision": "fp32"}
    with run.row(SECTION, "whole", **parameters) as row:
        refuse(run.settings, (case.width, case.height), allowed=(*SIZES[:1], *UPSCALED))
        clock, plain = Clock(), shelf.backend("cpu")
        backend = WatchedBackend(plain, clock)
        picture = shelf.photographs(case.width, case.height, 1)[0]
        work = make(case, plain, picture, tmp_path / "plain")
        watched = make(case, backend, picture, tmp_path / "watched")
        backend.keeping = True
        watched.call()
        backend.keeping = False
        rounds = Rounds()

        def one() -> None:
            rounds.time("whole", work.whole)
            rounds.time("call", work.call)
            clock.spent.clear()
            with watching(clock, WATCHED), clock.stage(REST):
                watched.whole()
            for name, spent in clock.spent.items():
                rounds.add(f"stage {name}", spent / 1e6)
            for number, (graph, runner, inputs) in enumerate(backend.runs):
                rounds.time(f"alone {number} {graph}", lambda runner=runner, inputs=inputs: runner.run(inputs))  # type: ignore[misc]

        stats = timed(stopwatch, one, pace(run.settings))
        check(row.check, case, tmp_path / "plain", picture)
        found = rounds.medians(stats.runs)
        total = sum(value for name, value in found.items() if name.startswith("stage "))
        row.facts |= {"sum_of_stages_ms": round(total, 3), "sum_to_whole": round(total / found["whole"], 4)}
        row.set(found["whole"], "ms", rounds.stats("whole", stats), better="lower")
    add_stages(run, rounds, stats, parameters=parameters)
    add_overhead(run, rounds, stats, parameters=parameters)


def add_stages(run: Run, rounds: Rounds, whole: Stats, *, parameters: dict[str, Any]) -> None:
    """One row for each stage, with its share of all stages."""
    found = {name: ms for name, ms in rounds.medians(whole.runs).items() if name.startswith("stage ")}
    for name, ms in found.items():
        with run.row(SECTION, name.removeprefix("stage "), **parameters) as row:
            row.facts["share"] = round(ms / sum(found.values()), 4)
            row.set(ms, "ms", rounds.stats(name, whole), better="lower")


def add_overhead(run: Run, rounds: Rounds, whole: Stats, *, parameters: dict[str, Any]) -> None:
    """The call, bytes in and bytes out, as a multiple of its graphs, each run alone in turn."""
    medians = rounds.medians(whole.runs)
    graphs: dict[str, float] = {}
    for name, ms in medians.items():
        if name.startswith("alone "):
            graph = name.split()[2]
            graphs[graph] = graphs.get(graph, 0.0) + ms
    ratio = medians["call"] / sum(graphs.values())
    with run.row(SECTION, "call to graphs", **parameters) as row:
        row.facts |= {"call_ms": round(medians["call"], 3), "graphs_ms": {n: round(v, 3) for n, v in graphs.items()}}
        row.set(ratio, "ratio", rounds.stats("call", whole), better="lower")
    if parameters["operation"] != "upscale" and parameters["width"] * parameters["height"] >= OVERHEAD_FROM:
        what = f"{parameters['operation']}, {parameters['width']}x{parameters['height']}, call to sum of its sessions"
        text = f"{ratio:.2f} ({medians['call']:.1f} ms / {sum(graphs.values()):.1f} ms)"
        run.bar(what, f"at most {OVERHEAD:g}", text, met=ratio <= OVERHEAD, others=whole.others_cores)


def make(case: Case, backend: Backend, picture: Pixels, folder: Path) -> Work:
    """The command on a file of the picture, in a folder of its own, and the call within it."""
    folder.mkdir()
    source, target = folder / "in.png", folder / ("out.vaert" if case.operation == "compress" else "out.png")
    if case.operation == "upscale":
        upscaler = Upscaler(case.model, backend=backend)
        source.write_bytes(image.encode_image(picture, format="png"))
        return Work(partial(to_image, source, target, upscaler.upscale), partial(upscaler.upscale, picture))
    codec = Codec(case.model, backend=backend)
    if case.operation == "compress":
        source.write_bytes(image.encode_image(picture, format="png"))
        return Work(partial(to_file, source, target, codec), partial(codec.compress, picture))
    coded = codec.compress(picture)
    source = folder / "in.vaert"
    source.write_bytes(coded)
    return Work(partial(from_file, source, target, codec), partial(codec.decompress, coded))


def to_file(source: Path, target: Path, codec: Codec) -> None:
    """`vaert compress`, once everything is loaded."""
    pixels = image.read_image(source.read_bytes(), name="in").pixels
    atomic.write_atomic(target, codec.compress(pixels), force=True)


def from_file(source: Path, target: Path, codec: Codec) -> None:
    """`vaert decompress`, once everything is loaded."""
    atomic.write_atomic(target, image.encode_image(codec.decompress(source.read_bytes()), format="png"), force=True)


def to_image(source: Path, target: Path, change: Callable[[Pixels], Pixels]) -> None:
    """`vaert upscale`, once everything is loaded."""
    pixels = image.read_image(source.read_bytes(), name="in").pixels
    atomic.write_atomic(target, image.encode_image(change(pixels), format="png"), force=True)


def check(hold: Callable[[object, str], None], case: Case, folder: Path, picture: Pixels) -> None:
    """The watched command wrote the file that the plain one wrote, and that holds the picture."""
    (plain,) = folder.glob("out.*")
    watched = folder.parent / "watched" / plain.name
    hold(plain.read_bytes() == watched.read_bytes(), "watched and plain runs write the same file")
    if case.operation == "compress":
        decoded = Codec(case.model).decompress(plain.read_bytes())
    else:
        decoded = image.read_image(plain.read_bytes(), name="out").pixels
    scale = decoded.shape[0] // picture.shape[0]
    hold(psnr(picture, np.ascontiguousarray(decoded[::scale, ::scale])) > MIN_DB / scale, "the file holds the picture")


def refuse(settings: Settings, size: tuple[int, int], *, allowed: Sequence[tuple[int, int]]) -> None:
    """NotMeasured for what --quick leaves out."""
    if settings.quick and size not in allowed:
        raise NotMeasured(f"{LEFT_OUT}, which keeps {' and '.join(f'{w}x{h}' for w, h in allowed)}")


def test_overlap(run: Run, shelf: Shelf, stopwatch: Callable[[], Any]) -> None:
    """Rows: pictures per second one after the other, with the stages of two pictures at once, and by two workers."""
    width, height = SIZES[0]
    model = next((name for name in run.settings.models if find_package(name).manifest.kind == CODEC), None)
    parameters = {"model": model, "width": width, "height": height, "backend": "cpu", "precision": "fp32"}
    with run.row(SECTION, "overlap", **parameters) as row:
        if model is None:
            raise NotMeasured("no codec among the models that were asked for")
        pictures = shelf.photographs(width, height, PICTURES)
        ways = overlaps(model, pictures, threads=run.settings.threads)
        rounds, results = Rounds(), {}

        def one() -> None:
            for name, action in ways.items():
                rounds.time(name, lambda name=name, action=action: results.update({name: action()}))  # type: ignore[misc]

        stats = timed(stopwatch, one, pace(run.settings))
        for what in ("compress", "decompress"):
            made = [found for name, found in results.items() if name.startswith(what)]
            same = all(np.array_equal(a, b) for other in made[1:] for a, b in zip(made[0], other, strict=True))
            row.check(same, f"every way to {what} gives the same")
        medians = rounds.medians(stats.runs)
        row.facts |= {name: round(1000 * PICTURES / ms, 3) for name, ms in medians.items()}
        row.set(
            medians["compress in turn"] / medians["compress, two stages"],
            "ratio",
            rounds.stats("compress in turn", stats),
        )


def overlaps(model: str, pictures: Sequence[Pixels], *, threads: int) -> dict[str, Callable[[], list[Any]]]:
    """Ways to process pictures, each giving its results in order. Codecs are never shared between threads."""
    whole, other = (Codec(model, backend=open_backend("cpu", threads=threads)) for _ in range(2))
    halves = [Codec(model, backend=open_backend("cpu", threads=max(1, threads // 2))) for _ in range(2)]
    step, files = quality_to_u16(60), [whole.compress(picture) for picture in pictures]
    arrays = [np.frombuffer(data, np.uint8) for data in files]

    def two_stages() -> list[Any]:
        with ThreadPoolExecutor(1) as ahead:  # the encoder of the next picture beside the coding of this one
            analysed = [ahead.submit(whole.analyse, picture) for picture in pictures]
            return [code(one.result()) for one in analysed]

    def code(analysed: Any) -> Any:
        return np.frombuffer(other.write(analysed, other.attempt(analysed, step)), np.uint8)

    def compress(codec: Codec, picture: Pixels) -> Any:
        return np.frombuffer(codec.compress(picture), np.uint8)

    def two_workers(change: Callable[[Codec, Any], Any], items: Sequence[Any]) -> list[Any]:
        with ThreadPoolExecutor(2) as pool:
            parts = [
                pool.submit(lambda n=n: [change(halves[n], item) for item in items[n::2]])  # type: ignore[misc]
                for n in range(2)
            ]
            first, second = (part.result() for part in parts)
        return [(second if n % 2 else first)[n // 2] for n in range(len(items))]

    def decompress(codec: Codec, data: Any) -> Any:
        return codec.decompress(data.tobytes())

    return {
        "compress in turn": lambda: [compress(whole, picture) for picture in pictures],
        "compress, two stages": two_stages,
        "compress, two workers": lambda: two_workers(compress, pictures),
        "decompress in turn": lambda: [decompress(whole, data) for data in arrays],
        "decompress, two workers": lambda: two_workers(decompress, arrays),
    }
