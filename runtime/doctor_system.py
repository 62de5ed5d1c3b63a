"""What `vaert doctor` says of the machine: versions, processor, GPUs, libraries, the folder of engines."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from vaert.runtime.doctor_report import ABSENT, FAULT, NOTE, OK, Check, described

LIMIT = 60.0  # seconds for anything that asks the driver
NEEDED = ("numpy", "opencv-python", "constriction", "click")
ENGINES = ("onnxruntime", "onnxruntime-gpu", "tensorrt", "pycuda")
OTHERS = ("onnx", "torch", "safetensors")
STAND_INS = {  # what may be installed instead, or carries the library itself
    "opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "tensorrt": ("tensorrt-cu13", "tensorrt-cu12", "tensorrt_cu13_bindings", "tensorrt_cu12_bindings"),
}
HELP = {
    "onnxruntime": "pip install 'vaert[cpu]'",
    "onnxruntime-gpu": "pip install 'vaert[gpu]', with onnxruntime uninstalled",
    "tensorrt": "pip install 'vaert[gpu]'",
    "pycuda": "pip install 'vaert[gpu]'",
    "onnx": "pip install 'vaert[train]'",
    "torch": "pip install 'vaert[train]'",
    "safetensors": "pip install 'vaert[train]'",
}
SIDE_BY_SIDE = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx_vnni": "AVX-VNNI", "avx512_vnni": "AVX-512 VNNI", "asimd": "NEON"}


def version_of(distribution: str) -> str:
    """Version of an installed distribution or its stand-in, "" if there is none. Imports nothing."""
    for name in (distribution, *STAND_INS.get(distribution, ())):
        try:
            return metadata.version(name) + ("" if name == distribution else f" ({name})")
        except metadata.PackageNotFoundError:
            continue
    return ""


def system_checks() -> Iterator[Check]:
    """All of them, in order; one that fails is a fault of its own."""
    for name, look in (
        ("versions", _versions),
        ("machine", _machine),
        ("GPU", _gpus),
        ("libraries", _libraries),
        ("engine cache", _engine_cache),
    ):
        yield from isolated(name, look)


def isolated(section: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """What `look` gives until it fails, then the failure."""
    try:
        yield from look()
    except Exception as error:  # noqa: BLE001 - whatever it was is what the doctor has to say
        yield Check(section, "look", FAULT, described(error))


def _versions() -> Iterator[Check]:
    from vaert import __version__

    python = f"{platform.python_version()} ({platform.python_implementation()}, {sys.executable})"
    yield Check("versions", "vaert", OK, __version__, {"version": __version__})
    yield Check("versions", "python", OK, python, {"version": platform.python_version()})
    for name in NEEDED:
        version = version_of(name)
        text = version or "not installed: pip install vaert"
        yield Check("versions", name, OK if version else FAULT, text, {"version": version})
    for name in (*ENGINES, *OTHERS):
        version = version_of(name)
        text = version or f"not installed: {HELP[name]}"
        yield Check("versions", name, OK if version else ABSENT, text, {"version": version})
    if version_of("onnxruntime") and version_of("onnxruntime-gpu"):
        text = f"onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: {SIDE_BY_SIDE}"
        yield Check("versions", "side by side", FAULT, text)


def _machine() -> Iterator[Check]:
    info = _fields(Path("/proc/cpuinfo"))
    flags = [name for flag, name in FLAGS.items() if flag in (info.get("flags") or info.get("Features") or "").split()]
    model = info.get("model name") or platform.processor() or platform.machine()
    usable = len(os.sched_getaffinity(0))
    cores = f"{usable} of {os.cpu_count()} cores usable"
    memory = _fields(Path("/proc/meminfo"))
    total, free = (_gibibytes(memory.get(name, "")) for name in ("MemTotal", "MemAvailable"))
    libc = " ".join(platform.libc_ver())
    yield Check("machine", "system", OK, f"{platform.platform()}, {libc}", {"platform": platform.platform()})
    text = f"{model}, {cores}, {', '.join(flags) or 'no vector extensions that matter'}"
    yield Check("machine", "processor", OK, text, {"model": model, "cores": usable, "flags": flags})
    yield Check(
        "machine", "memory", OK, f"{total:.1f} GiB, {free:.1f} GiB free", {"total_gib": total, "free_gib": free}
    )


def _fields(path: Path) -> dict[str, str]:
    """The first value of each name in a file of `name: value` lines, nothing if it cannot be read."""
    found: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found


def _gibibytes(text: str) -> float:
    return round(int(text.split(maxsplit=1)[0]) / 2**20, 1) if text else 0.0


def _gpus() -> Iterator[Check]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield Check("GPU", "nvidia-smi", ABSENT, "not found on PATH; it comes with NVIDIA's driver")
    else:
        query = [tool, "--query-gpu=index,name,driver_version,memory.total,compute_cap", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=LIMIT)
        said = "; ".join((done.stdout or done.stderr).strip().splitlines())
        text = said or f"says nothing (exit code {done.returncode})"
        yield Check("GPU", "nvidia-smi", NOTE if done.returncode else OK, text)
    yield from asked("GPU", "driver", [])


def _libraries() -> Iterator[Check]:
    yield from asked("libraries", "libraries", ["libraries"])


def asked(section: str, name: str, arguments: list[str]) -> Iterator[Check]:
    """Checks that a process of its own makes, as native libraries may end it: `vaert.runtime.doctor_native`."""
    command = [sys.executable, "-P", "-m", "vaert.runtime.doctor_native", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    for line in done.stdout.splitlines():
        if not line.startswith("{"):
            continue  # of a library
        found: Mapping[str, str] = json.loads(line)
        yield Check(section, found["name"], found["status"], found["text"])
    if done.returncode:
        last = "; ".join(done.stderr.strip().splitlines()[-3:]) or "it said nothing"
        yield Check(section, name, FAULT, f"the process that looks ended with {ended(done.returncode)}: {last}")


def ended(code: int) -> str:
    """An exit code in words."""
    import signal

    if code >= 0:
        return f"exit code {code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"signal {names.get(-code, -code)}"


def _engine_cache() -> Iterator[Check]:
    from vaert.runtime.backends._trt_cache import default_folder

    folder = default_folder()
    if not folder.exists():
        yield Check("engine cache", "folder", NOTE, f"{folder} is not there yet; it is made with the first engine")
        return
    status = folder.stat()
    engines = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in engines)
    free = shutil.disk_usage(folder).free
    text = f"{folder}, mode {status.st_mode & 0o777:o}, {len(engines)} files, {size / 2**20:.1f} MiB"
    facts = {"folder": str(folder), "files": len(engines), "bytes": size, "free_bytes": free}
    if status.st_uid != os.geteuid():
        yield Check("engine cache", "folder", FAULT, f"{text}: belongs to user {status.st_uid}, not to you", facts)
    elif status.st_mode & 0o022:
        yield Check("engine cache", "folder", FAULT, f"{text}: others may write there: chmod 700 {folder}", facts)
    elif free < 2**30:
        yield Check("engine cache", "folder", FAULT, f"{text}: only {free / 2**20:.0f} MiB free on its disk", facts)
    else:
        yield Check("engine cache", "folder", OK, f"{text}, {free / 2**30:.0f} GiB free", facts)
