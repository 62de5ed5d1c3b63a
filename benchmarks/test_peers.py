"""How fast is vaert beside others, in the same rounds, on the same pictures and threads?

CompressAI's networks have their own untrained weights, so only their times count. They go from a float tensor to
strings and back; vaert from uint8 pixels to a whole file and back.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks._compressai import Peer, peer, python
from benchmarks._formats import AVIF
from benchmarks._machine import ROOT
from benchmarks._suite import LEFT_OUT, NotMeasured, Pace, Row, Run, Settings, Stats, timed
from benchmarks._suite_clock import Rounds
from benchmarks._suite_engines import Pixels, Shelf
from vaert.metrics import psnr
from vaert.package import CODEC, UPSCALER, Package, find_package
from vaert.resample import downscale
from vaert.runtime.backends import Backend, Runner
from vaert.runtime.codec import DEFAULT_QUALITY, Codec
from vaert.runtime.upscaler import Upscaler

SECTION = "peers"
SIZE, PICTURES, QUICK_PICTURES = (768, 512), 8, 2
PAUSE_S = 0.2  # idle threads of one side spin for a while after a run; let them fall asleep before the other's turn
LEAST_DB = 25.0
PEER_QUALITY = 4
# How many times slower than vaert, both directions together; None: no promise.
NETWORKS = {"bmshj2018-factorized": None, "bmshj2018-hyperprior": 5.0, "mbt2018-mean": None, "cheng2020-anchor": 20.0}
QUICK_NETWORK, SLOW_NETWORK = "bmshj2018-hyperprior", "cheng2020-anchor"  # the slow one decodes position by position
LARGEST_DIFFERENCE = 0.1  # of 1, with and without entropy coding: contexts summed in another order round differently
AVIF_QUALITY = 60
SCALE, UPSCALED = 4, ((128, 128), (480, 270))
UPSCALERS = ("ESPCN", "EDSR-baseline")
FILTERS = {"OpenCV, cubic": cv2.INTER_CUBIC, "OpenCV, Lanczos": cv2.INTER_LANCZOS4}
# In a process of its own, because it loads torch, whose threads and memory are not what is measured.
EXPORT = """
import sys
from pathlib import Path
from benchmarks._upscaling_peers import export
export(sys.argv[1], Path(sys.argv[2]))
"""


@dataclass(frozen=True)
class Side:
    """vaert's side of a comparison."""

    name: str
    codec: Codec
    pictures: tuple[Pixels, ...]
    files: list[bytes]

    def run(self, operation: str, number: int) -> None:
        """Compress or decompress one picture."""
        if operation == "compress":
            self.codec.compress(self.pictures[number], DEFAULT_QUALITY)
        else:
            self.codec.decompress(self.files[number])

    def prove(self, check: Callable[[object, str], None]) -> None:
        """What was timed is right."""
        fidelity = [psnr(p, self.codec.decompress(f)) for p, f in zip(self.pictures, self.files, strict=True)]
        check(min(fidelity) > LEAST_DB, f"vaert's pictures are above {LEAST_DB:g} dB")
        again = self.codec.compress(self.pictures[-1], DEFAULT_QUALITY)
        check(again == self.files[-1], "compressing again gives the same file")


def side(settings: Settings, shelf: Shelf) -> Side:
    """The first codec that was asked for, on the CPU. NotMeasured."""
    model = next((name for name in settings.models if find_package(name).manifest.kind == CODEC), None)
    if model is None:
        raise NotMeasured("no codec among the models that were asked for")
    if "cpu" not in settings.backends:
        raise NotMeasured("the others run on the CPU, which is not among the backends that were asked for")
    codec = Codec(shelf.package(model, "fp32"), backend=shelf.backend("cpu"))
    chosen = shelf.photographs(*SIZE, QUICK_PICTURES if settings.quick else PICTURES)
    return Side(f"vaert {model}", codec, chosen, [codec.compress(picture, DEFAULT_QUALITY) for picture in chosen])


