"""A strict stand-in for `tensorrt`: the names and signatures that we use of it, no others; ONNX Runtime computes.

What TensorRT's documentation forbids is a `Fault` here: engines that are not strongly typed, unset or freed addresses,
the default stream, contexts that are changed after a graph was recorded from them, recording before a plain run.
`make(world, "10.16.1.11")` and `make(world, "11.4.0.106")` have the enum values of these versions.
"""

from __future__ import annotations

import enum
import importlib.machinery
import json
import os
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from fake_cuda import World

MAGIC = b"fake engine\n"
SCRATCH = 4096  # bytes that every engine needs, beside those for its inputs


class Settings:
    """What a test may want TensorRT to do."""

    def __init__(self) -> None:
        self.unsupported: set[str] = set()  # operators that the parser refuses
        self.build_fails = ""  # what the builder says when it gives up
        self.during_build: Callable[[], None] = lambda: None
        self.no_profile = False  # contexts do not begin with profile 0
        self.unreadable = 0  # how many engines are refused when they are loaded
        self.builds: list[dict[str, Any]] = []  # what was built, and how


class Dims(tuple[int, ...]):
    """A shape."""


class IHostMemory(bytes):
    """Read through the buffer protocol."""

    @property
    def nbytes(self) -> int:
        return len(self)


class Strict:
    """Refuses attributes that the real class lacks."""

    ALLOWED: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in self.ALLOWED:
            raise AttributeError(f"{type(self).__name__} has no attribute {name}")
        super().__setattr__(name, value)


class Number(enum.Enum):
    """Like pybind11's: a number on demand, but equal to none."""

    def __int__(self) -> int:
        return int(self.value)


def _enum(name: str, **values: int) -> Any:
    make: Any = Number
    return make(name, values)


class ILogger:
    Severity = _enum("Severity", INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)

    def __init__(self) -> None:
        self._initialised = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self) -> None:
        self._initialised = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class ITensor(Strict):
    def __init__(self, name: str, dtype: Any, shape: Dims) -> None:
        self._name, self._dtype, self._shape = name, dtype, shape

    name = property(lambda self: self._name)
    dtype = property(lambda self: self._dtype)
    shape = property(lambda self: self._shape)


class INetworkDefinition(Strict):
    def __init__(self, trt: Any, world: World) -> None:
        self._trt, self._world = trt, world
        self._model: Any = None
        self._tensors: list[ITensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self._tensors)

    def get_input(self, index: int) -> ITensor:
        return self._tensors[index]


class ParserError(Strict):
    def __init__(self, text: str, node: int = -1, name: str = "", operator: str = "") -> None:
        self._text, self._node, self._name, self._operator = text, node, name, operator

    def desc(self) -> str:
        return self._text

    def node(self) -> int:
        return self._node

    def node_name(self) -> str:
        return self._name

    def node_operator(self) -> str:
        return self._operator


class OnnxParser(Strict):
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._logger = network, logger
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        trt = self._network._trt
        try:
            proto = onnx.load_model_from_string(model)
            if path is not None:
                onnx.load_external_data_for_model(proto, os.path.dirname(path))
        except (DecodeError, onnx.checker.ValidationError, OSError) as error:
            self._errors.append(ParserError(f"Failed to parse the ONNX model:\n{error}"))
            return False
        for index, node in enumerate(proto.graph.node):
            if node.op_type in trt._settings.unsupported:
                self._errors.append(ParserError("no importer registered\nfor op", index, node.name, node.op_type))
        if self._errors:
            return False
        types = {1: trt.DataType.FLOAT, 2: trt.DataType.UINT8, 6: trt.DataType.INT32, 10: trt.DataType.HALF}
        for value in proto.graph.input:
            tensor = value.type.tensor_type
            shape = Dims(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
            self._network._tensors.append(ITensor(value.name, types[tensor.elem_type], shape))
        self._network._model = proto
        return True


class IOptimizationProfile(Strict):
    def __init__(self, world: World) -> None:
        self._world = world
        self._shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        if not all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True)):
            raise ValueError("the shapes of a profile must grow")
        self._shapes[input] = [list(min), list(opt), list(max)]


