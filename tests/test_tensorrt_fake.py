"""The stand-ins for TensorRT, pycuda and the driver catch each fault that is planted in the code under test."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_cuda
import fake_tensorrt
import numpy as np
import pytest
from backend_suite import sample_inputs

from vaert.package import Package, find_package
from vaert.runtime.backends import cuda
from vaert.runtime.backends._trt_runner import EngineRunner, Lane
from vaert.runtime.backends.tensorrt import TensorRt, TensorRtRunner

GRAPH = "prior_anchor"
Plant = Callable[[pytest.MonkeyPatch, EngineRunner], None]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_cuda.World]:
    world = fake_cuda.World()
    with pytest.MonkeyPatch.context() as patch:
        fake_cuda.install(world, patch)
        fake_tensorrt.install(world, patch, "10.16.1.11")
        patch.setenv("VAERT_CACHE", str(tmp_path / "engines"))
        yield world
        monkeypatch.undo()  # what was planted goes before what it was planted in
        gc.collect()
        fake_cuda.forget()


@pytest.fixture
def fast() -> Package:
    return find_package("fast")


def no_synchronisation(monkeypatch: pytest.MonkeyPatch, engine: EngineRunner) -> None:
    monkeypatch.setattr(cuda.Stream, "synchronize", lambda self: None)


def no_addresses(monkeypatch: pytest.MonkeyPatch, engine: EngineRunner) -> None:
    monkeypatch.setattr(fake_tensorrt.IExecutionContext, "set_tensor_address", lambda self, name, memory: True)


def no_scratch(monkeypatch: pytest.MonkeyPatch, engine: EngineRunner) -> None:
    monkeypatch.setattr(fake_tensorrt.IExecutionContext, "set_device_memory", lambda self, memory, size: None)


def no_shapes(monkeypatch: pytest.MonkeyPatch, engine: EngineRunner) -> None:
    def launch(lane: Lane, stream: cuda.Stream) -> None:
        engine._make_context().execute_async_v3(stream.handle)

    monkeypatch.setattr(engine, "_launch", launch)


def default_stream(monkeypatch: pytest.MonkeyPatch, engine: EngineRunner) -> None:
    monkeypatch.setattr(cuda.Stream, "handle", property(lambda self: 0))


def no_context(monkeypatch: pytest.MonkeyPatch, engine: EngineRunner) -> None:
    monkeypatch.setattr(engine._held.device, "current", contextlib.nullcontext)


def no_upload(monkeypatch: pytest.MonkeyPatch, engine: EngineRunner) -> None:
    monkeypatch.setattr(cuda.Stream, "upload", lambda self, target, source: None)


def no_launch(monkeypatch: pytest.MonkeyPatch, engine: EngineRunner) -> None:
    monkeypatch.setattr(engine, "_launch", lambda lane, stream: None)


def early_recording(monkeypatch: pytest.MonkeyPatch, engine: EngineRunner) -> None:
    def launch(lane: Lane, stream: cuda.Stream) -> None:
        stream.synchronize()
        cuda.Graph(stream, lambda: bool(lane.context.execute_async_v3(stream.handle)))

    monkeypatch.setattr(engine, "_launch", launch)


def pageable_memory(monkeypatch: pytest.MonkeyPatch, engine: EngineRunner) -> None:
    monkeypatch.setattr("vaert.runtime.backends._trt_runner.pinned", lambda size: np.empty(size, np.uint8))


def overwritten_input(monkeypatch: pytest.MonkeyPatch, engine: EngineRunner) -> None:
    real = engine._launch

    def launch(lane: Lane, stream: cuda.Stream) -> None:
        real(lane, stream)
        np.asarray(engine._held.buffers["z"].host).view(np.ndarray)[:] += 1

    monkeypatch.setattr(engine, "_launch", launch)


def small_buffers(monkeypatch: pytest.MonkeyPatch, engine: EngineRunner) -> None:
    real = cuda.DeviceMemory.__init__
    monkeypatch.setattr(cuda.DeviceMemory, "__init__", lambda self, size: real(self, size // 2))


FIRST_RUN: dict[Plant, str] = {
    no_synchronisation: "before its stream was synchronised",
    no_addresses: "the address of .* is not set",
    no_scratch: "the memory of the context is not set",
    no_shapes: "the shape of an input is not set",
    default_stream: "the default stream is used",
    no_context: "no context is current",
    no_upload: "the input z was never copied",
    no_launch: "an output was read that nothing has written",
    early_recording: "recorded in a graph before it ran",
    pageable_memory: "not page-locked",
    overwritten_input: "written before its copy to the device was done",
    small_buffers: "too small|pass the end",
}


@pytest.mark.parametrize("plant", FIRST_RUN, ids=[plant.__name__ for plant in FIRST_RUN])
def test_faults_of_a_first_run(
    world: fake_cuda.World, fast: Package, monkeypatch: pytest.MonkeyPatch, plant: Plant
) -> None:
    backend = TensorRt()
    runner = backend.load(fast, GRAPH)
    plant(monkeypatch, runner.engines[0])
    with pytest.raises(fake_cuda.Fault, match=FIRST_RUN[plant]):
        runner.run(sample_inputs(fast, GRAPH))
    assert world.faults
    monkeypatch.undo()
    backend.close()


def recorded(backend: TensorRt, package: Package) -> tuple[TensorRtRunner, Lane]:
    """A runner and its lane, with a graph."""
    runner = backend.load(package, GRAPH)
    for _ in range(2):
        runner.run(sample_inputs(package, GRAPH))
    (lane,) = runner.engines[0]._held.lanes.values()
    assert lane.graph is not None
    return runner, lane


def test_a_context_changed_after_it_was_recorded(world: fake_cuda.World, fast: Package) -> None:
    backend = TensorRt()
    _, lane = recorded(backend, fast)
    with pytest.raises(fake_cuda.Fault, match="changed after a graph was recorded"):
        lane.context.set_tensor_address("z", 0)
    backend.close()


def test_memory_freed_under_a_graph(world: fake_cuda.World, fast: Package) -> None:
    backend = TensorRt()
    runner, _ = recorded(backend, fast)
    held = runner.engines[0]._held
    with held.device.current():
        memory: Any = held.scratch
        memory._memory.free()
        memory._memory = None
    with pytest.raises(fake_cuda.Fault, match="the memory of a context: device memory was freed"):
        runner.run(sample_inputs(fast, GRAPH))
    backend.close()


def test_an_input_freed_under_a_copy(world: fake_cuda.World, fast: Package) -> None:
    backend = TensorRt()
    runner, _ = recorded(backend, fast)
    held = runner.engines[0]._held
    stream: Any = held.stream
    buffer = held.buffers["z"]
    with held.device.current():
        stream.upload(buffer.device, buffer.host)
        buffer.device._memory.free()
        with pytest.raises(fake_cuda.Fault, match="freed before the copy was done"):
            stream.synchronize()
    buffer.device._memory = None
    backend.close()


def test_a_graph_used_after_it_was_destroyed(world: fake_cuda.World, fast: Package) -> None:
    backend = TensorRt()
    runner, lane = recorded(backend, fast)
    graph: Any = lane.graph
    kept = graph._execution
    with runner.engines[0]._held.device.current():
        graph.free()
        graph._execution = kept
        with pytest.raises(fake_cuda.Fault, match="the graph was destroyed"):
            graph.launch(runner.engines[0]._held.stream)
        graph._execution = ctypes.c_void_p()
    backend.close()


def test_waiting_and_allocating_while_recording(world: fake_cuda.World, fast: Package) -> None:
    backend = TensorRt()
    with backend.device.current():
        stream = cuda.Stream()

        def wait() -> bool:
            stream.synchronize()
            return True

        with pytest.raises(fake_cuda.Fault, match="synchronised while it is captured"):
            cuda.Graph(stream, wait)
        with pytest.raises(fake_cuda.Fault, match="allocated while a stream is captured"):
            cuda.Graph(stream, lambda: cuda.DeviceMemory(5).size == 5)
        stream.free()
    backend.close()


def test_a_context_on_two_streams_at_once(world: fake_cuda.World, fast: Package) -> None:
    backend = TensorRt()
    runner, lane = recorded(backend, fast)
    held = runner.engines[0]._held
    with held.device.current():
        first: Any = held.stream
        other = cuda.Stream()
        lane.context.execute_async_v3(first.handle)
        with pytest.raises(fake_cuda.Fault, match="two streams at once"):
            lane.context.execute_async_v3(other.handle)
        first.synchronize()
        other.free()
    backend.close()


def test_what_is_not_released_is_seen(world: fake_cuda.World, fast: Package) -> None:
    backend = TensorRt()
    runner, _ = recorded(backend, fast)
    assert world.live() == {
        "device memory": 5,
        "page-locked memory": 4,
        "streams": 1,
        "graphs": 1,
        "runtimes": 1,
        "engines": 1,
        "contexts": 1,
    }
    runner.close()
    assert world.live() == {}
    assert world.faults == []
    backend.close()


def test_what_is_released_outside_its_context_is_seen(world: fake_cuda.World, fast: Package) -> None:
    backend = TensorRt()
    with backend.device.current():
        stream, memory, host, event = cuda.Stream(), cuda.DeviceMemory(1), cuda.pinned(1), cuda.Event()
    stream.free()
    memory.free()
    event.free()
    del host
    gc.collect()
    kinds = {text.split(" was released")[0] for text in world.faults}
    assert kinds == {"a stream", "an event", "device memory", "page-locked memory"}
    backend.close()


def test_a_stream_destroyed_with_work_pending(world: fake_cuda.World, fast: Package) -> None:
    backend = TensorRt()
    with backend.device.current():
        stream, memory, host = cuda.Stream(), cuda.DeviceMemory(1), cuda.pinned(1)
        stream.upload(memory, host)
        stream.free()
        memory.free()
        del host
    assert world.faults == ["a stream was destroyed with work pending"]
    backend.close()


def test_a_builder_that_is_used_wrongly(world: fake_cuda.World) -> None:
    import tensorrt as trt

    backend = TensorRt()
    with pytest.raises(fake_cuda.Fault, match="no context is current"):
        trt.Builder(backend.log)
    with backend.device.current():
        builder = trt.Builder(backend.log)
        with pytest.raises(fake_cuda.Fault, match="not strongly typed"):
            builder.create_network(0)
        config = builder.create_builder_config()
        with pytest.raises(AttributeError, match="max_workspace_size"):
            config.max_workspace_size = 1
        with pytest.raises(AttributeError, match="FP16"):
            config.set_flag(trt.BuilderFlag.FP16)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        with pytest.raises(fake_cuda.Fault, match="not parsed"):
            builder.build_serialized_network(network, config)

        class Forgetful(fake_tensorrt.ILogger):
            def __init__(self) -> None: ...

        with pytest.raises(TypeError, match=r"ILogger\.__init__"):
            trt.Builder(Forgetful())
    backend.close()


def test_c_functions_want_their_types_declared(world: fake_cuda.World) -> None:
    library: Any = fake_cuda.Library(world)
    with pytest.raises(fake_cuda.Fault, match="argument and result types are not declared"):
        library.cuInit(0)
    library = cuda._library()
    with pytest.raises(fake_cuda.Fault, match="1 arguments instead of 2"):
        library.cuGraphLaunch(1)
    with pytest.raises((TypeError, ctypes.ArgumentError)):
        library.cuGraphLaunch(0.5, 1)
    with pytest.raises(AttributeError):
        _ = library.cuMemAlloc
