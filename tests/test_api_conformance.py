"""What our code uses of TensorRT, pycuda, the CUDA driver and ONNX Runtime's GPU providers is really there.

TensorRT: the real bindings of both major versions, fetched by pip, with stub libraries behind them; skipped without a
network or a compiler. The others: snapshots in `tests/api/`, which `VAERT_TEST_FOREIGN=1` holds against what they were
made from (`tests/api_libraries.py`; that builds pycuda and downloads 255 MB).
"""

from __future__ import annotations

import ast
import ctypes
import enum
import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import api_libraries
import fake_cuda
import fake_tensorrt
import pytest
from api_conformance import Api, Report, check
from api_libraries import SNAPSHOTS, TENSORRT, UnavailableError
from fake_cuda import World

from vaert.runtime.backends import _onnxruntime_libraries, cuda

OPT_IN = "VAERT_TEST_FOREIGN"
ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ROOT / "runtime" / "backends"
PYCUDA = Api("pycuda.driver", json.loads((SNAPSHOTS / "pycuda.json").read_text()))
DRIVER = json.loads((SNAPSHOTS / "cuda_driver.json").read_text())
PROVIDERS = json.loads((SNAPSHOTS / "onnxruntime_gpu.json").read_text())
FOREIGN = re.compile(r"^\s*(?:import|from) (?:tensorrt|pycuda)\b", re.MULTILINE)


def sources() -> dict[str, str]:
    """Every file of ours that imports TensorRT or pycuda, and those of the backend beside them."""
    files = [file for place in ("vaert", "runtime", "export") for file in sorted((ROOT / place).rglob("*.py"))]
    texts = {file.relative_to(ROOT).as_posix(): file.read_text("utf-8") for file in files}
    beside = ("runtime/backends/_trt_", "runtime/backends/tensorrt.py", "runtime/backends/cuda.py")
    return {name: text for name, text in texts.items() if FOREIGN.search(text) or name.startswith(beside)}


@pytest.fixture(scope="module")
def cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where wheels are kept from one run of the tests to the next."""
    kept = getattr(request.config, "cache", None)
    return Path(kept.mkdir("foreign-wheels")) if kept is not None else tmp_path_factory.mktemp("foreign-wheels")


@pytest.fixture(scope="module", params=TENSORRT)
def tensorrt(request: pytest.FixtureRequest, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Api:
    try:
        return api_libraries.tensorrt(request.param, cache, tmp_path_factory.mktemp("tensorrt"))
    except UnavailableError as error:
        pytest.skip(f"the bindings of TensorRT {request.param} cannot be had: {error}")


def used(report: Report, module: str) -> set[str]:
    return {name.removeprefix(f"{module}.") for name in report.names if name.startswith(f"{module}.")}


# Our code against the libraries


def test_all_that_we_use_of_tensorrt_is_there(tensorrt: Api, capsys: pytest.CaptureFixture[str]) -> None:
    texts = sources()
    report = check(texts, [tensorrt, PYCUDA])
    with capsys.disabled():
        print(f"\n{report.summary(f'TensorRT {tensorrt.version}, pycuda {PYCUDA.version}, {len(texts)} files')}")
    assert report.problems == []
    assert report.unresolved == []
    names = used(report, "tensorrt")
    assert len(names) > 60
    # Counted another way: whatever stands behind the module's name was checked.
    written = {name for text in texts.values() for name in re.findall(r"\btrt\.((?:[A-Z]\w*\.)*\w+)", code_of(text))}
    assert written - names == set()


def test_all_that_we_use_of_pycuda_is_there() -> None:
    texts = sources()
    report = check({"cuda.py": texts["runtime/backends/cuda.py"]}, [PYCUDA])
    assert report.problems == []
    assert report.unresolved == []
    assert len(used(report, "pycuda.driver")) > 20


def code_of(text: str) -> str:
    """Without comments and docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


@pytest.mark.parametrize("tensorrt", TENSORRT[-1:], indirect=True)
def test_a_wrong_name_in_any_place_would_be_found(tensorrt: Api) -> None:
    """Every name that was checked, misspelt everywhere in our code, is a problem."""
    texts = sources()
    apis, missed = [tensorrt, PYCUDA], []
    for name in sorted(check(texts, apis).names):
        last = name.rpartition(".")[2]
        if last == "__init__":
            continue
        wrong = {n: re.sub(rf"((?<=\.)|(?<=def )){last}\b", f"{last}_planted", text) for n, text in texts.items()}
        report = check(wrong, apis, rounds=2)
        if not any(f"{last}_planted" in line for line in [*report.problems, *report.unresolved]):
            missed.append(name)
    assert missed == []


