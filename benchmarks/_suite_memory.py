"""Peak memory of this process while something runs, on the host and on the GPU."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Memory:
    """What was in use when measuring began; None where the system does not tell."""

    before: int | None

    @staticmethod
    def begin() -> Memory:
        """Forget the peak so far."""
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM: proc(5)
        except OSError:
            return Memory(None)
        return Memory(status("VmRSS"))

    def facts(self) -> dict[str, Any]:
        """Peak resident set of the whole process, what of it was there before, and memory on the GPU, in bytes."""
        found: dict[str, Any] = {"gpu_bytes": gpu_bytes()}
        if self.before is not None:
            found |= {"host_peak_bytes": status("VmHWM"), "host_before_bytes": self.before}
        return found


def status(name: str) -> int | None:
    """A size of /proc/self/status in bytes."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def gpu_bytes() -> int | None:
    """What this process holds on NVIDIA GPUs, as their driver says; None without one."""
    line = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [row.split(",") for row in done.stdout.splitlines() if "," in row]
    own = [size.strip() for pid, size in rows if pid.strip() == str(os.getpid())]
    return sum(int(size) << 20 for size in own if size.isdigit()) if own else None
