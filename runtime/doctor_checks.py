"""What `vaert doctor` asks of a backend. Each check gets the backend, and gives a result or raises."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from vaert.errors import BackendError, VaertError
from vaert.package import CODEC, LOSSLESS_DIGITS, Package, bundled_models, find_package
from vaert.runtime.backends import Backend, OnnxRuntimeCpu, Runner
from vaert.runtime.compare import Tolerance, compare
from vaert.runtime.doctor_report import ABSENT, FAULT, NOTE, OK
from vaert.runtime.entropy import RESIDUAL_MAX
from vaert.runtime.made import made_digits, made_picture, made_pictures
from vaert.runtime.trial import inexact, relative_error, unlike_cpu
from vaert.runtime.verify import reference_of

Array = npt.NDArray[Any]
MODEL, TINY = "fast", "mnist-mlp"
HYPER_SIZES = ((1, 1), (2, 3), (4, 6), (8, 12), (3, 1))  # of the prior's inputs, in hyper-latents; 8 x 12: 512 x 768
QUALITIES = (20.0, 80.0)
TURNS = ((64, 64), (128, 192), (64, 64), (192, 128), (128, 192))  # pixels; shapes that come and come again
REPEATS = 4  # of a shape: enough for a CUDA graph to be captured and replayed
# Between fp32 backends. On the small pictures of these checks a latent that rounds the other way moves the rate by more
# than `vaert verify` allows on large ones.
SAME = Tolerance(levels=1, psnr=0.05, rate=0.01)
RUNS, WARM_UP = 5, 4
SIZE = (512, 768)  # height, width, for latency


@dataclass(frozen=True)
class Result:
    """What a check found."""

    status: str
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Patient:
    """A backend under examination. packages: folders, of fp16 and int8, to compare with fp32."""

    backend: Backend
    packages: tuple[str, ...] = ()

    @cached_property
    def package(self) -> Package:
        """The codec that is tried."""
        return find_package(MODEL)

    @cached_property
    def reference(self) -> Backend:
        """The CPU; for the CPU itself, without any optimisation."""
        return OnnxRuntimeCpu(optimisation="none" if self.backend.name == OnnxRuntimeCpu.name else "all")

    def both(self, graph: str) -> tuple[Runner, Runner]:
        """The same graph of the codec on this backend and on the reference."""
        return self.backend.load(self.package, graph), self.reference.load(self.package, graph)

    @cached_property
    def encoders(self) -> tuple[Runner, Runner]:
        """Of the codec; loaded once, as their shapes are switched and their graphs captured."""
        return self.both("encoder")


def known_answers(patient: Patient) -> Result:
    """The integers that travel with the packages, of the codec's prior and of the lossless digits."""
    packages = [find_package(name) for name in bundled_models()]
    exact = [package for package in packages if package.manifest.kind in (CODEC, LOSSLESS_DIGITS)]
    for package in exact:
        if wrong := inexact(package, patient.backend):
            return Result(FAULT, f"{package.manifest.name}: {wrong}")
    return Result(OK, f"exact: {', '.join(package.manifest.name for package in exact)}")


def random_integers(patient: Patient) -> Result:
    """The prior on random inputs of several sizes: every integer the CPU's, and within the tables."""
    rng, compared = np.random.default_rng(3), 0
    anchors, context = patient.both("prior_anchor"), patient.both("prior_context")
    hyper, latents = (int(patient.package.manifest.config[name]) for name in ("hyper", "latents"))
    for rows, columns in HYPER_SIZES:
        for reach in (4, 127):
            z = rng.integers(-reach, reach + 1, (1, rows, columns, hyper), np.int32)
            first = [runner.run({"z": z}) for runner in anchors]
            s = rng.integers(-300 * reach, 300 * reach + 1, (1, 2 * rows, 2, 2 * columns, latents), np.int32)
            second = [one.run({"features": first[1]["features"], "anchors": s}) for one in context]
            for step, (found, right) in (("anchor", first), ("context", second)):
                at = f"prior_{step} of {rows}x{columns} hyper-latents"
                if wrong := _different(found, right) or _outside_tables(found):
                    return Result(FAULT, f"{at}: {wrong}")
                compared += sum(value.size for value in right.values())
    return Result(OK, f"{compared} integers are those of the CPU", {"compared": compared})


def _different(found: Mapping[str, Array], right: Mapping[str, Array]) -> str:
    for name, expected in right.items():
        value = found.get(name)
        if value is None or value.shape != expected.shape or value.dtype != expected.dtype:
            seen = "nothing" if value is None else f"{value.dtype} {value.shape}"
            return f"{name} is {seen}, expected {expected.dtype} {expected.shape}"
        if wrong := int(np.count_nonzero(value != expected)):
            most = float(np.abs(value.astype(np.float64) - expected).max())
            return f"{wrong} of {value.size} values of {name} differ from the CPU's, by up to {most:g}"
    return ""


