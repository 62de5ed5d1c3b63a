"""What the ONNX Runtime backends share: the library, where nodes run, the check of inputs, and closing."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from vaert.errors import BackendError, MissingExtraError
from vaert.runtime.backends.base import Array, Named

T = TypeVar("T")

EXTERNAL_DATA = "session.model_external_initializers_file_folder_path"
PLACEMENT = "session.record_ep_graph_assignment_info"
CPU_PROVIDER, CUDA_PROVIDER, TENSORRT_PROVIDER = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))

# ONNX Runtime computes shapes on the CPU on purpose, starting from the shape of a tensor. Where no node asks for one,
# there is no such arithmetic, and these operators are work like any other.
SHAPE_SOURCES = {"Shape", "Size"}
SHAPE_ARITHMETIC = SHAPE_SOURCES | {"Add", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Gather"}
SHAPE_ARITHMETIC |= {"Identity", "Max", "Min", "Mod", "Mul", "Range", "ReduceProd", "Reshape", "Slice", "Squeeze"}
SHAPE_ARITHMETIC |= {"Sub", "Unsqueeze", "Where"}
EXACT = ("prior_", "lossless_")  # how the names of graphs begin whose integers every engine must agree on
NAMED = 5  # nodes that an error names

TYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True)
class Node:
    """One node of a graph and the provider that ONNX Runtime gave it to."""

    provider: str
    operator: str
    name: str


class Closable(Protocol):
    """A runner that can be closed."""

    def close(self) -> None:
        """Release what it holds; `run` raises BackendError afterwards."""
        ...


class OpenRunners:
    """The runners of one backend that are still in use, so that it can close them."""

    def __init__(self) -> None:
        self._runners: weakref.WeakSet[Any] = weakref.WeakSet()
        self._closed = False

    def add(self, runner: Closable) -> None:
        """Remember a runner for as long as somebody uses it."""
        self._runners.add(runner)

    def require_open(self, name: str) -> None:
        """BackendError if the backend of that name was closed."""
        if self._closed:
            raise BackendError(f"the {name} backend was closed; make a new one")

    def close(self) -> None:
        """Close them all. May be called twice."""
        self._closed = True
        for runner in list(self._runners):
            runner.close()
        self._runners.clear()


class InputCheck:
    """What a session takes: names, types and shapes, checked before anything is copied to a GPU."""

    def __init__(self, session: Any, graph: str) -> None:
        self._graph = graph
        self._expected = {node.name: (np.dtype(TYPES[node.type]), tuple(node.shape)) for node in session.get_inputs()}

    def __call__(self, inputs: Named) -> dict[str, Array]:
        """The inputs in the graph's order, C-contiguous. BackendError: a name, type or shape is wrong."""
        if set(inputs) != set(self._expected):
            raise BackendError(
                f"{self._graph} takes {' and '.join(self._expected)}, not {' and '.join(inputs) or 'nothing'}"
            )
        for name, (dtype, shape) in self._expected.items():
            found = inputs[name]
            if found.dtype != dtype or not _fits(found.shape, shape):
                wanted = ", ".join(map(str, shape))
                raise BackendError(
                    f"{self._graph} takes {name} as {dtype} ({wanted}), not {found.dtype} "
                    f"({', '.join(map(str, found.shape))})"
                )
        return {name: np.ascontiguousarray(inputs[name]) for name in self._expected}


def import_onnxruntime(extra: str) -> Any:
    """The library. MissingExtraError if it is not installed, BackendError if a library of it is missing or damaged."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError("running a model", extra=extra) from error
    except ImportError as error:
        raise BackendError(f"ONNX Runtime cannot be loaded: {first_line(error)}; install it again") from error
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def is_exact(graph: str) -> bool:
    """Whether the entropy coder depends on every integer that this graph gives."""
    return graph.startswith(EXACT)


def placement(session: Any) -> tuple[Node, ...]:
    """Where every node runs, as recorded when the session was made. BackendError if it was not recorded."""
    try:
        subgraphs: Iterable[Any] = session.get_provider_graph_assignment_info()
        return tuple(Node(part.ep_name, node.op_type, node.name) for part in subgraphs for node in part.get_nodes())
    except Exception as error:  # ONNX Runtime's errors share no base class but Exception
        raise BackendError(
            f"this ONNX Runtime does not tell where it runs the nodes of a graph ({first_line(error)}): "
            "pip install --upgrade onnxruntime-gpu"
        ) from error


def require_placed(nodes: Sequence[Node], graph: str, providers: Sequence[str]) -> None:
    """BackendError, with their names, if nodes of a graph run elsewhere than on these providers.

    What ONNX Runtime computes of shapes on the CPU on purpose is allowed.
    """
    shapes = any(node.operator in SHAPE_SOURCES for node in nodes)
    stray = [
        node for node in nodes if node.provider not in providers and not (shapes and node.operator in SHAPE_ARITHMETIC)
    ]
    if not nodes or not any(node.provider in providers for node in nodes):
        raise BackendError(f"ONNX Runtime placed no node of {graph} on the GPU")
    if stray:
        some = ", ".join(f"{node.operator} {node.name}" for node in stray[:NAMED])
        more = f" and {len(stray) - NAMED} more" if len(stray) > NAMED else ""
        raise BackendError(
            f"ONNX Runtime would run {len(stray)} of {len(nodes)} nodes of {graph} on the CPU ({some}{more}): "
            "use --backend cpu, or another version of onnxruntime-gpu"
        )


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def guarded(what: str, call: Callable[[], T]) -> T:
    """The result of a call into ONNX Runtime; BackendError of one line, `what` first, if it fails."""
    try:
        return call()
    except BackendError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no base class but Exception
        raise BackendError(f"{what}: {first_line(error)}") from error


def _fits(found: Sequence[int], shape: Sequence[int | str | None]) -> bool:
    return len(found) == len(shape) and all(
        not isinstance(want, int) or want == have for have, want in zip(found, shape, strict=True)
    )
