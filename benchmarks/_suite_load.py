"""How much of the machine other processes used meanwhile: what tells a disturbed figure from a slow one."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

DISTURBED = 0.1  # cores in use by others from which a bar is left open


@dataclass(frozen=True)
class Load:
    """Seconds of processor time when measuring began: of everybody, and of this process with what it waited for."""

    wall: float
    everybody: float | None
    own: float

    @staticmethod
    def begin() -> Load:
        """Now."""
        times = os.times()
        return Load(time.perf_counter(), _everybody(), sum(times[:4]))

    def others_cores(self) -> float | None:
        """Cores that others kept busy since then, on average; None where the system does not tell."""
        now = Load.begin()
        if self.everybody is None or now.everybody is None or now.wall <= self.wall:
            return None
        others = now.everybody - self.everybody - (now.own - self.own)
        return round(max(0.0, others / (now.wall - self.wall)), 3)


def _everybody() -> float | None:
    """Processor time that was not idle, of all cores since the system started: proc(5)."""
    try:
        fields = Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