def _outside_tables(found: Mapping[str, Array]) -> str:
    if int(found["index"].max()) > 63 or int(np.abs(found["mean"]).max()) > RESIDUAL_MAX:
        return f"index up to {found['index'].max()}, mean up to {np.abs(found['mean']).max()}, outside the tables"
    return ""


def transforms(patient: Patient) -> Result:
    """The graphs of every bundled model on a small picture, next to the CPU."""
    names, wrong = [], []
    for name in bundled_models():
        package = find_package(name)
        if package.manifest.kind == LOSSLESS_DIGITS:
            continue
        names.append(name)
        try:
            fault = unlike_cpu(package, patient.backend)
        except VaertError as error:  # say it of every model, not of the first alone
            fault = f"{name}: {error}"
        wrong += [fault] if fault else []
    if wrong:
        return Result(FAULT, "; ".join(wrong))
    return Result(OK, f"like the CPU: {', '.join(names)}")


def files(patient: Patient) -> Result:
    """Files made here and decoded on the CPU, and the other way round: identical latents, pixels within a level."""
    pictures = made_pictures(((200, 300), (64, 64)))
    found = compare(patient.package, patient.package, pictures, backend=patient.backend, qualities=QUALITIES)
    facts = {"rows": found.to_dict()["rows"]}
    if faults := found.faults(SAME):
        return Result(FAULT, "; ".join(faults), facts)
    return Result(OK, "latents are identical whoever decodes, pixels within 1 level", facts)


def models(patient: Patient) -> Result:
    """Every other bundled model, whole, beside the CPU."""
    wrong, names = [], [name for name in bundled_models() if name != MODEL]
    for name in names:
        package = find_package(name)
        pictures: Any = made_digits(20, binary=package.manifest.geometry.get("levels") == 2)
        if not name.startswith("mnist"):
            pictures = [made_picture(128, 160)]
        found = compare(package, package, pictures, backend=patient.backend)
        wrong += [f"{name}: {fault}" for fault in found.faults(SAME)]
    return Result(FAULT, "; ".join(wrong)) if wrong else Result(OK, f"within 1 level: {', '.join(names)}")


def shapes_in_turn(patient: Patient) -> Result:
    """Sizes that come, go and come again, with new pixels each time: a stale buffer or graph would show."""
    ours, right = patient.encoders
    for number, (height, width) in enumerate(TURNS):
        for repeat in range(REPEATS):
            pixels = made_picture(height, width, seed=10 * number + repeat)[None]
            found, expected = (one.run({"pixels": pixels})["latents"] for one in (ours, right))
            if not (error := relative_error(found, expected)) <= 0.02:
                return Result(
                    FAULT,
                    f"run {repeat + 1} at {width}x{height} (size {number + 1} of {len(TURNS)}) is {error:.2g} of its "
                    "deviation away from the CPU, expected at most 0.02: an earlier run's buffers may have been used",
                )
    return Result(OK, f"{len(TURNS)} changes of size, {REPEATS} runs each, every run its own result")


def other_thread(patient: Patient) -> Result:
    """A graph that was loaded in one thread and runs in another, as servers do."""
    ours, right = patient.encoders
    pixels = made_picture(128, 192, seed=77)[None]
    found: list[Array | BaseException] = []

    def work() -> None:
        try:
            found.append(ours.run({"pixels": pixels})["latents"])
        except Exception as error:  # noqa: BLE001 - is told in the main thread
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    if not (error := relative_error(found[0], right.run({"pixels": pixels})["latents"])) <= 0.02:
        return Result(FAULT, f"a run in another thread is {error:.2g} of its deviation away from the CPU")
    return Result(OK, "a run in another thread gives the same")


def cuda_graphs(patient: Patient) -> Result:
    """Whether runs of one shape are captured. A backend without graphs says so by having no `graphs`."""
    runner = patient.encoders[0]
    pixels = made_picture(64, 64)[None]
    for _ in range(REPEATS):
        runner.run({"pixels": pixels})
    captured, reason = _captured(runner)
    if captured is None:
        return Result(ABSENT, f"the {patient.backend.name} backend has none")
    if captured:
        return Result(OK, f"{captured} captured by the encoder", {"captured": int(captured)})
    if reason:
        return Result(ABSENT, f"not captured, plain runs instead: {reason}")
    return Result(FAULT, f"nothing was captured after {REPEATS} runs of one shape, and no reason is known")


def _captured(runner: Any) -> tuple[int | None, str]:
    """CUDA graphs that a runner holds, None if it knows of none, and why it does without; names differ by backend."""
    counts: list[int] = []
    reasons: list[str] = []
    for part in (runner, getattr(runner, "_first", None), *getattr(runner, "engines", ())):
        for count, reason in (("graphs", "no_graphs"), ("recorded", "graph_failure")):
            if hasattr(part, count):
                counts.append(int(getattr(part, count)))
                reasons.append(str(getattr(part, reason, "")))
    return sum(counts) if counts else None, "; ".join(filter(None, reasons))