class ITimingCache(Strict):
    def __init__(self, made_by: str, entries: int) -> None:
        self._made_by, self._entries = made_by, entries

    def serialize(self) -> IHostMemory:
        return IHostMemory(json.dumps([self._made_by, self._entries]).encode())


class IBuilderConfig(Strict):
    ALLOWED = ("builder_optimization_level", "profiling_verbosity", "progress_monitor")

    def __init__(self, trt: Any) -> None:
        self._trt = trt
        self._flags = {trt.BuilderFlag.TF32}
        self._profiles: list[IOptimizationProfile] = []
        self._timing: ITimingCache | None = None
        self._pools: dict[Any, int] = {}
        self.builder_optimization_level = 3
        self.profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
        self.progress_monitor: IProgressMonitor | None = None

    def set_flag(self, flag: Any) -> None:
        self._flags.add(self._trt.BuilderFlag(flag))

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(self._trt.BuilderFlag(flag))

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[self._trt.MemoryPoolType(pool)] = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        if not isinstance(serialized_timing_cache, bytes):
            raise TypeError("create_timing_cache(): incompatible function arguments")
        if not serialized_timing_cache:
            return ITimingCache(self._trt.__version__, 0)
        try:
            return ITimingCache(*json.loads(serialized_timing_cache))
        except ValueError:
            return None

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache._made_by != self._trt.__version__ and not ignore_mismatch:
            return False
        self._timing = cache
        return True


class Builder(Strict):
    def __init__(self, trt: Any, world: World, logger: Any) -> None:
        if not isinstance(logger, ILogger) or not hasattr(logger, "_initialised"):
            raise TypeError("the logger is none, or did not call ILogger.__init__")
        world.current("Builder")
        self._trt, self._world, self._logger = trt, world, logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        typed = 1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        if flags != typed:
            raise self._world.fault(f"the network is not strongly typed: flags {flags}, not {typed}")
        return INetworkDefinition(self._trt, self._world)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._trt)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile(self._world)

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        self._world.current("build_serialized_network")
        settings: Settings = self._trt._settings
        if network._model is None:
            raise self._world.fault("a network was built that was not parsed")
        shapes = config._profiles[0]._shapes if config._profiles else {}
        dynamic = {tensor.name for tensor in network._tensors if min(tensor.shape, default=0) < 0}
        if dynamic != set(shapes):
            return self._fail(f"profile 0 has shapes for {sorted(shapes)}, the dynamic inputs are {sorted(dynamic)}")
        settings.during_build()
        if settings.build_fails:
            return self._fail(settings.build_fails)
        if not self._phases(config.progress_monitor):
            return self._fail("the build was cancelled")
        if config._timing is not None:
            config._timing._entries += 1
        ranges = {t.name: shapes.get(t.name, [list(t.shape)] * 3) for t in network._tensors}
        names = sorted(flag.name for flag in config._flags)
        verbosity, level = config.profiling_verbosity.name, config.builder_optimization_level
        pools = {pool.name: size for pool, size in config._pools.items()}
        built = {"ranges": ranges, "flags": names, "verbosity": verbosity, "level": level, "pools": pools}
        settings.builds.append({**built, "timings": config._timing and config._timing._entries})
        head = json.dumps({"version": self._trt.__version__, **built}).encode()
        return IHostMemory(MAGIC + head + b"\n" + network._model.SerializeToString())

    def _fail(self, text: str) -> IHostMemory | None:
        self._logger.log(ILogger.Severity.ERROR, text)
        return None

    def _phases(self, monitor: Any) -> bool:
        """Tell of two phases, the second within the first; whether the build goes on."""
        if monitor is None:
            return True
        if not isinstance(monitor, IProgressMonitor) or not hasattr(monitor, "_initialised"):
            raise self._world.fault("the progress monitor did not call IProgressMonitor.__init__")
        monitor.phase_start("build", None, 3)
        for step in range(3):
            if step == 1:
                monitor.phase_start("tactics", "build", 2)
                if not all(monitor.step_complete("tactics", part) for part in range(2)):
                    return False
                monitor.phase_finish("tactics")
            if not monitor.step_complete("build", step):
                return False
        monitor.phase_finish("build")
        return True