class Planter(ast.NodeTransformer):
    """Gives every call an argument too many."""

    def __init__(self, change: str) -> None:
        self.change = change

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if ast.unparse(node.func) == "getattr":
            return node
        if self.change == "keyword":
            node.keywords.append(ast.keyword("planted", ast.Constant(1)))
        else:
            node.args += [ast.Constant(1)] * 9
        return node


@pytest.mark.parametrize(("change", "told"), [("keyword", "no argument is named planted"), ("count", "are taken")])
def test_wrong_arguments_of_any_call_would_be_found(tensorrt: Api, change: str, told: str) -> None:
    """As many calls with wrong arguments are found as there are calls that were checked."""
    texts, apis = sources(), [tensorrt, PYCUDA]
    right = {file: ast.unparse(ast.parse(text)) for file, text in texts.items()}
    wrong = {file: ast.unparse(Planter(change).visit(ast.parse(text))) for file, text in texts.items()}
    caught = [line for line in check(wrong, apis).problems if told in line]
    assert len(caught) == check(right, apis).checked["calls"] > 50


# The checker against planted code, in ways in which objects travel

HEADER = '''"""Planted.

    engine: trt.ICudaEngine     context: trt.IExecutionContext
"""
from __future__ import annotations
from typing import Any
import tensorrt as trt
'''

