"""A session on a GPU: inputs and outputs in device memory that is kept per shape, and CUDA graphs over it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vaert.errors import BackendError
from vaert.runtime.backends._onnxruntime import InputCheck, Node, first_line
from vaert.runtime.backends.base import Array, Named

DEVICE = "cuda"
SLOTS = 8  # shapes whose buffers are kept; the one that was used longest ago makes room
PLAIN_RUNS = 2  # of a shape before its graph is captured: the first finds the outputs' shapes, the second warms up
CAPTURES = 32  # of one session, ever: a release is not sure to give all of a graph's memory back
Key = tuple[tuple[int, ...], ...]  # shapes of the inputs
GRAPH_ID, NO_GRAPH = "gpu_graph_id", -1


@dataclass
class Slot:
    """The buffers of one combination of input shapes. Their addresses never change: a graph has them inside."""

    binding: Any
    inputs: Mapping[str, Any]  # OrtValue by name
    outputs: Mapping[str, Any] = field(default_factory=dict)  # none before the first run
    runs: int = 0
    graph: int = NO_GRAPH
    thread: int = 0  # that captured the graph: ONNX Runtime keeps graphs per thread


@dataclass(frozen=True)
class Made:
    """A session, whether it captures graphs, and if not, why."""

    session: Any
    graphs: bool
    reason: str
    nodes: tuple[Node, ...]  # where they run


class BoundRunner:
    """One session with IO binding. Runs of several threads wait for each other.

    make: gives the session, with or without CUDA graphs; without them if it must. It is called again if a capture
    fails, and what cannot be captured runs plainly from then on.
    """

    def __init__(self, onnxruntime: Any, graph: str, device: int, make: Callable[[bool], Made]) -> None:
        self._onnxruntime, self._graph, self._device, self._make = onnxruntime, graph, device, make
        self._lock = threading.Lock()
        self._slots: OrderedDict[Key, Slot] = OrderedDict()
        self._captures = 0
        self._open(make(True))

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Where the nodes run."""
        return self._made.nodes

    @property
    def graphs(self) -> int:
        """CUDA graphs that are held now."""
        return sum(slot.graph != NO_GRAPH for slot in self._slots.values())

    @property
    def no_graphs(self) -> str:
        """Why no CUDA graphs are captured; "" if they are."""
        return self._made.reason

    def run(self, inputs: Named) -> dict[str, Array]:
        """See `Runner.run`."""
        with self._lock:
            return self._run(self.checked(inputs))

    def checked(self, inputs: Named) -> dict[str, Array]:
        """The inputs in the graph's order, C-contiguous. BackendError: a name, type or shape is wrong, or closed."""
        if self._made.session is None:
            raise BackendError(f"ONNX Runtime failed in {self._graph}: its backend was closed; make a new one")
        return self._check(inputs)

    def close(self) -> None:
        """Release graphs, buffers and session, in this order; `run` raises BackendError afterwards."""
        with self._lock:
            self._drop_all()
            self._made = Made(None, graphs=False, reason="closed", nodes=())

    def _open(self, made: Made) -> None:
        self._made = made
        self._check = InputCheck(made.session, self._graph)
        self._names = [output.name for output in made.session.get_outputs()]

    def _run(self, arrays: dict[str, Array]) -> dict[str, Array]:
        key = tuple(array.shape for array in arrays.values())
        try:
            slot = self._slot(key, arrays)
            if self._captures_next(slot):
                return self._captured(key, slot, arrays)
            return self._plain(slot, arrays)
        except Exception as error:  # ONNX Runtime's errors share no base class but Exception
            self._drop(key)
            raise BackendError(f"ONNX Runtime failed in {self._graph}: {first_line(error)}") from error

    def _plain(self, slot: Slot, arrays: dict[str, Array]) -> dict[str, Array]:
        """Run, or replay the slot's graph if this thread captured it."""
        graph = slot.graph if slot.thread == threading.get_ident() else NO_GRAPH
        for name, array in arrays.items():
            slot.inputs[name].update_inplace(array)
        slot.binding.synchronize_inputs()
        self._made.session.run_with_iobinding(slot.binding, self._options(graph))
        slot.binding.synchronize_outputs()
        slot.runs += 1
        values = dict(zip(self._names, slot.binding.get_outputs(), strict=True))
        results = {name: value.numpy() for name, value in values.items()}
        if not slot.outputs:
            self._keep_outputs(slot, results)
        return results

    def _captured(self, key: Key, slot: Slot, arrays: dict[str, Array]) -> dict[str, Array]:
        """Run and capture; if that fails, go on in a new session without graphs: this one's stream may be broken."""
        self._captures += 1
        slot.graph, slot.thread = self._captures, threading.get_ident()
        try:
            return self._plain(slot, arrays)
        except Exception as error:  # noqa: BLE001 - whatever a capture met, plain runs may work
            reason = f"a capture failed: {first_line(error)}"
        slot.graph = NO_GRAPH
        self._drop_all()
        made = self._make(False)
        self._open(Made(made.session, graphs=False, reason=reason, nodes=made.nodes))
        return self._plain(self._slot(key, arrays), arrays)

    def _captures_next(self, slot: Slot) -> bool:
        ready = self._made.graphs and slot.graph == NO_GRAPH and slot.runs >= PLAIN_RUNS
        return ready and self._captures < CAPTURES

    def _options(self, graph: int) -> Any:
        """Run options: which graph to capture or replay. None for a session without graphs."""
        if not self._made.graphs:
            return None
        options = self._onnxruntime.RunOptions()
        options.add_run_config_entry(GRAPH_ID, str(graph))
        return options

    def _slot(self, key: Key, arrays: dict[str, Array]) -> Slot:
        """The buffers for these shapes, made if there are none."""
        if key in self._slots:
            self._slots.move_to_end(key)
            return self._slots[key]
        while len(self._slots) >= SLOTS:
            self._drop(next(iter(self._slots)))
        binding = self._made.session.io_binding()
        inputs = {name: self._buffer(array) for name, array in arrays.items()}
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._names:
            binding.bind_output(name, DEVICE, self._device)  # ONNX Runtime allocates, this once
        slot = self._slots[key] = Slot(binding, inputs)
        return slot

    def _keep_outputs(self, slot: Slot, results: dict[str, Array]) -> None:
        """Give the outputs buffers of ours, now that their shapes are known."""
        slot.outputs = {name: self._buffer(result) for name, result in results.items()}
        slot.binding.clear_binding_outputs()
        for name, value in slot.outputs.items():
            slot.binding.bind_ortvalue_output(name, value)

    def _buffer(self, like: Array) -> Any:
        return self._onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            list(like.shape), like.dtype.type, DEVICE, self._device
        )

    def _drop_all(self) -> None:
        for key in list(self._slots):
            self._drop(key)

    def _drop(self, key: Key) -> None:
        """Release a slot: its graph first, as that has the addresses of the buffers inside."""
        slot = self._slots.pop(key, None)
        if slot is None:
            return
        if slot.graph != NO_GRAPH:
            release = getattr(self._made.session, "release_captured_graph", None)
            if release is not None:  # older versions keep graphs as long as the session
                release(slot.graph)
        slot.binding.clear_binding_inputs()
        slot.binding.clear_binding_outputs()