class Alive:
    """Something that lives on the GPU, and is released in its context with nothing queued."""

    def __init__(self, world: World, kind: str) -> None:
        self._world, self._kind = world, kind
        self._cuda = world.current(kind)
        world.made(kind, 1)

    def __del__(self) -> None:
        if not hasattr(self, "_cuda"):
            return
        self._cuda.reachable(self._kind)
        self._world.made(self._kind, -1)


class Runtime(Alive):
    def __init__(self, trt: Any, world: World, logger: ILogger) -> None:
        super().__init__(world, "runtimes")
        self._trt, self._logger = trt, logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        self._world.current("deserialize_cuda_engine")
        settings: Settings = self._trt._settings
        try:
            if not serialized_engine.startswith(MAGIC):
                raise ValueError("no magic tag")
            head, model = serialized_engine[len(MAGIC) :].split(b"\n", 1)
            about = json.loads(head)
            if about["version"] != self._trt.__version__ or settings.unreadable:
                settings.unreadable = max(settings.unreadable - 1, 0)
                raise ValueError("version tag does not match")
        except ValueError as error:
            self._logger.log(ILogger.Severity.ERROR, f"Serialization assertion failed: {error}")
            return None
        return ICudaEngine(self, about["ranges"], model)


class Program:
    """What an engine computes. It is no part of the GPU, so that tracebacks may hold it."""

    def __init__(self, model: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        kinds = {"float": np.float32, "float16": np.float16, "int32": np.int32, "uint8": np.uint8}
        values = [self.session.get_inputs(), self.session.get_outputs()]
        self.inputs, self.outputs = ({v.name: np.dtype(kinds[v.type[7:-1]]) for v in group} for group in values)
        self.dtypes: dict[str, np.dtype[Any]] = {**self.inputs, **self.outputs}
        self._shapes: dict[Any, dict[str, Dims]] = {}

    def output_shapes(self, shapes: dict[str, Dims]) -> dict[str, Dims]:
        key = tuple(sorted(shapes.items()))
        if key not in self._shapes:
            zeros = {name: np.zeros(shape, self.inputs[name]) for name, shape in shapes.items()}
            self._shapes[key] = {name: Dims(array.shape) for name, array in self.compute(zeros).items()}
        return self._shapes[key]

    def compute(self, inputs: dict[str, Any]) -> dict[str, Any]:
        names = list(self.outputs)
        try:
            return dict(zip(names, self.session.run(names, inputs), strict=True))
        except Exception as error:
            raise RuntimeError(f"the shapes do not fit:\n{error}") from error


class ICudaEngine(Alive):
    def __init__(self, runtime: Runtime, ranges: dict[str, list[list[int]]], model: bytes) -> None:
        super().__init__(runtime._world, "engines")
        self._runtime, self._trt, self._ranges = runtime, runtime._trt, ranges
        self._program = Program(model)
        self._inputs, self._outputs = self._program.inputs, self._program.outputs

    @property
    def num_io_tensors(self) -> int:
        return len(self._inputs) + len(self._outputs)

    def get_tensor_name(self, index: int) -> str:
        return list(self._program.dtypes)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self._trt.TensorIOMode.INPUT if name in self._inputs else self._trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        kinds = {"float32": "FLOAT", "float16": "HALF", "int32": "INT32", "uint8": "UINT8"}
        return self._trt.DataType[kinds[self._program.dtypes[name].name]]

    def get_tensor_shape(self, name: str) -> Dims:
        low, _, high = self._ranges[name]
        return Dims(n if n == m else -1 for n, m in zip(low, high, strict=True))

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        if self._ranges[name][0] == self._ranges[name][2] or profile_index != 0:
            raise ValueError(f"no profile {profile_index} for {name}")
        return [Dims(shape) for shape in self._ranges[name]]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return self._memory({name: shapes[2] for name, shapes in self._ranges.items()})

    def create_execution_context(self, strategy: Any) -> IExecutionContext:
        if strategy is not self._trt.ExecutionContextAllocationStrategy.USER_MANAGED:
            raise self._world.fault("contexts are meant to share their memory")
        return IExecutionContext(self)

    def _memory(self, shapes: Any) -> int:
        return SCRATCH + sum(4 * int(np.prod(shape)) for shape in shapes.values())


class IExecutionContext(Alive):
    def __init__(self, engine: ICudaEngine) -> None:
        super().__init__(engine._world, "contexts")
        self._engine = engine
        self._shapes: dict[str, Dims] = {}
        self._addresses: dict[str, int] = {}
        self._scratch: tuple[int, int] | None = None
        self._changes = 0  # graphs are valid until the next one
        self._recorded = False
        self._ran = -1  # `_changes` when it last ran without being recorded
        self._profile = -1 if engine._trt._settings.no_profile else 0
        self._settled = True

    active_optimization_profile = property(lambda self: self._profile)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._change()
        context, self._settled = weakref.ref(self), False

        def op() -> None:
            if alive := context():
                alive._settled = True

        self._world.stream(stream_handle, "set_optimization_profile_async").queue(op)
        self._profile = profile_index
        return profile_index == 0

    def set_input_shape(self, name: str, shape: Any) -> bool:
        self._change()
        if self._profile != 0:
            raise self._world.fault("a shape was set before a profile")
        low, _, high = self._engine._ranges[name]
        if len(shape) != len(low) or not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            self._log(f"{name} {tuple(shape)} is outside the profile")
            return False
        self._shapes[name] = Dims(shape)
        return True

    def infer_shapes(self) -> list[str]:
        missing = [name for name in self._engine._inputs if name not in self._shapes]
        program, shapes = self._engine._program, self._shapes
        del self  # C++ has no frame that an exception's traceback could hold
        if not missing:
            program.output_shapes(shapes)
        return missing

    def get_tensor_shape(self, name: str) -> Dims:
        if name in self._shapes:
            return self._shapes[name]
        if len(self._shapes) < len(self._engine._inputs):
            return Dims([-1])
        return self._engine._program.output_shapes(self._shapes)[name]

    def update_device_memory_size_for_shapes(self) -> int:
        if len(self._shapes) < len(self._engine._inputs):
            return 0
        return self._engine._memory(self._shapes)

    def set_device_memory(self, memory: int, size: int) -> None:
        self._change()
        if memory % 256:
            raise self._world.fault("the memory of a context is not aligned")
        self._scratch = (memory, size)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._change()
        if name not in self._engine._inputs and name not in self._engine._outputs:
            return False
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        world = self._world
        if world.current("execute_async_v3") is not self._cuda:
            raise world.fault("execute_async_v3: another context is current")
        stream = world.stream(stream_handle, "execute_async_v3")
        for other in list(world.streams.values()):
            if other is not stream and any(getattr(op, "owner", None) == id(self) for op in other.pending):
                raise world.fault("a context runs on two streams at once")
        if not self._settled:
            raise world.fault("a context ran before the change of its profile was waited for")
        op = self._operation()
        if stream.capture is not None:
            if self._ran != self._changes:
                raise world.fault("a context was recorded in a graph before it ran with these shapes and addresses")
            self._recorded = True
            stream.queue(op)
            if world.refuse_graphs:
                self._log("operation not permitted when stream is capturing")
                return False
        else:
            self._ran = self._changes
            stream.queue(op)
            world.count("plain runs")
        return True

    def _operation(self) -> Callable[[], None]:
        """What a run does, with all that it needs checked now, and again when it runs."""
        engine, world, changes = self._engine, self._world, self._changes
        shapes = dict(self._shapes)
        if len(shapes) < len(engine._inputs):
            raise world.fault("execute_async_v3: the shape of an input is not set")
        shapes |= engine._program.output_shapes(self._shapes)
        sizes = {name: int(np.prod(shape)) * engine._program.dtypes[name].itemsize for name, shape in shapes.items()}
        if missing := set(shapes) - set(self._addresses):
            raise world.fault(f"execute_async_v3: the address of {', '.join(sorted(missing))} is not set")
        if self._scratch is None or self._scratch[1] < engine._memory(self._shapes):
            raise world.fault("execute_async_v3: the memory of the context is not set, or too small")
        addresses, scratch = dict(self._addresses), self._scratch

        context = weakref.ref(self)

        def op() -> None:
            alive = context()
            if alive is None:
                raise world.fault("a context was released before its work was done")
            if alive._changes != changes:
                raise world.fault("a context was changed before its work was done, or after it was recorded")
            world.memory(*scratch, "the memory of a context").data[:] = 0x77
            blocks = {name: world.memory(addresses[name], sizes[name], name) for name in shapes}
            inputs = {}
            for name in engine._inputs:
                if blocks[name].written < sizes[name]:
                    raise world.fault(f"the input {name} was never copied to the device")
                data = blocks[name].data[: sizes[name]].copy()
                inputs[name] = data.view(engine._program.dtypes[name]).reshape(shapes[name])
            for name, array in engine._program.compute(inputs).items():
                blocks[name].data[: sizes[name]] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                blocks[name].written = max(blocks[name].written, sizes[name])

        marked: Any = op
        marked.owner = id(self)
        return op

    def _change(self) -> None:
        if self._recorded:
            raise self._world.fault("a context was changed after a graph was recorded from it")
        self._changes += 1

    def _log(self, text: str) -> None:
        self._engine._runtime._logger.log(ILogger.Severity.ERROR, text)


def make(world: World, version: str, settings: Settings) -> ModuleType:
    """The module `tensorrt` of one version."""
    old = version.startswith("10.")
    trt: Any = ModuleType("tensorrt")
    trt.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
    trt.__version__, trt._settings = version, settings
    trt.ILogger, trt.IProgressMonitor, trt.OnnxParser = ILogger, IProgressMonitor, OnnxParser
    trt.NetworkDefinitionCreationFlag = _enum("NetworkDefinitionCreationFlag", STRONGLY_TYPED=1 if old else 0)
    trt.BuilderFlag = _enum("BuilderFlag", TF32=6, STRICT_NANS=24 if old else 23)
    trt.ProfilingVerbosity = _enum("ProfilingVerbosity", LAYER_NAMES_ONLY=0, NONE=1, DETAILED=2)
    trt.MemoryPoolType = _enum("MemoryPoolType", WORKSPACE=0)
    trt.TensorIOMode = _enum("TensorIOMode", NONE=0, INPUT=1, OUTPUT=2)
    trt.DataType = _enum("DataType", FLOAT=0, HALF=1, INT32=3, UINT8=5)
    trt.ExecutionContextAllocationStrategy = _enum("Strategy", STATIC=0, ON_PROFILE_CHANGE=1, USER_MANAGED=2)
    kinds = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "UINT8": np.uint8}
    trt.nptype = lambda trt_type: kinds[trt_type.name]
    trt.Builder = lambda logger: Builder(trt, world, logger)
    trt.Runtime = lambda logger: Runtime(trt, world, logger)
    module: ModuleType = trt
    return module


def install(world: World, monkeypatch: Any, version: str) -> Settings:
    """Put it where `import tensorrt` finds it."""
    import sys

    settings = Settings()
    monkeypatch.setitem(sys.modules, "tensorrt", make(world, version, settings))
    return settings