WRONG: dict[str, tuple[str, str]] = {
    "name": ("trt.Bilder(None)", "tensorrt has no Bilder"),
    "enum member": ("flag = trt.BuilderFlag.FP17", "BuilderFlag has no FP17"),
    "method": ("trt.Builder(None).create_netwrok()", "Builder has no create_netwrok"),
    "keyword": ("trt.Builder(None).create_network(flag=1)", "Builder.create_network: no argument is named flag"),
    "too many": ("trt.Builder(None).create_network(1, 2)", "2 arguments in order, at most 1 are taken"),
    "too few": ("trt.Builder()", "Builder: logger is not given"),
    "twice": ("trt.Builder(None).create_network(1, flags=1)", "flags is given twice"),
    "constructor": ("trt.Runtime(None, 3)", "Runtime: 2 arguments in order"),
    "no overload": ("def f(context: Any): context.set_input_shape('x')", "shape is not given"),
    "type of an argument": (
        "def f(b: trt.Builder): b.create_builder_config().set_flag(trt.MemoryPoolType.WORKSPACE)",
        "flag is a MemoryPoolType, a BuilderFlag is needed",
    ),
    "number for an enum": (
        "def f(b: trt.Builder): b.create_builder_config().set_flag(5)",
        "flag is a literal, a BuilderFlag is needed",
    ),
    "property": ("def f(b: trt.Builder): b.create_builder_config().progres_monitor = None", "has no progres_monitor"),
    "property that is fixed": ("def f(engine: Any): engine.num_layers = 3", "ICudaEngine.num_layers cannot be set"),
    "method set": ("def f(b: trt.Builder): b.create_network = 3", "Builder.create_network cannot be set"),
    "type of a property": (
        "def f(b: trt.Builder): b.create_builder_config().profiling_verbosity = trt.BuilderFlag.TF32",
        "is a BuilderFlag, a ProfilingVerbosity is needed",
    ),
    "call of no method": ("def f(t: trt.ITensor): t.dtype()", "DataType is not to be called"),
    "elements": ("def f(b: trt.Builder): return b[0]", "Builder has no elements"),
    "declared name": ("def f(): engine = g(); engine.serialise()", "ICudaEngine has no serialise"),
    "annotation in quotes": ("def f(b: 'trt.Builder | None'): b.nothing", "Builder has no nothing"),
    "attribute of an object": (
        "class A:\n def __init__(self): self._b = trt.Builder(None)\n def f(self): self._b.nothing()",
        "Builder has no nothing",
    ),
    "field": ("class A:\n context: Any\ndef f(a: A): a.context.execute_async_v4(1)", "has no execute_async_v4"),
    "field that is emptied": (
        "class A:\n context: Any\n def close(self): self.context = None\ndef f(a: A): a.context.execute_async_v4(1)",
        "has no execute_async_v4",
    ),
    "dictionary": (
        "class A:\n context: Any\nclass B:\n def __init__(self): self.all: dict[str, A] = {}\n"
        " def f(self):\n  for name, one in self.all.items(): one.context.nothing()\n"
        "  a = self.all.pop('x', None) or A(); a.context.nothing_else()",
        "IExecutionContext has no nothing_else",
    ),
    "list of lists": (
        "def f(engine: Any): low, best, high = (s.nothing for s in engine.get_tensor_profile_shape('x', 0))",
        "Dims has no nothing",
    ),
    "function that returns": (
        "def make(): return trt.Builder(None)\ndef f(): make().nothing()",
        "Builder has no nothing",
    ),
    "context manager": (
        "import contextlib\n@contextlib.contextmanager\ndef made() -> Any:\n yield trt.Builder(None)\n"
        "def f():\n with made() as b: b.nothing()",
        "Builder has no nothing",
    ),
    "closure": ("def f():\n b = trt.Builder(None)\n def g(): b.nothing()\n g()", "Builder has no nothing"),
    "lambda": ("def f(engine: Any): return lambda: engine.nothing()", "ICudaEngine has no nothing"),
    "branch": ("def f(x): b = trt.Builder(None) if x else None; b.nothing()", "Builder has no nothing"),
    "walrus": ("def f():\n if b := trt.Builder(None): b.nothing()", "Builder has no nothing"),
    "getattr": ("getattr(trt.BuilderFlag, 'FP17')", "BuilderFlag has no FP17"),
    "import inside": ("def f():\n import tensorrt\n tensorrt.nothing", "tensorrt has no nothing"),
    "import from": ("from tensorrt import Bilder", "tensorrt has no Bilder"),
    "import by name": (
        "import importlib\nm = importlib.import_module('tensorrt')\nm.nothing",
        "tensorrt has no nothing",
    ),
    "module as an argument": ("def f(trt: Any): trt.nothing", "tensorrt has no nothing"),
    "handler": ("try:\n pass\nexcept trt.Eror as error:\n print(error)", "tensorrt has no Eror"),
    "missing override": (
        "class M(trt.IProgressMonitor):\n def phase_start(self, phase_name, parent_phase, num_steps): ...\n"
        " def phase_finish(self, phase_name): ...",
        "lacks IProgressMonitor.step_complete",
    ),
    "count of an override": (
        "class L(trt.ILogger):\n def log(self, severity): ...",
        "log takes 1 arguments, ILogger.log is called with 2",
    ),
    "unknown override": (
        "class L(trt.ILogger):\n def log(self, severity, msg): ...\n def warn(self, msg): ...",
        "warn: ILogger has no such method to override",
    ),
    "not initialised": (
        "class L(trt.ILogger):\n def __init__(self): self.last = ''\n def log(self, severity, msg): ...",
        "__init__ does not call ILogger.__init__(self)",
    ),
    "argument of an override": (
        "class L(trt.ILogger):\n def log(self, severity, msg): return severity.nothing",
        "ILogger.Severity has no nothing",
    ),
    "declaration": ("# plan: trt.IHostMemery", "plan is declared as IHostMemery, which is not there"),
}


@pytest.mark.parametrize("name", WRONG)
def test_planted_faults_are_found(tensorrt: Api, name: str) -> None:
    text, expected = WRONG[name]
    report = check({"planted.py": f"{HEADER}{text}\n"}, [tensorrt])
    assert any(expected in line for line in report.problems), [*report.problems, *report.unresolved]