def shared(settings: Settings, **more: Any) -> dict[str, Any]:
    """Parameters of every row."""
    return {"width": SIZE[0], "height": SIZE[1], "threads": settings.threads, **more}


@pytest.mark.parametrize("network", NETWORKS)
def test_compressai(network: str, run: Run, shelf: Shelf, stopwatch: Callable[[], Any]) -> None:
    """Rows: compress and decompress of a network and of vaert in turn, picture after picture."""
    rounds, settings = Rounds(), run.settings
    name = f"CompressAI {network}"
    with run.row(SECTION, name, **shared(settings, operation="compress", beside="vaert")) as row:
        ours = side(settings, shelf)
        if settings.quick and network != QUICK_NETWORK:
            raise NotMeasured(f"{LEFT_OUT}, which keeps {QUICK_NETWORK}")
        if reason := python()[1]:
            raise NotMeasured(reason)
        with peer(network, ours.pictures, quality=PEER_QUALITY, threads=settings.threads) as other:
            count, busy = iter(range(10**9)), list[float]()

            def one() -> None:
                busy.append(one_round(rounds, ours, other, next(count)))

            stats = timed(stopwatch, one, pace(settings, network))
            facts = other.facts | other.ask("check", 0)
        stats = without(stats, busy)
        fill(row, rounds, "peer compress", stats, beside="vaert compress")
        ours.prove(row.check)
        difference = facts.pop("largest_difference")
        row.check(difference is not None and difference <= LARGEST_DIFFERENCE, "the peer decodes what it meant")
        row.facts |= {"weights": "untrained: its time only", "quality": PEER_QUALITY, **facts}
    add_rest(run, rounds, name, stats, ours=ours.name)
    if (times := NETWORKS[network]) is not None:
        add_bar(run, rounds, name, stats, times=times)


def pace(settings: Settings, network: str = "") -> Pace:
    """Rounds of everything; of the slow network two, after one that warms up."""
    least = 2 if network == SLOW_NETWORK else 5
    return replace(settings.pace, budget_s=10 * settings.pace.budget_s, least=least, limit_s=15 * settings.row_limit_s)


def one_round(rounds: Rounds, ours: Side, other: Peer, count: int) -> float:
    """Both directions of one picture, the two sides in turn; how many cores the other's process used meanwhile."""
    number = count % len(ours.pictures)
    started, used = time.perf_counter(), other.ask("used", number)
    for operation in ("compress", "decompress"):
        rounds.time(f"vaert {operation}", partial(ours.run, operation, number))
        time.sleep(PAUSE_S)
        rounds.add(f"peer {operation}", other.ask(operation, number) / 1e6)
        time.sleep(PAUSE_S)
    return float((other.ask("used", number) - used) / (time.perf_counter() - started))


def without(stats: Stats, busy: list[float]) -> Stats:
    """The peer is no disturbance: its cores are not those of others."""
    if stats.others_cores is None:
        return stats
    own = sum(busy[-stats.runs :]) / stats.runs
    return replace(stats, others_cores=round(max(0.0, stats.others_cores - own), 3))


def fill(row: Row, rounds: Rounds, name: str, whole: Stats, *, beside: str = "") -> None:
    """Milliseconds a picture; `beside` names what is compared, and how many times faster that is."""
    stats = rounds.stats(name, whole)
    if beside:
        row.facts["times_faster_is_vaert"] = round(stats.p50_ms / rounds.medians(whole.runs)[beside], 3)
    row.set(stats.p50_ms, "ms", stats, better="lower")


def add_rest(run: Run, rounds: Rounds, name: str, whole: Stats, *, ours: str) -> None:
    """The rows beside that of the peer's compress."""
    settings = run.settings
    with run.row(SECTION, name, **shared(settings, operation="decompress", beside="vaert")) as row:
        fill(row, rounds, "peer decompress", whole, beside="vaert decompress")
    for operation in ("compress", "decompress"):
        with run.row(SECTION, ours, **shared(settings, operation=operation, beside=name)) as row:
            fill(row, rounds, f"vaert {operation}", whole)


