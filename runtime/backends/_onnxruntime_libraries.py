"""What ONNX Runtime's GPU providers need of this machine, found without making a context on the GPU."""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vaert.errors import VaertError
from vaert.runtime.backends._onnxruntime import CUDA_PROVIDER, first_line, import_onnxruntime

DRIVER, CUDNN = "libcuda.so.1", "libcudnn.so.9"
EXCHANGE = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu[cuda,cudnn]'"


@dataclass(frozen=True)
class Gpu:
    """What an engine that is built for a GPU depends on."""

    name: str
    compute_capability: str
    driver: str  # the CUDA version that the driver offers


def missing_driver() -> str:
    """Why no NVIDIA GPU can be used, in one line; "" if there is one."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return f"no NVIDIA GPU / driver ({DRIVER} is missing): install NVIDIA's driver, or use --backend cpu"
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        return (
            f"the NVIDIA driver finds no GPU (CUDA error {status}, {count.value} devices): look at nvidia-smi and at "
            "CUDA_VISIBLE_DEVICES"
        )
    return ""


def gpu(device: int) -> Gpu | None:
    """What the driver says of a GPU, None if there is none of that number. The driver must be there."""
    driver = ctypes.CDLL(DRIVER)
    handle, version = ctypes.c_int(), ctypes.c_int()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    # 75 and 76 are CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h.
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(handle), device)
        or driver.cuDeviceGetName(name, len(name), handle)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), 75, handle)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, handle)
        or driver.cuDriverGetVersion(ctypes.byref(version))
    )
    if failed:
        return None
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}", str(version.value))


def missing_cuda() -> str:
    """Why ONNX Runtime's CUDA provider cannot be used here, and the command that would help; "" if it can."""
    return missing_driver() or missing_provider("cuda") or missing_libraries()


def missing_provider(kind: str) -> str:
    """Why the ONNX Runtime that is installed has no provider of a kind, "cuda" or "tensorrt"; "" if it has one."""
    name = {"cuda": "CUDA", "tensorrt": "TensorRT"}[kind]
    if find_spec("onnxruntime") is None:
        return "onnxruntime is not installed: pip install 'vaert[gpu]'"
    if provider_library(kind) is None:  # no import needed to tell
        return f"onnxruntime has no {name} provider (the CPU package is installed): {EXCHANGE}"
    try:
        providers = import_onnxruntime("gpu").get_available_providers()
    except VaertError as error:
        return str(error)
    wanted = {"cuda": CUDA_PROVIDER, "tensorrt": "TensorrtExecutionProvider"}[kind]
    if wanted not in providers:
        return f"onnxruntime has no {name} provider (onnxruntime and onnxruntime-gpu are both installed): {EXCHANGE}"
    return ""


def provider_library(kind: str) -> Path | None:
    """The file of a provider in the ONNX Runtime that is installed, None if there is none."""
    spec = find_spec("onnxruntime")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder) / "capi" / f"libonnxruntime_providers_{kind}.so"
        if path.is_file():
            return path
    return None


def missing_libraries() -> str:
    """Which libraries of CUDA and cuDNN the CUDA provider lacks; "" if none. Loads those that are there."""
    onnxruntime = import_onnxruntime("gpu")
    if not hasattr(onnxruntime, "preload_dlls"):
        return "onnxruntime is older than 1.21: pip install --upgrade 'onnxruntime-gpu[cuda,cudnn]'"
    lacking = preloaded(onnxruntime)
    try:
        ctypes.CDLL(CUDNN)  # ONNX Runtime opens it when the first convolution runs
    except OSError:
        lacking.append(CUDNN)
    if lacking:
        which = ", ".join(dict.fromkeys(lacking))
        return f"the CUDA provider cannot be loaded: {which} missing: pip install 'onnxruntime-gpu[cuda,cudnn]'"
    return ""


def preloaded(onnxruntime: Any) -> list[str]:
    """Load the CUDA libraries that pip installed; names of those that cannot be loaded, which ONNX Runtime prints."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            onnxruntime.preload_dlls(directory="")
    except Exception as error:  # noqa: BLE001 - whatever it met, the provider cannot be loaded
        return [first_line(error)]
    # A path is named first, then, if the loader does not find it elsewhere either, the bare name.
    return [name for name in re.findall(r"Failed to load ([^\s:]+)", printed.getvalue()) if "/" not in name]
