"""Gets foreign libraries to introspect on a machine without a GPU: real wheels, with stubs for what they link to.

    python tests/api_libraries.py snapshot [FOLDER]

writes the snapshots in `tests/api/` anew: what `pycuda.driver` offers (built from its source, a minute), the functions
of the CUDA driver (from cuda.h), and the options of ONNX Runtime's GPU providers (from its libraries, 255 MB). The
versions are named below. It needs pip, cc, g++ and a network.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from api_conformance import Api

HERE = Path(__file__).resolve().parent
SNAPSHOTS = HERE / "api"
TENSORRT = ("10.16.1.11", "11.4.0.106")  # the newest of both major versions that one code path serves
PYCUDA = "pycuda==2026.1"
CUDA = ("nvidia-cuda-runtime==13.5.37", "nvidia-cuda-profiler-api==13.5.25")  # cuda.h and cudaProfiler.h
PYCUDA_NEEDS = ("pytools", "platformdirs", "mako", "siphash24", "typing-extensions")
ONNXRUNTIME_GPU = "onnxruntime-gpu==1.31.1"
# All that TensorRT's bindings take from its libraries.
SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "getNvOnnxParserVersion",
    "initLibNvInferPlugins",
)
CONSTANTS = (
    "CUDA_SUCCESS",
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR",
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR",
    "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL",
    "CU_STREAM_NON_BLOCKING",
)
CUDA_OPTIONS = (
    "device_id gpu_mem_limit arena_extend_strategy cudnn_conv_algo_search do_copy_in_default_stream "
    "cudnn_conv_use_max_workspace cudnn_conv1d_pad_to_nc1d enable_cuda_graph prefer_nhwc use_ep_level_unified_stream "
    "use_tf32 fuse_conv_bias sdpa_kernel tunable_op_enable tunable_op_tuning_enable has_user_compute_stream"
)
CUDA_VALUES = {
    "arena_extend_strategy": ["kNextPowerOfTwo", "kSameAsRequested"],
    "cudnn_conv_algo_search": ["EXHAUSTIVE", "HEURISTIC", "DEFAULT"],
}
ENTRIES = ("gpu_graph_id", "session.model_external_initializers_file_folder_path")
PIECE = 16  # bytes in which compilers copy a longer text
TIMEOUT = 120


class UnavailableError(Exception):
    """What a test needs cannot be had here; the text is the reason to skip it."""


def run(command: list[str], *, timeout: float = TIMEOUT, **options: Any) -> str:
    """What a program printed. UnavailableError: it is not there, fails, or takes too long."""
    try:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, **options
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{command[0]}: {error}") from error
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise UnavailableError(f"{' '.join(command[:4])} failed: {lines[-1] if lines else done.returncode}")
    return done.stdout


def fetch(requirement: str, cache: Path, *, source: bool = False) -> Path:
    """The wheel or source archive of one package, downloaded by pip unless it lies in `cache` already."""
    project, _, version = requirement.partition("==")
    stem = re.sub(r"[-_.]+", "[-_.]", project)
    suffix = r"\.tar\.gz" if source else r"-[\w.-]+\.whl"

    def there() -> list[Path]:
        if not cache.is_dir():
            return []
        number = re.escape(version) or r"[\w.]+?"
        wanted = re.compile(f"{stem}-{number}{suffix}", re.IGNORECASE)
        return sorted(path for path in cache.iterdir() if wanted.fullmatch(path.name))

    if not there():
        only = ["--no-binary", ":all:", "--no-build-isolation"] if source else ["--only-binary", ":all:"]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        run([*pip, *only, "--dest", str(cache), requirement], timeout=600 if "gpu" in project else TIMEOUT)
    if not (found := there()):
        raise UnavailableError(f"pip did not bring {requirement}")
    return found[-1]


def unpack(archive: Path, folder: Path) -> Path:
    """The folder, with the content of a wheel or source archive."""
    folder.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    return folder


def stub_library(path: Path, functions: Iterable[str]) -> None:
    """A shared library whose functions do nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path.with_name(f"{path.name}.c")
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in functions))
    run(["cc", "-shared", "-fPIC", f"-Wl,-soname,{path.name}", "-o", str(path), str(source)])


