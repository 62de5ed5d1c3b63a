"""What the NVIDIA driver and the loader say, asked in a process of its own: each answer a line of JSON.

`python -m vaert.runtime.doctor_native` asks the driver, with `libraries` the loader.
"""

from __future__ import annotations

import ctypes
import json
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from vaert.runtime.doctor_report import ABSENT, FAULT, OK

DRIVER = "libcuda.so.1"
NO_DRIVER = f"{DRIVER} is not found: install NVIDIA's driver (apt-get install nvidia-driver-580), or use a CPU"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR in cuda.h


@dataclass(frozen=True)
class Library:
    """A library by the names that would do, best first, and what brings it."""

    names: tuple[str, ...]
    help: str


LIBRARIES = (
    Library((DRIVER,), "install NVIDIA's driver (apt-get install nvidia-driver-580)"),
    Library(("libcudart.so.13", "libcudart.so.12"), "pip install nvidia-cuda-runtime"),
    Library(("libcublasLt.so.13", "libcublasLt.so.12"), "pip install nvidia-cublas"),
    Library(("libcublas.so.13", "libcublas.so.12"), "pip install nvidia-cublas"),
    Library(("libcudnn.so.9",), "pip install nvidia-cudnn-cu13"),
    Library(("libnvinfer.so.11", "libnvinfer.so.10"), "pip install 'vaert[gpu]'"),
    Library(("libnvonnxparser.so.11", "libnvonnxparser.so.10"), "pip install 'vaert[gpu]'"),
)


def main() -> None:
    """Answer what was asked for on the command line."""
    if "libraries" in sys.argv[1:]:
        there = True
        for library in LIBRARIES:  # each after those that it needs
            found = _look_for(library, needed=there)
            there = found if library.names == (DRIVER,) else there
    else:
        _ask_driver()


def _say(name: str, status: str, text: str) -> None:
    print(json.dumps({"name": name, "status": status, "text": text}), flush=True)


def _ask_driver() -> None:
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        _say("driver", ABSENT, NO_DRIVER)
        return
    version, count = ctypes.c_int(), ctypes.c_int()
    if code := driver.cuInit(0):
        _say("driver", FAULT, f"cuInit fails with {_error(driver, code)}: look at nvidia-smi and CUDA_VISIBLE_DEVICES")
        return
    driver.cuDriverGetVersion(ctypes.byref(version))
    driver.cuDeviceGetCount(ctypes.byref(count))
    offered = f"offers CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    if not count.value:
        _say("driver", ABSENT, f"{offered}, but shows no GPU: look at CUDA_VISIBLE_DEVICES")
        return
    _say("driver", OK, f"{offered}, {count.value} GPU{'s' if count.value > 1 else ''}")
    for number in range(count.value):
        _say(f"GPU {number}", *_device(driver, number))


def _device(driver: ctypes.CDLL, number: int) -> tuple[str, str]:
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    code = (
        driver.cuDeviceGet(ctypes.byref(handle), number)
        or driver.cuDeviceGetName(name, len(name), handle)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, handle)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, handle)
        or driver.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    )
    if code:
        return FAULT, f"cannot be asked: {_error(driver, code)}"
    what = name.value.decode(errors="replace")
    return OK, f"{what}, compute capability {major.value}.{minor.value}, {memory.value / 2**30:.1f} GiB"


def _error(driver: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    known = driver.cuGetErrorName(code, ctypes.byref(text)) == 0 and text.value
    return f"{text.value.decode()} ({code})" if known and text.value else f"CUDA error {code}"


def _look_for(library: Library, *, needed: bool) -> bool:
    """Open by name as the loader does; else where pip puts it, which the engines search themselves. False if absent.

    needed: whether it is a fault if it is there and cannot be opened: without a driver some cannot.
    """
    why = ""
    for name in library.names:
        for path in (name, *map(str, _in_packages(name))):
            try:
                ctypes.CDLL(path)
            except OSError as error:
                why = why or ("" if path == name else f"{path} is there but cannot be opened ({error})")
                continue
            _say(library.names[0].partition(".")[0], OK, _mapped(name) or path)
            return True
    status = FAULT if why and needed else ABSENT
    text = f"{why or ' or '.join(library.names) + ' is not found'}: {library.help}"
    _say(library.names[0].partition(".")[0], status, text)
    return False


def _in_packages(name: str) -> list[Path]:
    """Files of that name in the packages of pip that hold NVIDIA's libraries."""
    found: list[Path] = []
    for package in ("nvidia", "tensorrt_libs"):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            found += Path(folder).rglob(name)
    return sorted(found)


def _mapped(name: str) -> str:
    """Where a library that is open lies."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.split(maxsplit=5)[-1] for line in lines if f"/{name}" in line), "")


if __name__ == "__main__":
    main()
