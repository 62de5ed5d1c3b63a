"""What `vaert doctor` says: one check a line, for people and as JSON."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OK, FAULT, ABSENT, NOTE = "OK", "FAULT", "absent", "note"
"""Right; wrong, with what would help; not there, with the command that would bring it; neither right nor wrong."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. facts: what JSON says beside the text; seconds: how long it took."""

    section: str
    name: str
    status: str
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def line(self) -> str:
        """For people, one line."""
        return f"{self.status:<6}  {self.section:<12}  {self.name}: {' '.join(self.text.split())}"

    def to_dict(self) -> dict[str, Any]:
        """The same as types that JSON knows."""
        return {
            "section": self.section,
            "name": self.name,
            "status": self.status,
            "text": self.text,
            "facts": dict(self.facts),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Diagnosis:
    """All checks, in the order they were made."""

    checks: tuple[Check, ...]

    @property
    def faults(self) -> tuple[Check, ...]:
        """What is wrong."""
        return tuple(check for check in self.checks if check.status == FAULT)

    @property
    def verdict(self) -> str:
        """One line."""
        if not self.faults:
            return "every backend that is installed is right"
        first = self.faults[0]
        return f"{len(self.faults)} of {len(self.checks)} checks found a fault, first {first.section}, {first.name}"

    def to_dict(self) -> dict[str, Any]:
        """The same as types that JSON knows."""
        checks = [check.to_dict() for check in self.checks]
        return {"ok": not self.faults, "verdict": self.verdict, "checks": checks}


def described(error: BaseException) -> str:
    """The words of an error, the errors it came from, and the last line of code of ours and of all."""
    words: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(words) < 4:
        words.append(f"{type(seen).__name__}: {' '.join(str(seen).split())}".removesuffix(": "))
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return f"{', because of '.join(words)} ({_where(error)})"


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "no traceback"
    ours = [frame for frame in frames if "vaert" in frame.filename or Path(frame.filename).parent.name == "backends"]
    shown = [frames[-1]] if not ours or ours[-1] is frames[-1] else [ours[-1], frames[-1]]
    return ", then ".join(f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in shown)