def add_bar(run: Run, rounds: Rounds, name: str, whole: Stats, *, times: float) -> None:
    """Both directions together."""
    found = rounds.medians(whole.runs)
    ours, theirs = (found[f"{who} compress"] + found[f"{who} decompress"] for who in ("vaert", "peer"))
    text = f"{theirs / ours:.1f} times ({theirs:.0f} ms / {ours:.0f} ms, medians of {whole.runs} rounds)"
    what, bar = f"compress + decompress, against {name}", f"at least {times:g} times faster"
    run.bar(what, bar, text, met=theirs >= times * ours, others=whole.others_cores)


def test_avif(run: Run, shelf: Shelf, stopwatch: Callable[[], Any]) -> None:
    """Rows: encode and decode of AVIF at speed 6 and vaert in turn, picture after picture; a bar on encoding."""
    rounds, settings = Rounds(), run.settings
    with run.row(SECTION, AVIF.name, **shared(settings, operation="compress", beside="vaert")) as row:
        ours = side(settings, shelf)
        if reason := AVIF.missing():
            raise NotMeasured(reason)
        encode = partial(AVIF.encode, setting=AVIF_QUALITY, threads=settings.threads)
        files = [encode(picture) for picture in ours.pictures]
        count = iter(range(10**9))

        def one() -> None:
            number = next(count) % len(files)
            for operation in ("compress", "decompress"):
                rounds.time(f"vaert {operation}", partial(ours.run, operation, number))
            rounds.time("peer compress", partial(encode, ours.pictures[number]))
            rounds.time("peer decompress", partial(AVIF.decode, files[number]))

        stats = timed(stopwatch, one, pace(settings))
        fill(row, rounds, "peer compress", stats, beside="vaert compress")
        row.facts["quality"] = AVIF_QUALITY
        add_fidelity(row, "vaert", ours.pictures, ours.files, decode=ours.codec.decompress)
        add_fidelity(row, "peer", ours.pictures, files, decode=AVIF.decode)
    add_rest(run, rounds, AVIF.name, stats, ours=ours.name)
    found = rounds.medians(stats.runs)
    text = f"{found['vaert compress']:.0f} ms beside {found['peer compress']:.0f} ms, medians of {stats.runs} rounds"
    met = found["vaert compress"] < found["peer compress"]
    what, bar = f"{ours.name}, encoding", "faster than AVIF (Pillow, speed 6)"
    run.bar(what, bar, text, met=met, others=stats.others_cores)


def add_fidelity(
    row: Row, who: str, pictures: Sequence[Pixels], files: Sequence[bytes], *, decode: Callable[[bytes], Pixels]
) -> None:
    """Means over the pictures, so that times can be judged."""
    fidelity = [psnr(picture, decode(file)) for picture, file in zip(pictures, files, strict=True)]
    row.check(min(fidelity) > LEAST_DB, f"{who}: every picture is above {LEAST_DB:g} dB")
    row.facts[f"{who}_bpp"] = round(8 * sum(map(len, files)) / len(files) / (SIZE[0] * SIZE[1]), 4)
    row.facts[f"{who}_psnr_db"] = round(float(np.mean(fidelity)), 3)


