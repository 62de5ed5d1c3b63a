"""How good, how fast and how large is upscaling: PSNR on Y of the files that the command writes, time, peak memory?

EDSR-baseline and ESPCN are built from their papers, with random weights, and run on the same engine in turn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._machine import THREADS, Bar, Timing, finish, interleaved, model_facts, parser, require, summary
from benchmarks._upscaling_peers import GRAPH, PEERS, export, multiply_adds
from benchmarks.memory import launch, mirrored
from vaert.evaluate import Pixels, read_rgb
from vaert.export.registry import from_package
from vaert.image import encode_image, read_image
from vaert.package import Package, find_package
from vaert.resample import upscale as bicubic
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.runtime.upscaler import Upscaler
from vaert.super_resolution import find_pairs, luma_psnr, read_pair

NAME = "upscaling"
PSNR_BARS = {(4, "set5"): 30.5, (4, "set14"): 27.5, (4, "bsd100"): 26.9, (2, "set5"): 36.5, (2, "set14"): 32.3}
SIDE, LIMIT_MS = 128, 150.0
LARGEST = 1080, 1920  # to 4K at scale 2
BAR_BYTES = 1.5e9
BAR_PEER, BAR_RATIO = "EDSR-baseline", 3.0


def main() -> int:
    """Measure, check and write."""
    made = parser(str(__doc__), NAME, model=None)
    made.add_argument("--x4", default="upscale-x4", help="bundled name or package folder (default: upscale-x4)")
    made.add_argument("--x2", default="upscale-x2", help="the same for scale 2 (default: upscale-x2)")
    made.add_argument("--images", type=Path, nargs="+", required=True, help="folders with HR and LRx2 or LRx4")
    made.add_argument("--runs", type=int, default=50, help="runs of each network (default: 50)")
    given = made.parse_args()
    packages = {scale: find_package(name) for scale, name in ((4, given.x4), (2, given.x2))}
    sets = [
        quality(package, folder, scale)
        for scale, package in packages.items()
        for folder in given.images
        if (folder / f"LRx{scale}").is_dir()
    ]
    picture = read_rgb(find_pairs(given.images[0], 4)[0].large)
    times = speed(packages[4], mirrored(picture, SIDE, SIDE), runs=given.runs)
    memory = peak(packages[2], picture)
    results = {
        "models": {f"x{scale}": model_facts(package) for scale, package in packages.items()},
        "sets": sets,
        "times": {name: asdict(timing) for name, timing in times.items()},
        "throughput_ratios": throughput(times),
        "multiply_adds_per_small_pixel": work(packages[4]),
        "threads": THREADS,
        "memory": memory,
    }
    return finish(NAME, given.out, results=results, bars=[*quality_bars(sets), *speed_bars(times), memory_bar(memory)])


def quality(package: Package, folder: Path, scale: int) -> dict[str, Any]:
    """PSNR on Y, means over one set's pictures: of the files that `vaert upscale` writes, and of bicubic."""
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "out")
        arguments = ["upscale", str(folder / f"LRx{scale}"), str(out), "--model", str(package.path.resolve())]
        launch([*arguments, "--quiet", "--format", "png"])
        pairs = find_pairs(folder, scale)
        for pair in pairs:
            large, small = read_pair(pair)
            require(pair.small is not None, f"{folder} has no small pictures")
            result = read_image((out / f"{pair.name}.png").read_bytes(), name=pair.name).pixels
            if result.ndim < large.ndim:  # a grey small picture of a large one in colour
                result = np.repeat(result[..., None], 3, axis=2)
            ours.append(luma_psnr(large, result, shave=scale))
            theirs.append(luma_psnr(large, bicubic(small, scale), shave=scale))
        require(len(list(out.iterdir())) == len(pairs), "the command wrote another number of files")
    return {
        "set": folder.name,
        "scale": scale,
        "pictures": len(pairs),
        "psnr_db": round(float(np.mean(ours)), 3),
        "bicubic_db": round(float(np.mean(theirs)), 3),
        "worse_than_bicubic": sum(a < b for a, b in zip(ours, theirs, strict=True)),
    }