def engine_build(patient: Patient) -> Result:
    """The engine of a tiny graph, built anew in a folder of its own, found there again, and run."""
    if not hasattr(patient.backend, "engine_report"):
        return Result(ABSENT, f"the {patient.backend.name} backend builds none that can be asked for")
    package, graph = find_package(TINY), "decoder"
    make: Any = type(patient.backend)
    with tempfile.TemporaryDirectory(prefix="vaert-doctor-") as folder:
        backend = make(cache=folder)
        try:
            start = time.monotonic()
            built = backend.engine_report(package, graph)
            seconds = time.monotonic() - start
            start = time.monotonic()
            again = backend.engine_report(package, graph)
            found_in = time.monotonic() - start
            wrong = unlike_cpu(package, backend)
        finally:
            backend.close()
    facts = {"build_seconds": round(seconds, 3), "bytes": built.bytes, "shapes": built.shapes}
    text = f"{TINY} {graph} built in {seconds:.1f} s, {built.bytes / 1024:.0f} KiB, for {built.shapes}"
    if wrong:
        return Result(FAULT, f"{text}, but {wrong}", facts)
    if built.path is None:
        return Result(FAULT, f"{text}, but it could not be kept: every start would build it again", facts)
    if built.from_cache or not again.from_cache:
        what = "an empty cache gave an engine" if built.from_cache else "the engine was not found again in the cache"
        return Result(FAULT, f"{text}, but {what}", facts)
    return Result(OK, f"{text}; found again in {1000 * found_in:.0f} ms, and its outputs are right", facts)


def precision(patient: Patient) -> Result:
    """Packages of other precisions, or of users, beside their fp32 reference."""
    if not patient.packages:
        return Result(
            NOTE,
            "no fp16 or int8 package was given: vaert export --fp16 --out fast-fp16, then vaert doctor --package "
            "fast-fp16",
        )
    wrong, right = [], []
    for folder in patient.packages:
        try:
            package = find_package(folder)
            found = compare(package, reference_of(package), backend=patient.backend)
            what = f"{folder} ({found.precision})"
            wrong += [f"{what}: {fault}" for fault in found.faults()]
            right += [] if found.faults() else [f"{what} within {found.tolerance}"]
        except VaertError as error:
            wrong.append(f"{folder}: {error}")
    return Result(FAULT, "; ".join(wrong)) if wrong else Result(OK, "; ".join(right))


def latency(patient: Patient) -> Result:
    """Median time of the codec's networks on a picture of 768x512."""
    pixels = {"pixels": made_picture(*SIZE)[None]}
    y = patient.encoders[0].run(pixels)["latents"]
    _, inverse = patient.package.tables().gains(50)
    s = np.ascontiguousarray(np.rint(16 * y / inverse), np.int32)
    decoder = patient.backend.load(patient.package, "decoder")
    found = {}
    for name, runner, inputs in (
        ("encoder", patient.encoders[0], pixels),
        ("decoder", decoder, {"latents": s, "scale": inverse / np.float32(16)}),
    ):
        spent = []
        for _ in range(WARM_UP + RUNS):
            start = time.perf_counter_ns()
            runner.run(inputs)
            spent.append((time.perf_counter_ns() - start) / 1e6)
        found[f"{name}_ms"] = round(statistics.median(spent[WARM_UP:]), 3)
        for engine in getattr(runner, "engines", ())[:1]:  # TensorRT's, which can tell its own time
            found[f"{name}_gpu_ms"] = round(statistics.median(engine.time(inputs, RUNS)), 3)
    gpu = ""
    if "decoder_gpu_ms" in found:
        gpu = f"; on the GPU alone {found['encoder_gpu_ms']:.2f} and {found['decoder_gpu_ms']:.2f} ms"
    text = f"encoder {found['encoder_ms']:.1f} ms, decoder {found['decoder_ms']:.1f} ms at 768x512, {MODEL} fp32"
    return Result(OK, f"{text} (median of {RUNS}, copies included){gpu}", found)


def closing(patient: Patient) -> Result:
    """Closed twice; what was loaded refuses to run instead of crashing. The CPU has nothing to release."""
    runner = patient.encoders[0]
    patient.backend.close()
    patient.backend.close()
    if patient.backend.name == OnnxRuntimeCpu.name:
        return Result(OK, "nothing to release")
    try:
        runner.run({"pixels": made_picture(64, 64)[None]})
    except BackendError:
        return Result(OK, "released, and what was loaded refuses to run")
    return Result(FAULT, "a graph still ran after its backend was closed")


CHECKS: Mapping[str, Callable[[Patient], Result]] = {
    "known answers": known_answers,
    "random integers": random_integers,
    "transforms": transforms,
    "files": files,
    "models": models,
    "sizes in turn": shapes_in_turn,
    "threads": other_thread,
    "CUDA graphs": cuda_graphs,
    "engine build": engine_build,
    "precision": precision,
    "latency": latency,
    "closing": closing,
}
"""In this order; the last one ends the backend's life."""