def introspect(module: str, folders: Iterable[Path], libraries: Path, *, imported_as: str | None = None) -> Api:
    """What a module offers, found in a process of its own that sees no other packages."""
    command = [sys.executable, "-S", str(HERE / "api_introspection.py"), module, *map(str, folders)]
    text = run(command, env={**os.environ, "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": ""})
    return Api(imported_as or module, json.loads(text))


def tensorrt(version: str, cache: Path, scratch: Path) -> Api:
    """The real bindings of a TensorRT version, with nothing behind them."""
    wheel = fetch(f"tensorrt-cu13-bindings=={version}", cache)
    folder, libraries = unpack(wheel, scratch / version), scratch / f"libraries-{version}"
    major = version.partition(".")[0]
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        stub_library(libraries / f"lib{name}.so.{major}", SYMBOLS)
    api = introspect("tensorrt_bindings", [folder], libraries, imported_as="tensorrt")
    if api.version != version:
        raise UnavailableError(f"the bindings of TensorRT {version} call themselves {api.version}")
    return api


def cuda_headers(cache: Path, scratch: Path) -> Path:
    """The folder with cuda.h and cudaProfiler.h."""
    for requirement in CUDA:
        unpack(fetch(requirement, cache), scratch / "cuda")
    return next((scratch / "cuda").rglob("cuda.h")).parent


def cuda_functions(include: Path) -> dict[str, list[str]]:
    """Functions of the driver's library, by the names that it exports, with the types of their arguments."""
    headers = "#include <cuda.h>\n#include <cudaProfiler.h>\n"
    text = run(["cc", "-E", "-P", "-I", str(include), "-x", "c", "-"], input=headers)
    found = re.findall(r"CUresult\s+(cu\w+)\s*\(([^;]*?)\)\s*;", text)
    return {name: [_c_type(one) for one in arguments.split(",") if one.strip() != "void"] for name, arguments in found}


def cuda_constants(include: Path) -> dict[str, int]:
    """Constants of cuda.h that programs copy, as the header has them."""
    text = run(["cc", "-E", "-P", "-I", str(include), "-x", "c", "-"], input="#include <cuda.h>\n")
    found = {name: re.search(rf"\b{name}\s*=\s*(0x[\da-f]+|\d+)", text) for name in CONSTANTS}
    return {name: int(match[1], 0) for name, match in found.items() if match}


def _c_type(argument: str) -> str:
    """`CUgraphExec *phGraphExec` to `CUgraphExec *`."""
    text = " ".join(argument.replace("*", " * ").split())
    return re.sub(r"(?<=[\w*] )\w+(\[\w*\])?$", "", text).strip()