def speed(package: Package, picture: Pixels, *, runs: int) -> dict[str, Timing]:
    """The library's call and every network alone, in turn, on the same bytes."""
    backend = OnnxRuntimeCpu(threads=THREADS)
    upscaler = Upscaler(package, backend=backend)
    noise = np.zeros((1, *picture.shape[:2], package.manifest.geometry["latents"]), np.float32)
    ours = backend.load(package, "upscaler")
    inputs = {"pixels": picture[None], "noise": noise}
    require(np.array_equal(ours.run(inputs)["large"][0], upscaler.upscale(picture)), "graph and library disagree")
    with tempfile.TemporaryDirectory() as folder:
        peers = {name: backend.load(export(name, Path(folder)), GRAPH) for name in PEERS}
    for name, runner in peers.items():
        shape = runner.run({"pixels": picture[None]})["large"].shape
        require(shape == (1, 4 * SIDE, 4 * SIDE, 3), f"{name} makes {shape}")
    actions = {"vaert, the whole call": lambda: upscaler.upscale(picture), "vaert": lambda: ours.run(inputs)}
    for name, runner in peers.items():
        actions[name] = lambda runner=runner: runner.run({"pixels": picture[None]})  # type: ignore[misc]
    return {name: summary(t) for name, t in interleaved(actions, runs=runs, warm_up=5).items()}


def work(package: Package) -> dict[str, int]:
    """Multiply-adds per small pixel of every network at scale 4."""
    model = from_package(package).model()  # type: ignore[attr-defined]
    small = torch.zeros(1, 3, 32, 32)
    counts = {name: multiply_adds(make(), small) for name, make in PEERS.items()}
    return {"vaert": multiply_adds(model, small, torch.zeros(1, model.config.latents, 32, 32)), **counts}


def peak(package: Package, picture: Pixels) -> dict[str, Any]:
    """Peak memory and time of the command that takes 1080p to 4K."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.png"), Path(folder, "out.png")
        source.write_bytes(encode_image(mirrored(picture, *LARGEST), format="png"))
        arguments = ["upscale", str(source), str(target), "--model", str(package.path.resolve())]
        facts = launch([*arguments, "--threads", str(THREADS), "--quiet"])
        shape = read_rgb(target).shape
    require(shape == (2 * LARGEST[0], 2 * LARGEST[1], 3), f"the command wrote {shape}")
    return facts


def quality_bars(sets: list[dict[str, Any]]) -> list[Bar]:
    """PSNR of every set that has a bar."""
    bars = []
    for found in sets:
        limit = PSNR_BARS.get((found["scale"], found["set"]))
        if limit is not None:
            text = f"{found['psnr_db']:.2f} dB (bicubic {found['bicubic_db']:.2f})"
            met = found["psnr_db"] >= limit
            bars.append(Bar(f"x{found['scale']}, {found['set']}, PSNR on Y", f"at least {limit} dB", text, met))
    return bars


def throughput(times: Mapping[str, Timing]) -> dict[str, float]:
    """How many times as much our network gets done as each peer, by medians."""
    return {name: round(times[name].p50_ms / times["vaert"].p50_ms, 3) for name in PEERS}


def speed_bars(times: Mapping[str, Timing]) -> list[Bar]:
    """Time of a call, throughput against the peer that has a bar."""
    call = times["vaert, the whole call"]
    text = f"{call.p50_ms:.0f} ms (p95 {call.p95_ms:.0f} ms, {call.runs} runs)"
    what, bar = f"{SIDE}x{SIDE} to {4 * SIDE}x{4 * SIDE}, warm, p50", f"below {LIMIT_MS:.0f} ms"
    bars = [Bar(what, bar, text, call.p50_ms < LIMIT_MS)]
    ratio = throughput(times)[BAR_PEER]
    text = f"{ratio:.2f} times ({times[BAR_PEER].p50_ms:.0f} ms / {times['vaert'].p50_ms:.0f} ms, medians)"
    bars.append(Bar(f"throughput against {BAR_PEER}", f"at least {BAR_RATIO:g} times", text, ratio >= BAR_RATIO))
    return bars


def memory_bar(found: Mapping[str, Any]) -> Bar:
    """Peak of the whole process."""
    text = f"{found['peak_bytes'] / 1e9:.2f} GB ({found['seconds']:.0f} s)"
    what = f"vaert upscale, {LARGEST[1]}x{LARGEST[0]} by 2, peak memory"
    return Bar(what, f"below {BAR_BYTES / 1e9:g} GB", text, found["peak_bytes"] < BAR_BYTES)


if __name__ == "__main__":
    raise SystemExit(main())