@pytest.mark.parametrize("size", UPSCALED, ids=lambda size: f"{size[0]}x{size[1]}")
def test_upscaling(size: tuple[int, int], run: Run, shelf: Shelf, tmp_path: Path, stopwatch: Callable[[], Any]) -> None:
    """Rows: vaert, networks of papers on the same engine, and OpenCV's filters, by 4, in turn."""
    settings, rounds, absent = run.settings, Rounds(), dict[str, str]()
    parameters = {"width": size[0], "height": size[1], "threads": settings.threads, "operation": f"upscale x{SCALE}"}
    with run.row(SECTION, "vaert, the whole call", **parameters) as row:
        package = upscaler_package(settings)
        if settings.quick and size != UPSCALED[0]:
            raise NotMeasured(f"{LEFT_OUT}, which keeps {UPSCALED[0][0]}x{UPSCALED[0][1]}")
        backend = shelf.backend("cpu")
        upscaler, small = Upscaler(package, backend=backend), shelf.photographs(*size, 1)[0]
        actions: dict[str, Callable[[], Pixels]] = {"vaert, the whole call": lambda: upscaler.upscale(small)}
        actions["vaert, its network alone"] = network_alone(backend, package, small)
        for name in UPSCALERS:
            try:
                runner = backend.load(exported(name, tmp_path), "network")
                actions[name] = partial(_large, runner, {"pixels": small[None]})
            except NotMeasured as reason:
                absent[name] = str(reason)
        wide = (SCALE * size[0], SCALE * size[1])
        for name, how in FILTERS.items():
            actions[name] = partial(_resized, small, wide, how)

        def one() -> None:
            for name, action in actions.items():
                rounds.time(name, action)

        with opencv_threads(settings.threads):
            stats = timed(stopwatch, one, pace(settings))
            made = {name: action() for name, action in actions.items()}
        row.check({m.shape for m in made.values()} == {(*reversed(wide), 3)}, "all pictures have the size asked for")
        row.check(
            np.array_equal(made["vaert, the whole call"], made["vaert, its network alone"]), "call and network agree"
        )
        kept = {name: psnr(small, downscale(made[name], SCALE)) for name in (*FILTERS, "vaert, the whole call")}
        row.check(min(kept.values()) > LEAST_DB, f"made small again all that are trained are above {LEAST_DB:g} dB")
        fill(row, rounds, "vaert, the whole call", stats)
    for name in (*actions, *absent):
        if name != "vaert, the whole call":
            add_upscaler(run, rounds, name, stats, parameters=parameters, reason=absent.get(name))


def add_upscaler(
    run: Run, rounds: Rounds, name: str, whole: Stats, *, parameters: dict[str, Any], reason: str | None
) -> None:
    """A row beside that of the whole call."""
    with suppress(NotMeasured), run.row(SECTION, name, **parameters) as row:
        if reason:
            raise NotMeasured(reason)
        if name in UPSCALERS:
            row.facts["weights"] = "random: its time only"
        fill(row, rounds, name, whole, beside="" if name.startswith("vaert") else "vaert, the whole call")


def upscaler_package(settings: Settings) -> Package:
    """The first upscaler by SCALE that was asked for. NotMeasured."""
    for model in settings.models:
        package = find_package(model)
        if package.manifest.kind == UPSCALER and package.manifest.geometry["scale"] == SCALE:
            return package
    raise NotMeasured(f"no upscaler by {SCALE} among the models that were asked for")


def network_alone(backend: Backend, package: Package, small: Pixels) -> Callable[[], Pixels]:
    """The upscaler's graph, without tiles and noise."""
    noise = np.zeros((1, *small.shape[:2], package.manifest.geometry["latents"]), np.float32)
    return partial(_large, backend.load(package, "upscaler"), {"pixels": small[None], "noise": noise})


def _large(runner: Runner, inputs: dict[str, Any]) -> Pixels:
    return np.asarray(runner.run(inputs)["large"][0])


def _resized(small: Pixels, size: tuple[int, int], how: int) -> Pixels:
    return np.asarray(cv2.resize(small, size, interpolation=how), np.uint8)


def exported(name: str, folder: Path) -> Package:
    """A paper's network with random weights as a package. NotMeasured without what exports it."""
    for needed in ("torch", "onnx"):
        if find_spec(needed) is None:
            raise NotMeasured(f"its graph is made with {needed}: pip install 'vaert[train]'")
    line = [sys.executable, "-W", "ignore", "-c", EXPORT, name, str(folder)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exporting {name} ended with {done.returncode}: {done.stderr.strip()[-300:]}"
    return Package.open(folder / name)


@contextmanager
def opencv_threads(count: int) -> Iterator[None]:
    """OpenCV's own threads, set back afterwards."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