UNKNOWN = {
    "argument": ("def f(thing: Any): thing.execute()", "what thing is"),
    "no annotation": ("def f(thing): return thing.shape", "what thing is"),
    "set": ("def f(thing: Any): thing.progress_monitor = 1", "whose progress_monitor is set"),
    "stars": ("def f(b: trt.Builder, a): b.create_network(*a)", "the arguments of Builder.create_network"),
    "double stars": ("def f(b: trt.Builder, a): b.create_network(**a)", "the arguments of Builder.create_network"),
    "getattr": ("def f(name): return getattr(trt, name)", "which attribute getattr asks for"),
    "lost on the way": ("def f(queue: Queue): queue.get().execute_async_v3(1)", "execute_async_v3 of something"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_known_is_told(tensorrt: Api, name: str) -> None:
    text, expected = UNKNOWN[name]
    report = check({"planted.py": f"{HEADER}{text}\n"}, [tensorrt])
    assert any(expected in line for line in report.unresolved), [*report.problems, *report.unresolved]


RIGHT = """
class Monitor(trt.IProgressMonitor):
    def __init__(self) -> None:
        trt.IProgressMonitor.__init__(self)
        self.stopped = False
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...
    def step_complete(self, phase_name: str, step: int) -> bool: return not self.stopped
    def phase_finish(self, phase_name: str) -> None: ...

def build(data: bytes) -> bytes:
    log = trt.Logger(min_severity=trt.Logger.WARNING)
    builder = trt.Builder(log)
    network = builder.create_network(flags=1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(data, path="x"):
        raise ValueError([parser.get_error(i).desc() for i in range(parser.num_errors)])
    config, monitor = builder.create_builder_config(), Monitor()
    config.progress_monitor = monitor
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 30)
    profile = builder.create_optimization_profile()
    profile.set_shape(network.get_input(0).name, (1,), (2,), max=(3,))
    assert config.add_optimization_profile(profile) == 0 and not monitor.stopped
    return bytes(builder.build_serialized_network(network, config))

def run(engine: Any, stream: int) -> list[int]:
    context = engine.create_execution_context(strategy=trt.ExecutionContextAllocationStrategy.STATIC)
    context.set_input_shape("x", (1, 2))
    context.execute_async_v3(stream_handle=stream)
    return [axis for axis in context.get_tensor_shape("y")]
"""


def test_right_code_has_no_findings(tensorrt: Api) -> None:
    report = check({"planted.py": HEADER + RIGHT}, [tensorrt])
    assert report.problems == []
    assert report.unresolved == []
    assert report.checked["calls"] == 19
    assert report.checked["overridden methods"] == 3


def test_pycuda_faults_are_found() -> None:
    text = "import pycuda.driver as cuda\n"
    for planted, expected in {
        "cuda.Stream().handel": "Stream has no handel",
        "cuda.Device(0).retain_primary_ctx()": "Device has no retain_primary_ctx",
        "cuda.mem_alloc()": "arg1 is not given",
        "cuda.pagelocked_empty(3, 'u1', flags=1)": "no argument is named flags",
        "cuda.memcpy_htod_async(1, 2, 3, 4)": "4 arguments in order, at most 3",
        "cuda.Event().record(stream=None).time_since()": "arg2 is not given",
        "cuda.memcpy_dtoh_async(dst=1, src=2)": "no argument is named dst",
    }.items():
        report = check({"planted.py": text + planted}, [PYCUDA])
        assert any(expected in line for line in report.problems), (planted, report.problems)


# The stand-ins of other tests against the libraries


def stand_in_faults(name: str, fake: type, api: Api) -> list[str]:
    """What a stand-in has that the real class lacks, and arguments that the real one names or orders otherwise."""
    wrong = []
    for attribute, value in vars(fake).items():
        member = api.member(name, attribute)
        if attribute.startswith("_") or isinstance(value, type | tuple):
            continue
        if member is None:
            wrong.append(f"{name}.{attribute} is not there")
        elif inspect.isfunction(value):
            given = [p.name for p in inspect.signature(value).parameters.values()]
            # Names of arguments without one in the bindings, arg0 and so on, do not matter.
            real = [[p.name for p in one.parameters] for one in member.signatures]
            if not any(_alike(given, names) for names in real):
                wrong.append(f"{name}.{attribute} takes {given}, not {real}")
        elif member.kind != "property":
            wrong.append(f"{name}.{attribute} is a {member.kind}")
    return wrong


def _alike(given: list[str], names: list[str]) -> bool:
    return len(given) <= len(names) and all(
        a == b or re.fullmatch(r"arg\d+", b) for a, b in zip(given, names, strict=False)
    )


def test_the_stand_in_of_tensorrt_has_nothing_that_the_real_one_lacks(tensorrt: Api) -> None:
    fake = fake_tensorrt.make(World(), tensorrt.version, fake_tensorrt.Settings())
    classes = {name: cls for name, cls in vars(fake_tensorrt).items() if isinstance(cls, type) and tensorrt.has(name)}
    assert len(classes) > 10
    wrong = [fault for name, cls in classes.items() for fault in stand_in_faults(name, cls, tensorrt)]
    for name, value in vars(fake).items():
        if name.startswith("_"):
            continue
        if tensorrt.member("", name) is None:
            wrong.append(f"tensorrt has no {name}")
        elif isinstance(value, type) and issubclass(value, enum.Enum):
            members = tensorrt.raw["classes"][name]["members"]
            wrong += [f"{name}.{m.name} is not {m.value}" for m in value if members[m.name].get("number") != m.value]
    assert wrong == []


def test_a_stand_in_that_has_more_is_found(tensorrt: Api) -> None:
    class Builder:
        def create_network(self, flag: int = 0) -> None: ...
        def build_engine(self) -> None: ...

    found = stand_in_faults("Builder", Builder, tensorrt)
    assert [line.split(" ")[0] for line in found] == ["Builder.create_network", "Builder.build_engine"]


def test_the_stand_in_of_pycuda_has_nothing_that_the_real_one_lacks() -> None:
    names = [name for name in vars(fake_cuda.driver_module(World())) if not name.startswith("_")]
    assert len(names) > 10
    assert [name for name in names if PYCUDA.member("", name) is None] == []
    wrong = []
    for name in ("Context", "Stream", "Event", "DeviceAllocation"):
        wrong += stand_in_faults(name, getattr(fake_cuda, name), PYCUDA)
    # What the stand-ins ask each other; that our code does not is held above, against the real one.
    assert set(wrong) <= {"Context.reachable is not there", "Stream.queue is not there"}


# The driver's C functions, which are called by way of ctypes


def driver_calls(text: str) -> Iterator[tuple[str, int, int]]:
    """Name, number of arguments and line of every call of a function of the driver."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and re.match("cu[A-Z]", node.func.attr):
            yield node.func.attr, len(node.args), node.lineno


def driver_faults(text: str) -> list[str]:
    """Calls of functions that the driver lacks, or with another number of arguments."""
    known = DRIVER["functions"]
    return [
        f"{line} {name}: {count} arguments, {len(known[name]) if name in known else 'no such function'}"
        for name, count, line in driver_calls(text)
        if name not in known or len(known[name]) != count
    ]


def test_driver_functions_are_there_and_take_what_they_are_given() -> None:
    texts = {file.name: file.read_text("utf-8") for file in sorted(ROOT.glob("runtime/**/*.py"))}
    calls = {name for text in texts.values() for name, _, _ in driver_calls(text)}
    assert {"cuGraphLaunch", "cuStreamBeginCapture_v2", "cuGraphInstantiateWithFlags"} <= calls
    assert {name: driver_faults(text) for name, text in texts.items() if driver_faults(text)} == {}


@pytest.mark.parametrize("planted", ["cuGraphLaunch(a)", "cuStreamBeginCapture(a, b)", "cuGraphFly(a)"])
def test_wrong_calls_of_the_driver_are_found(planted: str) -> None:
    assert len(driver_faults(f"library.{planted}\nlibrary.cuInit(0)")) == 1


class FakeLibrary:
    """A library that has every function."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name: str) -> Any:
        setattr(self, name, type("Function", (), {"argtypes": None})())
        return self.__dict__[name]


C_SIZES = {"unsigned int": 4, "int": 4, "unsigned long long": 8, "size_t": 8}


def test_types_of_the_driver_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """As declared to ctypes: as many, pointers where the header has pointers or handles, and numbers of its sizes."""
    monkeypatch.setattr(ctypes, "CDLL", FakeLibrary)
    library = cuda._library.__wrapped__()
    functions = {name: function for name, function in vars(library).items() if name != "name"}
    assert len(functions) > 8
    for name, function in functions.items():
        wanted = DRIVER["functions"][name]
        assert len(function.argtypes) == len(wanted), name
        for given, text in zip(function.argtypes, wanted, strict=True):
            is_pointer = issubclass(given, ctypes._Pointer) or given in (ctypes.c_void_p, ctypes.c_char_p)
            number = C_SIZES.get(text) or (4 if text in ("CUresult", "CUdevice") or text.endswith("Mode") else None)
            assert is_pointer == (number is None), (name, text)
            assert number is None or ctypes.sizeof(given) == number, (name, text)


def test_constants_of_the_driver() -> None:
    constants = DRIVER["constants"]
    assert constants["CUDA_SUCCESS"] == cuda.SUCCESS
    assert constants["CU_STREAM_NON_BLOCKING"] == cuda.NON_BLOCKING
    assert constants["CU_STREAM_CAPTURE_MODE_THREAD_LOCAL"] == cuda.THREAD_LOCAL
    text = Path(_onnxruntime_libraries.__file__).read_text("utf-8")
    asked = [int(number) for number in re.findall(r"cuDeviceGetAttribute\(.*?, (\d+), ", text)]
    versions = ("CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR", "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR")
    assert asked == [constants[name] for name in versions]


# Options of ONNX Runtime's providers

OPTION_NAMES = ("options", "provider", "settings", "fallback")  # of variables that hold options


def option_texts(text: str) -> dict[str, Any]:
    """Keys of every dictionary of options, with the values that are written out."""
    found: dict[str, Any] = {}
    for node in ast.walk(ast.parse(text)):
        line, sides = getattr(node, "lineno", 0), list[ast.expr]()
        if isinstance(node, ast.Assign | ast.AugAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(t, ast.Name) and t.id in OPTION_NAMES for t in targets):
                sides = [node.value]
            for t in targets:
                if isinstance(t, ast.Subscript) and isinstance(t.value, ast.Name) and t.value.id in OPTION_NAMES:
                    sides.append(ast.Dict([t.slice], [node.value]))
        elif isinstance(node, ast.BinOp) and ast.unparse(node.left) in OPTION_NAMES:
            sides = [node.right]
        for side in sides:
            for one in ast.walk(side):
                if isinstance(one, ast.Dict):
                    for key, value in zip(one.keys, one.values, strict=True):
                        assert isinstance(key, ast.Constant), f"line {line}: an option has no written name"
                        found[str(key.value)] = {c.value for c in ast.walk(value) if isinstance(c, ast.Constant)}
    return found


def option_faults(options: Mapping[str, Any], known: set[str]) -> list[str]:
    wrong = [name for name in options if name not in known]
    for name, values in PROVIDERS["values"].items():
        wrong += [f"{name}={value}" for value in options.get(name, ()) if value not in values]
    return wrong


def test_options_of_the_cuda_provider() -> None:
    options = option_texts((BACKENDS / "onnxruntime_cuda.py").read_text("utf-8"))
    assert len(options) > 5
    assert option_faults(options, set(PROVIDERS["cuda"])) == []


def test_options_of_the_tensorrt_provider() -> None:
    options = option_texts((BACKENDS / "onnxruntime_tensorrt.py").read_text("utf-8"))
    assert len(options) > 8
    assert option_faults(options, set(PROVIDERS["tensorrt"])) == []


def test_wrong_options_are_found() -> None:
    text = 'options = {"use_tf23": "1"}\nprovider["trt_fp61_enable"] = 1\nreturned = options | {"cudnn": "1"}\n'
    text += 'options = {"cudnn_conv_algo_search": "QUICK" if x else "DEFAULT"}'
    known = {*PROVIDERS["cuda"], *PROVIDERS["tensorrt"]}
    wrong = ["use_tf23", "trt_fp61_enable", "cudnn", "cudnn_conv_algo_search=QUICK"]
    assert sorted(option_faults(option_texts(text), known)) == sorted(wrong)


def test_configuration_entries_of_sessions() -> None:
    """`session.disable_cpu_ep_fallback` and the like: ONNX Runtime takes any name without a word."""
    texts = [file.read_text("utf-8") for file in sorted(BACKENDS.glob("*onnxruntime*.py"))]
    constants = {
        node.value
        for text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    entries = {c for c in constants if re.fullmatch(r"session\.[\w.]+|gpu_graph_id", c)}
    assert len(entries) > 3
    assert entries - set(PROVIDERS["entries"]) == set()


# The snapshots against what they are of


@pytest.mark.skipif(OPT_IN not in os.environ, reason=f"builds pycuda and downloads 255 MB; set {OPT_IN}=1")
def test_snapshots_are_what_the_libraries_offer(cache: Path, tmp_path: Path) -> None:
    for name, value in api_libraries.snapshots(cache, tmp_path).items():
        assert json.loads((SNAPSHOTS / name).read_text()) == json.loads(json.dumps(value)), name


def test_a_wheel_that_cannot_be_had_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UnavailableError, match="pip"):
        api_libraries.fetch("tensorrt-cu13-bindings==0.0.1", tmp_path / "cache")
    with pytest.raises(UnavailableError, match="no-such-compiler"):
        api_libraries.run(["no-such-compiler"])
