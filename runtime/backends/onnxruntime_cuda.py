"""ONNX Runtime on an NVIDIA GPU, with its CUDA provider."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vaert.errors import BackendError, OptionError
from vaert.package import TENSORRT_FLAVOUR, Package
from vaert.runtime.backends._onnxruntime import (
    CUDA_PROVIDER,
    EXTERNAL_DATA,
    PLACEMENT,
    OpenRunners,
    first_line,
    guarded,
    import_onnxruntime,
    is_exact,
    placement,
    require_placed,
)
from vaert.runtime.backends._onnxruntime_bound import BoundRunner, Made
from vaert.runtime.backends._onnxruntime_libraries import gpu, missing_cuda

NOT_CAPTURABLE = ("graph capture", "CUDA Graph")  # what ONNX Runtime says of a graph that it does not capture
Options = dict[str, str]


def available() -> str:
    """Why this backend cannot be made here, in one line with what would help; "" if it can. Makes no GPU context."""
    return missing_cuda()


class OnnxRuntimeCuda:
    """Runs graphs on one GPU. It takes TensorRT's flavour of int8: the CUDA provider has no QLinearConv either.

    device: number of the GPU. cuda_graphs: capture a graph for shapes that come again. memory_limit: bytes of the
    memory of each graph that is loaded, no limit if None. tf32: let transforms round operands to 11 bits, on GPUs that
    do; exact graphs never do. threads: of what ONNX Runtime does on the host, next to nothing. Raises
    MissingExtraError, BackendError with what is missing, OptionError.
    """

    name = "cuda"
    flavour = TENSORRT_FLAVOUR

    def __init__(
        self,
        *,
        device: int = 0,
        cuda_graphs: bool = True,
        memory_limit: int | None = None,
        tf32: bool = False,
        threads: int | None = None,
    ) -> None:
        self._onnxruntime = import_onnxruntime("gpu")
        check_options(device, memory_limit, threads)
        require(available())
        require_device(device)
        self._device, self._cuda_graphs, self._memory_limit = device, cuda_graphs, memory_limit
        self._tf32, self._threads, self._runners = tf32, threads, OpenRunners()

    def load(self, package: Package, graph: str) -> BoundRunner:
        """Load a graph. ModelError if its file is damaged, BackendError if it is refused or would use the CPU."""
        self._runners.require_open(self.name)
        data = package.read_graph(graph, self.flavour)
        what = f"ONNX Runtime cannot load {graph} of {package.path} on CUDA"
        options = session_options(self._onnxruntime, self._threads)
        options.add_session_config_entry(EXTERNAL_DATA, str(package.path))

        def session(graphs: bool) -> Any:
            provider = cuda_options(graph, device=self._device, limit=self._memory_limit, tf32=self._tf32)
            provider["enable_cuda_graph"] = str(int(graphs))
            made = self._onnxruntime.InferenceSession(
                data, options, providers=[(CUDA_PROVIDER, provider)], enable_fallback=0
            )
            require_provider(made, CUDA_PROVIDER, graph)
            return made

        def make(graphs: bool) -> Made:
            made = guarded(what, lambda: with_or_without_graphs(session, graphs and self._cuda_graphs))
            require_placed(made.nodes, graph, (CUDA_PROVIDER,))
            return made

        runner = BoundRunner(self._onnxruntime, graph, self._device, make)
        self._runners.add(runner)
        return runner

    def close(self) -> None:
        """See `Backend.close`."""
        self._runners.close()


def cuda_options(graph: str, *, device: int, limit: int | None, tf32: bool) -> Options:
    """Options of the CUDA provider, each chosen for a reason.

    TF32: fp32 packages promise pixels within one level of every other fp32 engine. TF32 keeps that for pictures, but
    not for all files: simulated, black and white noise at quality 100 came out up to 5 levels away. So it has to be
    asked for; fp16 packages are the faster ones by choice. The operands of an exact graph are at most 2^11, so it would
    be exact there; it is off all the same, as those graphs are small.

    Algorithms: the default search times every algorithm for every new shape, and pictures have many shapes; a
    heuristic does not, and gives the same one each time. Exact graphs have no convolution, but should they get one:
    DEFAULT is the implicit GEMM, never Winograd or FFT.
    """
    exact = is_exact(graph)
    options = {
        "device_id": str(device),
        "use_tf32": str(int(tf32 and not exact)),
        "cudnn_conv_algo_search": "DEFAULT" if exact else "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",  # tensor cores need it
        "arena_extend_strategy": "kSameAsRequested",  # shapes vary: doubling would hold memory that is never used
        "do_copy_in_default_stream": "1",
    }
    return options | ({} if limit is None else {"gpu_mem_limit": str(limit)})


def session_options(onnxruntime: Any, threads: int | None) -> Any:
    """What all sessions on a GPU have in common."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 1
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_mem_pattern = False  # it plans memory per shape and keeps it
    options.add_session_config_entry(PLACEMENT, "1")
    return options


def with_or_without_graphs(session: Callable[[bool], Any], graphs: bool) -> Made:
    """A session that captures CUDA graphs if they are wanted and ONNX Runtime is able to, else one that does not."""
    if not graphs:
        made = session(False)
        return Made(made, graphs=False, reason="CUDA graphs are turned off", nodes=placement(made))
    try:
        made = session(True)
    except Exception as error:
        if not any(text in str(error) for text in NOT_CAPTURABLE):
            raise
        made = session(False)
        return Made(made, graphs=False, reason=first_line(error), nodes=placement(made))
    return Made(made, graphs=True, reason="", nodes=placement(made))


def require_provider(session: Any, provider: str, graph: str) -> None:
    """BackendError if a session is not on the provider it was made for: ONNX Runtime only logs that."""
    found = list(session.get_providers())
    if not found or found[0] != provider:
        raise BackendError(
            f"ONNX Runtime loaded {graph} on {found[0] if found else 'nothing'} instead of {provider}: the libraries "
            "of that provider do not load; vaert doctor lists them"
        )


def check_options(device: int, memory_limit: int | None, threads: int | None) -> None:
    """OptionError for what cannot be."""
    if device < 0:
        raise OptionError(f"device must be at least 0, not {device}")
    if memory_limit is not None and memory_limit < 1:
        raise OptionError(f"memory_limit must be at least 1 byte, not {memory_limit}")
    if threads is not None and threads < 1:
        raise OptionError(f"threads must be at least 1, not {threads}")


def require(missing: str) -> None:
    """BackendError that says what is missing, if anything is."""
    if missing:
        raise BackendError(missing)


def require_device(device: int) -> None:
    """BackendError if there is no GPU of that number."""
    if gpu(device) is None:
        raise BackendError(f"there is no GPU number {device}: nvidia-smi lists them, from 0")
