"""The TensorRT backend on a strict stand-in for TensorRT, pycuda and the driver; engines compute with ONNX Runtime."""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_cuda
import fake_tensorrt
import numpy as np
import pytest
from backend_suite import CHECK_NAMES, CHECKS, Make, sample_inputs

from vaert.errors import BackendError, MissingExtraError, OptionError
from vaert.package import Package, find_package
from vaert.runtime.backends import OnnxRuntimeCpu, cuda
from vaert.runtime.backends.tensorrt import TensorRt, available, versions

Machine = tuple[fake_cuda.World, fake_tensorrt.Settings]
VERSIONS = ("10.16.1.11", "11.4.0.106")


def make_machine(monkeypatch: pytest.MonkeyPatch, folder: Path, version: str) -> Machine:
    world = fake_cuda.World()
    fake_cuda.install(world, monkeypatch)
    monkeypatch.setenv("VAERT_CACHE", str(folder / "engines"))
    return world, fake_tensorrt.install(world, monkeypatch, version)


@pytest.fixture(params=VERSIONS)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    """A machine with a GPU; at the end nothing may be left on it, and no rule may have been broken."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        world, settings = make_machine(monkeypatch, tmp_path, request.param)
        yield world, settings
        gc.collect()
        faults, live, stack = world.faults, world.live(), world.stack
        fake_cuda.forget()
    assert faults == []
    assert live == {}
    assert stack == []


@pytest.fixture(scope="module")
def fast() -> Package:
    return find_package("fast")


@pytest.mark.parametrize("check", CHECKS, ids=CHECK_NAMES)
def test_it_owes_what_every_backend_owes(check: Callable[[Make], None], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        world, _ = make_machine(monkeypatch, tmp_path, VERSIONS[1])
        check(TensorRt)
        gc.collect()
        fake_cuda.forget()
    assert world.faults == []
    assert world.live() == {}
    assert "default stream" not in str(world.counts)


def test_engines_are_built_as_the_graph_wants(machine: Machine, fast: Package) -> None:
    _, settings = machine
    backend = TensorRt(shapes="64x64:512x768:1024x2048")
    for graph in ("prior_anchor", "encoder", "decoder"):
        backend.engine_report(fast, graph)
    prior, encoder, decoder = settings.builds
    assert prior["flags"] == encoder["flags"] == decoder["flags"] == []  # no TF32: float32 means float32
    assert {build["verbosity"] for build in settings.builds} == {"DETAILED"}
    assert prior["ranges"] == {"z": [[1, 1, 1, 64], [1, 8, 12, 64], [1, 16, 32, 64]]}
    assert encoder["ranges"]["pixels"] == [[1, 64, 64, 3], [1, 512, 768, 3], [1, 1024, 2048, 3]]
    assert decoder["ranges"] == {
        "latents": [[1, 4, 4, 320], [1, 32, 48, 320], [1, 64, 128, 320]],
        "scale": [[320]] * 3,
    }
    assert [build["timings"] for build in settings.builds] == [1, 2, 3]  # what was measured is kept between builds
    backend.close()


def test_an_engine_comes_from_the_cache_the_second_time(machine: Machine, fast: Package) -> None:
    _, settings = machine
    reports = []
    for _ in range(2):
        backend = TensorRt()
        reports.append(backend.engine_report(fast, "prior_anchor"))
        backend.load(fast, "prior_anchor").run(sample_inputs(fast, "prior_anchor"))
        backend.close()
    assert [report.from_cache for report in reports] == [False, True]
    assert reports[0].path == reports[1].path
    assert reports[0].path is not None
    assert reports[0].path.stat().st_size == reports[0].bytes
    assert reports[1].build_seconds == reports[0].build_seconds
    assert len(settings.builds) == 1


def test_another_gpu_driver_version_or_shape_gets_another_engine(machine: Machine, fast: Package) -> None:
    world, _ = machine
    paths = set()
    for driver, shapes in ((13000, None), (13010, None), (13010, "64x64:64x64:64x64")):
        world.driver = driver
        backend = TensorRt(shapes=shapes)
        paths.add(backend.engine_report(fast, "prior_anchor").path)
        backend.close()
    assert len(paths) == 3


def test_graphs_are_recorded_from_the_second_run_of_a_shape_on(machine: Machine, fast: Package) -> None:
    world, _ = machine
    backend = TensorRt()
    runner = backend.load(fast, "prior_anchor")
    cpu = OnnxRuntimeCpu(threads=1).load(fast, "prior_anchor")
    for seed, size in enumerate([(1, 1), (1, 1), (1, 1), (2, 1), (1, 1), (2, 1), (1, 1)]):
        inputs = sample_inputs(fast, "prior_anchor", seed=seed, size=size)
        found, right = runner.run(inputs), cpu.run(inputs)
        assert all(np.array_equal(found[name], right[name]) for name in right)
    # (2, 1) needs larger buffers, so what was recorded for (1, 1) is dropped and it runs plainly once more.
    assert world.counts == {"primary contexts": 1, "plain runs": 3, "graph launches": 4}
    assert runner.engines[0].recorded == 2
    backend.close()


def test_only_so_many_shapes_are_kept(machine: Machine, fast: Package) -> None:
    world, _ = machine
    backend = TensorRt()
    runner = backend.load(fast, "prior_anchor")
    for width in (12, *range(1, 13), *range(1, 13)):
        runner.run(sample_inputs(fast, "prior_anchor", size=(1, width)))
    assert world.objects["contexts"] == 8
    backend.close()


def test_without_cuda_graphs_every_run_is_plain(machine: Machine, fast: Package) -> None:
    world, _ = machine
    backend = TensorRt(cuda_graphs=False)
    runner = backend.load(fast, "prior_anchor")
    for seed in range(3):
        runner.run(sample_inputs(fast, "prior_anchor", seed=seed))
    assert world.counts == {"primary contexts": 1, "plain runs": 3}
    backend.close()


def test_what_cannot_be_recorded_runs_plainly(
    machine: Machine, fast: Package, caplog: pytest.LogCaptureFixture
) -> None:
    world, _ = machine
    world.refuse_graphs = True
    caplog.set_level("INFO", "vaert.tensorrt")
    backend = TensorRt()
    runner = backend.load(fast, "prior_anchor")
    cpu = OnnxRuntimeCpu(threads=1).load(fast, "prior_anchor")
    for seed in range(4):
        inputs = sample_inputs(fast, "prior_anchor", seed=seed)
        assert np.array_equal(runner.run(inputs)["features"], cpu.run(inputs)["features"])
    assert runner.engines[0].graph_failure.startswith("the engine cannot be recorded")
    assert sum("runs without CUDA graphs" in line for line in caplog.messages) == 1
    assert "graph launches" not in world.counts
    backend.close()


def test_contexts_without_a_profile_are_given_one(machine: Machine, fast: Package) -> None:
    _, settings = machine
    settings.no_profile = True
    backend = TensorRt()
    runner, cpu = backend.load(fast, "prior_anchor"), OnnxRuntimeCpu(threads=1).load(fast, "prior_anchor")
    for seed in range(3):
        inputs = sample_inputs(fast, "prior_anchor", seed=seed)
        assert np.array_equal(runner.run(inputs)["mean"], cpu.run(inputs)["mean"])
    backend.close()


def test_sizes_beyond_the_usual_get_an_engine_of_their_own(machine: Machine, fast: Package) -> None:
    _, settings = machine
    backend = TensorRt(shapes="64x64:64x64:64x128")
    runner = backend.load(fast, "prior_context")
    cpu = OnnxRuntimeCpu(threads=1).load(fast, "prior_context")
    for size in ((1, 1), (1, 3), (1, 4), (2, 1), (1, 2)):
        inputs = sample_inputs(fast, "prior_context", size=size)
        assert np.array_equal(runner.run(inputs)["mean"], cpu.run(inputs)["mean"])
    assert [build["ranges"]["features"][2] for build in settings.builds] == [
        [1, 4, 8, 128],
        [1, 4, 16, 128],  # 3 and 4 wide
        [1, 8, 8, 128],  # 2 high
    ]
    assert settings.builds[1]["ranges"]["features"][0] == [1, 4, 4, 128]
    backend.close()


def test_batches_beyond_the_usual(machine: Machine) -> None:
    _, settings = machine
    package = find_package("mnist-conv")
    backend = TensorRt()
    runner = backend.load(package, "decoder")
    for batch in (1, 512, 600):
        assert runner.run({"latents": np.zeros((batch, 40), np.float32)})["pixels"].shape == (batch, 28, 28, 1)
    assert [build["ranges"]["latents"][2] for build in settings.builds] == [[512, 40], [1024, 40]]
    backend.close()


def test_wrong_inputs_name_the_graph_and_what_is_wrong(machine: Machine, fast: Package) -> None:
    backend = TensorRt()
    runner, right = backend.load(fast, "decoder"), sample_inputs(fast, "decoder")
    for changed, text in (
        ({"latents": right["latents"]}, "decoder: its inputs are latents, scale, not latents"),
        ({**right, "scale": right["scale"].astype(np.float64)}, "decoder: scale must be float32, not float64"),
        ({**right, "scale": right["scale"][:5]}, r"decoder: scale has shape \(5,\), the engine takes \(320,\)"),
        ({**right, "latents": right["latents"][:, :0]}, r"decoder: latents has shape \(1, 0, 4, 320\)"),
    ):
        with pytest.raises(BackendError, match=text):
            runner.run(changed)
    context, inputs = backend.load(fast, "prior_context"), sample_inputs(fast, "prior_context", size=(2, 2))
    inputs["features"] = sample_inputs(fast, "prior_context", size=(1, 2))["features"]
    with pytest.raises(BackendError, match="TensorRT failed in prior_context: the shapes do not fit") as caught:
        context.run(inputs)
    assert "\n" not in str(caught.value)
    backend.close()


def test_strides_do_not_matter(machine: Machine, fast: Package) -> None:
    backend, inputs = TensorRt(), sample_inputs(fast, "decoder", size=(1, 2))
    runner = backend.load(fast, "decoder")
    right = runner.run(inputs)["pixels"]
    assert np.array_equal(
        runner.run({name: np.asfortranarray(array) for name, array in inputs.items()})["pixels"], right
    )
    backend.close()


def test_too_little_memory_is_said_and_the_runner_lives_on(machine: Machine, fast: Package) -> None:
    world, _ = machine
    backend = TensorRt()
    runner = backend.load(fast, "prior_anchor")
    small, large = (sample_inputs(fast, "prior_anchor", size=size) for size in ((1, 1), (8, 8)))
    first = runner.run(small)
    world.total_memory = 1 << 20
    with pytest.raises(BackendError, match=r"GPU 0 \(Fake GPU\) has too little free memory: .*; close other programs"):
        runner.run(large)
    assert np.array_equal(runner.run(small)["mean"], first["mean"])
    world.total_memory = 1 << 30
    runner.run(large)
    backend.close()


def test_half_precision_inputs_and_outputs(machine: Machine, fast: Package, tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    node = helper.make_node("Add", ["pixels", "pixels"], ["latents"])
    shape: list[str | int | None] = ["batch", "height", "width", 3]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name in ("pixels", "latents")]
    graph = helper.make_graph([node], "encoder", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data = model.SerializeToString()
    (tmp_path / "encoder.onnx").write_bytes(data)
    graphs = {"encoder": {"inputs": [{"name": "pixels", "shape": ["batch", "64*high", "64*wide", 3]}]}}
    files = {"encoder.onnx": hashlib.sha256(data).hexdigest()}
    package = Package(tmp_path, replace(fast.manifest, graphs=graphs, files=files))
    backend = TensorRt()
    pixels = np.random.default_rng(0).normal(size=(1, 64, 128, 3)).astype(np.float16)
    found = backend.load(package, "encoder").run({"pixels": pixels})["latents"]
    assert found.dtype == np.float16
    assert np.array_equal(found, pixels + pixels)
    backend.close()


def test_timing_on_the_device(machine: Machine, fast: Package) -> None:
    backend = TensorRt()
    runner = backend.load(fast, "prior_anchor")
    assert runner.engines[0].time(sample_inputs(fast, "prior_anchor"), 3) == [0.25] * 3
    backend.close()


def test_a_runner_that_is_dropped_releases_what_it_held(machine: Machine, fast: Package) -> None:
    world, _ = machine
    backend = TensorRt()
    runner = backend.load(fast, "prior_anchor")
    runner.run(sample_inputs(fast, "prior_anchor"))
    assert world.live()["engines"] == 1
    thread = threading.Thread(target=lambda box: box.clear(), args=([runner],))
    del runner
    thread.start()  # in another thread, as the garbage collector may
    thread.join()
    del thread
    gc.collect()
    assert world.live() == {}
    backend.close()


def test_parser_errors_name_the_nodes(machine: Machine, fast: Package) -> None:
    _, settings = machine
    settings.unsupported = {"DepthToSpace", "Clip"}
    backend = TensorRt()
    with pytest.raises(BackendError) as caught:
        backend.load(fast, "prior_anchor")
    text = str(caught.value)
    assert "TensorRT cannot read" in text
    assert "(Clip): no importer registered for op; node" in text
    assert "\n" not in text
    backend.close()


def test_a_build_that_fails_says_why(machine: Machine, fast: Package) -> None:
    _, settings = machine
    settings.build_fails = "could not find any implementation for node X\nand so on"
    backend = TensorRt()
    with pytest.raises(BackendError, match=r"cannot build .*prior_anchor\.onnx: could not find any .* node X; vaert"):
        backend.load(fast, "prior_anchor")
    backend.close()


def test_progress_grows_to_the_end_and_an_error_in_it_stops_the_build(machine: Machine, fast: Package) -> None:
    seen: list[tuple[int, int]] = []
    backend = TensorRt(progress=lambda done, total: seen.append((done, total)))
    backend.engine_report(fast, "prior_anchor")
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {1000}
    assert 0 < seen[0][0] < seen[-1][0] <= 1000

    def stop(done: int, total: int) -> None:
        raise ValueError("enough")

    backend.progress = stop
    with pytest.raises(ValueError, match="enough"):
        backend.engine_report(fast, "prior_context")
    backend.close()


def test_ctrl_c_stops_a_build(machine: Machine, fast: Package) -> None:
    _, settings = machine
    settings.during_build = lambda: os.kill(os.getpid(), signal.SIGINT)
    backend = TensorRt()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        backend.engine_report(fast, "prior_anchor")
    assert signal.getsignal(signal.SIGINT) is before
    settings.during_build = lambda: None
    assert not backend.engine_report(fast, "prior_anchor").from_cache
    backend.close()


def test_an_engine_that_was_changed_is_refused_and_built_again(machine: Machine, fast: Package) -> None:
    _, settings = machine
    backend = TensorRt()
    path = backend.engine_report(fast, "prior_anchor").path
    assert path is not None
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    with pytest.warns(RuntimeWarning, match=r"the engine .* is not used: .* built again"):
        runner = backend.load(fast, "prior_anchor")
    right = OnnxRuntimeCpu(threads=1).load(fast, "prior_anchor").run(sample_inputs(fast, "prior_anchor"))
    assert np.array_equal(runner.run(sample_inputs(fast, "prior_anchor"))["mean"], right["mean"])
    assert len(settings.builds) == 2
    backend.close()


def test_an_engine_that_tensorrt_refuses_is_built_again_once(machine: Machine, fast: Package) -> None:
    _, settings = machine
    backend = TensorRt()
    backend.engine_report(fast, "prior_anchor")
    settings.unreadable = 1
    with pytest.warns(RuntimeWarning, match="cannot load the engine of prior_anchor: .*; it is built again"):
        backend.load(fast, "prior_anchor")
    settings.unreadable = 2
    with pytest.warns(RuntimeWarning, match="built again"), pytest.raises(BackendError, match="cannot load the engine"):
        backend.load(fast, "prior_anchor")
    backend.close()


def test_a_timing_cache_from_elsewhere_is_made_anew(machine: Machine, fast: Package) -> None:
    _, settings = machine
    backend = TensorRt()
    backend.engine_report(fast, "prior_anchor")
    (file,) = Path(os.environ["VAERT_CACHE"]).glob("timings-*.json")
    backend._cache.write(file.name.removesuffix(".json"), b'["9.0", 5]')
    with pytest.warns(RuntimeWarning, match="does not take its timing cache"):
        backend.engine_report(fast, "prior_context")
    backend._cache.write(file.name.removesuffix(".json"), b"nonsense")
    with pytest.warns(RuntimeWarning, match="does not take its timing cache"):
        backend.engine_report(fast, "encoder")
    assert [build["timings"] for build in settings.builds] == [1, 1, 1]
    backend.close()


def test_available_and_versions(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = machine
    assert available() == ""
    assert versions()["tensorrt"] in VERSIONS
    assert versions()["pycuda"] == "2026.1"
    assert versions()["driver"] == "CUDA 13.0"
    world.devices = 0
    assert available().startswith("there is no NVIDIA GPU")
    with pytest.raises(BackendError, match="there is no GPU 0: this machine has 0"):
        TensorRt()
    world.devices = -1
    assert "does not start (CUDA_ERROR_NO_DEVICE (100))" in available()
    with pytest.raises(BackendError, match="the NVIDIA driver refuses GPU 0: cuInit failed"):
        TensorRt()
    world.devices = 1
    monkeypatch.setattr(sys.modules["tensorrt"], "__version__", "10.9.0")
    too_old = "TensorRT 10.9.0 is too old, expected 10.13 or newer: pip install"
    assert available().startswith(too_old)
    with pytest.raises(BackendError, match=too_old):
        TensorRt()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vaert\[gpu\]'"):
        TensorRt()


def test_wrong_options(machine: Machine) -> None:
    for shapes in ("64x64", "64x64:32x32:128x128", "0x1:1x1:1x1"):
        with pytest.raises(OptionError, match="MIN:OPT:MAX"):
            TensorRt(shapes=shapes)
    with pytest.raises(BackendError, match="there is no GPU 3: this machine has 1"):
        TensorRt(device=3)


def test_where_nothing_is_installed_one_line_says_so() -> None:
    if not available():
        pytest.skip("there is a GPU with TensorRT here")
    assert "\n" not in available()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((MissingExtraError, BackendError)):
            TensorRt()


def test_importing_it_loads_no_engine(root: Path) -> None:
    code = "import sys, vaert.runtime.backends.tensorrt; print([m for m in ('tensorrt', 'pycuda') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_no_driver_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "LIBRARY", "libnothing-of-that-name.so.1")
    fake_cuda.forget()
    with pytest.raises(BackendError, match=r"no NVIDIA driver \(libnothing-of-that-name\.so\.1 is missing\)"):
        cuda._library()


def test_events_and_memory(machine: Machine) -> None:
    device: Any = cuda.Device()
    with device.current():
        assert device.memory() == (1 << 34, 1 << 34)
        stream, event = cuda.Stream(), cuda.Event()
        event.record(stream)
        assert event.milliseconds_since(event) == 0.25
        memory = cuda.DeviceMemory(0)
        memory.free()
        memory.free()
        with pytest.raises(BackendError, match="after it was freed"):
            _ = memory.address
        event.free()
        stream.free()