def pycuda(cache: Path, scratch: Path) -> Api:
    """`pycuda.driver`, built without CUDA's compiler and with a stub for its library."""
    include, libraries = cuda_headers(cache, scratch), scratch / "libraries-cuda"
    stub_library(libraries / "libcuda.so.1", cuda_functions(include))
    (libraries / "libcuda.so").unlink(missing_ok=True)
    (libraries / "libcuda.so").symlink_to("libcuda.so.1")
    source = next(unpack(fetch(PYCUDA, cache, source=True), scratch / "pycuda-source").glob("pycuda-*"))
    python = scratch / "python"
    run([sys.executable, "-m", "venv", "--system-site-packages", str(python)])
    program = str(python / "bin" / "python")
    run([program, "-m", "pip", "install", "--quiet", "setuptools", "wheel", "numpy"])
    where = [f"--cuda-inc-dir={include}", f"--cudadrv-lib-dir={libraries}", "--no-cuda-enable-curand"]
    run([program, "configure.py", *where], cwd=source)
    command = ["nice", "-n", "19", program, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"]
    flags = {"CFLAGS": "-O0", "CXXFLAGS": "-O0"}
    wheels = scratch / "wheels"
    run([*command, "--wheel-dir", str(wheels), "."], cwd=source, timeout=900, env={**os.environ, **flags})
    folder = unpack(next(wheels.glob("pycuda-*.whl")), scratch / "pycuda")
    for name in PYCUDA_NEEDS:
        unpack(fetch(name, cache), folder)
    site = run([program, "-c", "import numpy; print(numpy.__path__[0])"]).strip()
    return introspect("pycuda.driver", [folder, Path(site).parent], libraries)


def onnxruntime_gpu(cache: Path, scratch: Path) -> dict[str, Any]:
    """Names of the options that ONNX Runtime's GPU providers know, and of its configuration entries."""
    folder = unpack(fetch(ONNXRUNTIME_GPU, cache), scratch / "onnxruntime-gpu") / "onnxruntime" / "capi"
    cuda, tensorrt_provider, core = (
        next(folder.glob(pattern)).read_bytes()
        for pattern in ("*providers_cuda.so", "*providers_tensorrt.so", "onnxruntime_pybind11_state*.so")
    )
    values = {name: [value for value in many if _holds(cuda, value)] for name, many in CUDA_VALUES.items()}
    return {
        "version": ONNXRUNTIME_GPU.partition("==")[2],
        "cuda": sorted(name for name in CUDA_OPTIONS.split() if _holds(cuda, name)),
        "values": values,
        "tensorrt": sorted({"device_id"} & _texts(tensorrt_provider) | _texts(tensorrt_provider, "trt_")),
        "entries": sorted(_texts(core, "session.") | {name for name in ENTRIES if _holds(core, name)}),
    }


def _texts(data: bytes, prefix: str = "") -> set[str]:
    pattern = re.escape(prefix.encode()) + rb"[\w.]{4,80}"
    return {found.decode() for found in re.findall(rb"(?<=\0)(" + pattern + rb")(?=\0)", data)}


def _holds(data: bytes, name: str) -> bool:
    """Whether a program holds a text, whole or in the pieces in which it is copied."""
    pieces = [name[at : at + PIECE].encode() for at in range(0, len(name) - PIECE + 1, PIECE)]
    return b"\0" + name.encode() + b"\0" in data or (bool(pieces) and all(piece in data for piece in pieces))


def public(api: Api) -> dict[str, Any]:
    """A snapshot: without what every Python object has."""

    def kept(members: dict[str, Any]) -> dict[str, Any]:
        useful = ("__init__", "__int__", "__len__", "__getitem__", "__setitem__")
        common = {"add_note", "with_traceback", "args"}
        return {n: m for n, m in members.items() if (not n.startswith("_") and n not in common) or n in useful}

    raw = json.loads(json.dumps(api.raw))
    classes = {name: {**cls, "members": kept(cls["members"])} for name, cls in raw["classes"].items()}
    return {"version": raw["version"], "members": kept(raw["members"]), "classes": classes}


def snapshots(cache: Path, scratch: Path) -> dict[str, dict[str, Any]]:
    """What lies in `tests/api/`, by file name."""
    include = cuda_headers(cache, scratch)
    return {
        "pycuda.json": {**public(pycuda(cache, scratch)), "version": PYCUDA.partition("==")[2]},
        "cuda_driver.json": {
            "constants": cuda_constants(include),
            "version": CUDA[0].partition("==")[2],
            "functions": cuda_functions(include),
        },
        "onnxruntime_gpu.json": onnxruntime_gpu(cache, scratch),
    }


def snapshot_text(value: dict[str, Any]) -> str:
    """JSON with one line for each thing at the second level."""
    lines = []
    for key, part in sorted(value.items()):
        if isinstance(part, dict):
            inner = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v, sort_keys=True)}" for k, v in sorted(part.items()))
            lines.append(f" {json.dumps(key)}: {{\n{inner}\n }}")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(part)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    """See the top of this file."""
    if sys.argv[1:2] != ["snapshot"]:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(scratch) / "cache"
        for name, value in snapshots(cache, Path(scratch)).items():
            SNAPSHOTS.mkdir(exist_ok=True)
            (SNAPSHOTS / name).write_text(snapshot_text(value))
            print(f"{SNAPSHOTS / name}: {value['version']}")


if __name__ == "__main__":
    main()
