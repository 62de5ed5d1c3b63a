"""ONNX Runtime's CUDA backend, on a strict stand-in for onnxruntime-gpu: it was written without a GPU."""

from __future__ import annotations

import gc
import inspect
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import backend_suite
import fake_onnxruntime
import numpy as np
import onnxruntime as real
import pytest
from backend_suite import CHECK_NAMES, CHECKS, Make, compare, sample_inputs
from fake_onnxruntime import CUDA, Machine
from tf32_onnxruntime import Tf32, rounded

from vaert.errors import BackendError, MissingExtraError, OptionError
from vaert.package import find_package
from vaert.runtime.backends import OnnxRuntimeCpu
from vaert.runtime.backends._onnxruntime import Node, import_onnxruntime, require_placed
from vaert.runtime.backends._onnxruntime_bound import CAPTURES, SLOTS
from vaert.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda, available
from vaert.runtime.codec import Codec

FAST = find_package("fast")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine with a GPU; no misuse may happen on it, also none that was caught."""
    pretended = Machine(tmp_path)
    pretended.install(monkeypatch)
    yield pretended
    gc.collect()
    assert pretended.misuses == []


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "plain"])
@pytest.mark.parametrize("check", CHECKS, ids=CHECK_NAMES)
def test_the_suite(machine: Machine, check: Callable[[Make], None], graphs: bool) -> None:
    check(lambda: OnnxRuntimeCuda(cuda_graphs=graphs))
    assert (machine.events["captures"] == 0) or graphs


def test_buffers_and_graphs_are_kept_per_shape(machine: Machine) -> None:
    runner = OnnxRuntimeCuda().load(FAST, "prior_anchor")
    cpu = OnnxRuntimeCpu(threads=1).load(FAST, "prior_anchor")
    for k in range(12):
        inputs = sample_inputs(FAST, "prior_anchor", seed=k, size=(1, 1 + k % 2))
        compare(runner.run(inputs), cpu.run(inputs), exact=True)
    # Two shapes of one input and three outputs; each runs plainly twice, then its graph is captured and replayed.
    assert machine.events["buffers"] == 2 * 4
    assert machine.events["captures"] == runner.graphs == 2
    assert machine.events["replays"] == 2 * 3
    assert (runner.no_graphs, {node.provider for node in runner.nodes}) == ("", {CUDA})
    runner.close()
    assert machine.events["released"] == 2


def test_the_oldest_shape_makes_room_and_its_graph_is_released(machine: Machine) -> None:
    runner = OnnxRuntimeCuda().load(FAST, "prior_anchor")
    for width in range(1, SLOTS + 3):
        for _ in range(3):
            runner.run(sample_inputs(FAST, "prior_anchor", size=(1, width)))
    assert runner.graphs == SLOTS
    assert machine.events["released"] == 2
    replays = machine.events["replays"]
    runner.run(sample_inputs(FAST, "prior_anchor", size=(1, 3)))  # the oldest that is left, and now the youngest
    runner.run(sample_inputs(FAST, "prior_anchor", size=(1, 1)))
    runner.run(sample_inputs(FAST, "prior_anchor", size=(1, 3)))
    assert machine.events["replays"] == replays + 2
    assert runner.graphs == SLOTS - 1


def test_a_graph_is_replayed_only_in_the_thread_that_captured_it(machine: Machine) -> None:
    runner = OnnxRuntimeCuda().load(FAST, "prior_anchor")
    inputs = sample_inputs(FAST, "prior_anchor")
    right = [runner.run(inputs) for _ in range(4)][-1]
    thread_results: list[Any] = []
    thread = threading.Thread(target=lambda: thread_results.append(runner.run(inputs)))
    thread.start()
    thread.join()
    compare(thread_results[0], right, exact=True)
    assert (machine.events["captures"], machine.events["replays"]) == (1, 1)


def test_the_number_of_captures_is_bounded(machine: Machine) -> None:
    runner = OnnxRuntimeCuda().load(FAST, "hyper_encoder")
    for width in range(1, CAPTURES + 4):
        for _ in range(3):
            runner.run(sample_inputs(FAST, "hyper_encoder", size=(1, width)))
    assert machine.events["captures"] == CAPTURES


def test_a_graph_that_cannot_be_captured_runs_plainly(machine: Machine) -> None:
    machine.not_capturable = True
    runner = OnnxRuntimeCuda().load(FAST, "decoder")
    for _ in range(4):
        runner.run(sample_inputs(FAST, "decoder"))
    assert machine.events["captures"] == 0
    assert runner.no_graphs == "This session cannot use the graph capture feature as requested by the user"
    assert [session.options[CUDA]["enable_cuda_graph"] for session in machine.sessions] == ["0"]


def test_after_a_capture_that_failed_a_new_session_runs_plainly(machine: Machine) -> None:
    machine.failing_capture = True
    runner = OnnxRuntimeCuda().load(FAST, "prior_anchor")
    cpu = OnnxRuntimeCpu(threads=1).load(FAST, "prior_anchor")
    for k in range(5):
        inputs = sample_inputs(FAST, "prior_anchor", seed=k)
        compare(runner.run(inputs), cpu.run(inputs), exact=True)
    assert [session.captures for session in machine.sessions] == [True, False]
    assert runner.no_graphs.startswith("a capture failed: Graph capture did not complete after 3 internal runs")
    assert "\n" not in runner.no_graphs


def test_an_error_of_the_engine_is_one_line_and_the_next_run_works(machine: Machine) -> None:
    runner = OnnxRuntimeCuda().load(FAST, "prior_anchor")
    inputs = sample_inputs(FAST, "prior_anchor")
    for _ in range(4):
        runner.run(inputs)
    machine.fails = "CUDA failure 2: out of memory\n in Conv"
    with pytest.raises(BackendError, match=r"failed in prior_anchor: CUDA failure 2: out of memory$"):
        runner.run(inputs)
    machine.fails = ""
    runner.run(inputs)
    assert machine.events["released"] == 1


def test_options_of_transforms_and_of_exact_graphs(machine: Machine) -> None:
    backend = OnnxRuntimeCuda(memory_limit=1 << 30)
    for graph in ("decoder", "prior_context"):
        backend.load(FAST, graph)
    transform, exact = (session.options[CUDA] for session in machine.sessions)
    same = {
        "device_id": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_use_max_workspace": "1",
        "do_copy_in_default_stream": "1",
        "enable_cuda_graph": "1",
        "gpu_mem_limit": str(1 << 30),
    }
    assert transform == same | {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    assert exact == same | {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}
    fast = OnnxRuntimeCuda(tf32=True)
    for graph in ("decoder", "prior_context"):
        fast.load(FAST, graph)
    assert [session.options[CUDA]["use_tf32"] for session in machine.sessions[-2:]] == ["1", "0"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"on_cpu": frozenset({"Floor"})},
            r"would run 5 of 39 nodes of prior_anchor on the CPU \(Floor \S+, .*\): ",
        ),
        ({"on_cpu": frozenset({"Floor", "Clip"})}, r"10 of 39 nodes .* and 5 more\)"),
        ({"silent": True}, r"ONNX Runtime loaded prior_anchor on CPUExecutionProvider instead of CUDAExecution"),
        ({"records": False}, r"does not tell where it runs the nodes of a graph \(recording was not enabled\): pip"),
    ],
)
def test_nothing_runs_on_the_cpu_silently(machine: Machine, change: dict[str, Any], text: str) -> None:
    for name, value in change.items():
        setattr(machine, name, value)
    with pytest.raises(BackendError, match=text) as caught:
        OnnxRuntimeCuda().load(FAST, "prior_anchor")
    assert "\n" not in str(caught.value)


def test_arithmetic_on_shapes_may_run_on_the_cpu() -> None:
    work = Node(CUDA, "Conv", "c")
    shapes = [Node("CPUExecutionProvider", "Shape", "s"), Node("CPUExecutionProvider", "Mul", "m")]
    require_placed([work, *shapes], "g", (CUDA,))
    with pytest.raises(BackendError, match=r"1 of 2 nodes of g on the CPU \(Mul m\)"):
        require_placed([work, shapes[1]], "g", (CUDA,))
    with pytest.raises(BackendError, match=r"1 of 4 nodes of g on the CPU \(Resize r\)"):
        require_placed([work, *shapes, Node("CPUExecutionProvider", "Resize", "r")], "g", (CUDA,))
    with pytest.raises(BackendError, match="no node of g on the GPU"):
        require_placed(shapes, "g", (CUDA,))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"libraries": set()}, r"^no NVIDIA GPU / driver \(libcuda\.so\.1 is missing\): "),
        ({"gpus": 0}, r"^the NVIDIA driver finds no GPU \(CUDA error 100, 0 devices\): look at nvidia-smi"),
        (
            {"providers": ("CPUExecutionProvider",)},
            r"^onnxruntime has no CUDA provider \(onnxruntime and onnxruntime-gpu are both installed\): pip uninstall "
            r"-y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu\[cuda,cudnn\]'$",
        ),
        (
            {"unloadable": ("/x/nvidia/cu13/lib/libcurand.so.10", "libcublasLt.so.13", "libcublas.so.13")},
            r"^the CUDA provider cannot be loaded: libcublasLt\.so\.13, libcublas\.so\.13 missing: pip install "
            r"'onnxruntime-gpu\[cuda,cudnn\]'$",
        ),
        ({"libraries": {"libcuda.so.1"}}, r"cannot be loaded: libcudnn\.so\.9 missing: pip install"),
    ],
)
def test_what_is_missing_is_said_with_what_would_help(machine: Machine, change: dict[str, Any], text: str) -> None:
    assert available() == ""
    for name, value in change.items():
        setattr(machine, name, value)
    reason = available()
    with pytest.raises(BackendError, match=text) as caught:
        OnnxRuntimeCuda()
    assert str(caught.value) == reason
    assert "\n" not in reason


def test_the_cpu_package(machine: Machine) -> None:
    (machine.folder / "capi/libonnxruntime_providers_cuda.so").unlink()
    assert available().startswith("onnxruntime has no CUDA provider (the CPU package is installed): pip uninstall")


def test_without_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vaert\[gpu\]'"):
        OnnxRuntimeCuda()


def test_looking_is_cheap_and_true_here() -> None:
    """On whatever machine this runs, with the real packages."""
    start = time.perf_counter()
    reason = available()
    elapsed = time.perf_counter() - start
    assert "\n" not in reason
    if reason.startswith("no NVIDIA GPU"):
        assert elapsed < 0.05


def test_options(machine: Machine) -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"device": -1}, "device must be at least 0, not -1"),
        ({"memory_limit": 0}, "memory_limit must be at least 1 byte, not 0"),
        ({"threads": 0}, "threads must be at least 1, not 0"),
    )
    for options, text in cases:
        with pytest.raises(OptionError, match=text):
            OnnxRuntimeCuda(**options)
    with pytest.raises(BackendError, match="there is no GPU number 1: nvidia-smi lists them, from 0"):
        OnnxRuntimeCuda(device=1)
    machine.gpus = 2
    OnnxRuntimeCuda(device=1, threads=2).load(FAST, "decoder").run(sample_inputs(FAST, "decoder"))
    assert machine.sessions[-1].options[CUDA]["device_id"] == "1"


def test_the_codec_runs_on_it(machine: Machine) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    codec, cpu = Codec(FAST, backend=OnnxRuntimeCuda()), Codec(FAST, backend=OnnxRuntimeCpu(threads=1))
    for _ in range(4):
        assert codec.compress(picture) == cpu.compress(picture)
    assert np.array_equal(codec.decompress(codec.compress(picture)), cpu.decompress(cpu.compress(picture)))
    assert machine.events["replays"] > 0


@pytest.mark.parametrize("name", ["InferenceSession", "IOBinding", "OrtValue"])
def test_the_stand_in_has_the_signatures_of_the_real_package(name: str) -> None:
    pretended, true = getattr(fake_onnxruntime, name), getattr(real, name)
    constructor = ["__init__"] if name == "InferenceSession" else []  # the others are made by methods
    methods = [method for method in vars(pretended) if not method.startswith("_")]
    for method in set(methods + constructor) - {"machine", "write", "require_no_graph"}:
        found = list(inspect.signature(getattr(pretended, method)).parameters.values())
        wanted = list(inspect.signature(getattr(true, method)).parameters.values())
        assert [one.name for one in found] == [one.name for one in wanted][: len(found)], method
        assert all(one.default is not one.empty for one in wanted[len(found) :]), method
    preload = list(inspect.signature(real.preload_dlls).parameters)
    assert list(inspect.signature(Machine.preload_dlls).parameters)[1:] == preload


def test_the_stand_in_notices_misuse(machine: Machine) -> None:
    session = machine_session(machine)
    binding = session.io_binding()
    calls: tuple[Callable[[], object], ...] = (
        lambda: session.run_with_iobinding(binding),  # nothing is bound
        lambda: session.release_captured_graph(1),
        lambda: buffer(machine, (2,)).numpy(),
        lambda: buffer(machine, (2,)).update_inplace(np.zeros(2, np.int32)),
    )
    for call in calls:
        with pytest.raises(fake_onnxruntime.Misuse):
            call()
    value, options = buffer(machine, (1, 1, 1, 64), np.int32), real.RunOptions()
    value.update_inplace(np.zeros((1, 1, 1, 64), np.int32))
    binding.bind_ortvalue_input("z", value)
    outputs = {"features": (1, 4, 4, 128), "mean": (1, 2, 2, 2, 320), "index": (1, 2, 2, 2, 320)}
    types = {"features": np.float32, "mean": np.int32, "index": np.uint8}
    values = {name: buffer(machine, shape, types[name]) for name, shape in outputs.items()}
    for name, one in values.items():
        binding.bind_ortvalue_output(name, one)
    options.add_run_config_entry("gpu_graph_id", "1")
    session.run_with_iobinding(binding, options)
    with pytest.raises(fake_onnxruntime.Misuse, match="before synchronize_outputs"):
        values["mean"].numpy()
    with pytest.raises(fake_onnxruntime.Misuse, match="under a captured graph"):
        binding.bind_ortvalue_input("z", value)
    session.release_captured_graph(1)
    with pytest.raises(fake_onnxruntime.Misuse, match="used after its release"):
        session.run_with_iobinding(binding, options)
    assert len(machine.misuses) == 7
    machine.misuses.clear()


def machine_session(machine: Machine) -> Any:
    OnnxRuntimeCuda().load(FAST, "prior_anchor")
    return machine.sessions[-1]


def buffer(machine: Machine, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    module = import_onnxruntime("gpu")
    return module.OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cuda", 0)


@pytest.mark.parametrize(
    "check",
    [
        backend_suite.check_the_known_answers,
        backend_suite.check_the_prior_against_int64,
        backend_suite.check_files_decode_on_the_cpu_and_back,
        backend_suite.check_parity_with_the_cpu,
    ],
)
def test_tf32_changes_no_integer_and_pixels_of_pictures_by_one_level(check: Callable[[Make], None]) -> None:
    """Why TensorRT's provider, which cannot turn it off, may run the prior, and what the suite's bounds allow for."""
    check(Tf32)


def test_tf32_changes_pixels_of_noise_by_more() -> None:
    """Why it is off for transforms unless it is asked for."""
    noise = 255 * np.random.default_rng(0).integers(0, 2, (256, 256, 1), np.uint8).repeat(3, 2)
    cpu = Codec(FAST, backend=OnnxRuntimeCpu(threads=1))
    data = cpu.compress(noise, 100)
    away = np.abs(cpu.decompress(data).astype(int) - Codec(FAST, backend=Tf32()).decompress(data))
    assert away.max() > backend_suite.LEVELS
    assert (away > backend_suite.LEVELS).mean() < 0.01


def test_tf32_rounds_to_eleven_bits() -> None:
    assert np.array_equal(
        rounded(np.array([2047, 2048, 2049, 4097, -4099], np.float32)), [2047, 2048, 2048, 4096, -4100]
    )
