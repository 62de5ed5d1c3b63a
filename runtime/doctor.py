"""`vaert doctor`: everything that can be wrong with this installation, each thing looked at on its own.

Native libraries are asked in processes of their own, so a crash or a hang there is a fault in words like any other.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from vaert.runtime.doctor_report import ABSENT, FAULT, Check, Diagnosis
from vaert.runtime.doctor_system import ended, isolated, system_checks, version_of
from vaert.runtime.doctor_worker import UNAVAILABLE

if TYPE_CHECKING:  # even numpy may be broken: this process imports nothing that could be
    from vaert.runtime.backends.selection import Engine

LIMIT = 1800.0  # seconds for one check: it may build several engines
CHECKS = (
    "known answers",
    "random integers",
    "transforms",
    "files",
    "models",
    "sizes in turn",
    "threads",
    "CUDA graphs",
    "engine build",
    "precision",
    "latency",
    "closing",
)
OWN = {"cpu": ("onnxruntime", "onnxruntime-gpu"), "cuda": ("onnxruntime-gpu",), "tensorrt": ("tensorrt",)}
"""Distributions by backend: where one of them is installed and the backend cannot be used, that is a fault."""


@dataclass(frozen=True)
class Orders:
    """What to do with every backend.

    packages: folders of packages whose outputs are held against their fp32 reference's. limit: seconds for one check;
    what takes longer is a fault. doing: called with a backend's name and that of a check before it is made.
    """

    packages: Sequence[str] = ()
    limit: float = LIMIT
    doing: Callable[[str, str], None] = lambda backend, check: None


def diagnose(orders: Orders | None = None, *, said: Callable[[Check], None] | None = None) -> Diagnosis:
    """Look at everything. said: called with each check as soon as it is made."""
    checks: list[Check] = []
    for check in _all(orders or Orders()):
        checks.append(check)
        if said is not None:
            said(check)
    return Diagnosis(tuple(checks))


def _all(orders: Orders) -> Iterator[Check]:
    yield from system_checks()
    yield from isolated("backends", partial(_backends, orders))


def _backends(orders: Orders) -> Iterator[Check]:
    from vaert.runtime.backends.selection import ENGINES

    for engine in reversed(ENGINES):
        yield from isolated(engine.name, partial(_backend, engine, orders))


def _backend(engine: Engine, orders: Orders) -> Iterator[Check]:
    """All checks of one backend; what is left after a crash is done in a new process."""
    left = list(CHECKS)
    first = True
    while left:
        done = False
        for answer in _answers(engine, left, orders):
            name, status = answer["name"], answer["status"]
            if name == "made" and status == UNAVAILABLE:
                yield _unavailable(engine, answer["text"])
                return
            if name not in ("start", "made") or first or status == FAULT:
                yield Check(engine.name, name, status, answer["text"], answer["facts"], answer["seconds"])
            if name in left:
                del left[: left.index(name) + 1]
                done = True
            elif status == FAULT:
                return  # it cannot even be made
        first = False
        if not done:
            return


def _unavailable(engine: Engine, reason: str) -> Check:
    """A fault if its own library is installed and a GPU is there for it, otherwise it is simply not there."""
    from vaert.runtime.backends.selection import driver_missing

    installed = [name for name in OWN.get(engine.name, ()) if version_of(name)]
    if installed and not (engine.gpu and driver_missing()):
        return Check(engine.name, "made", FAULT, f"{installed[0]} is installed but cannot be used: {reason}")
    return Check(engine.name, "made", ABSENT, reason)


def _answers(engine: Engine, checks: Sequence[str], orders: Orders) -> Iterator[dict[str, Any]]:
    """Answers of one process, ending with a fault for what it was doing when it crashed or took too long."""
    request = {
        "engine": [engine.name, engine.module, engine.factory, engine.gpu],
        "checks": list(checks),
        "packages": [os.fspath(package) for package in orders.packages],
    }
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors, _worker(errors) as process:
        assert process.stdin is not None  # for the type checker
        with contextlib.suppress(BrokenPipeError):  # it has ended already: its exit code tells
            process.stdin.write(json.dumps(request))
            process.stdin.close()
        doing, lines = "start", _Lines(process)
        while (line := lines.next(orders.limit)) is not None:
            message: dict[str, Any] = json.loads(line)
            if "start" in message:
                doing = message["start"]
                orders.doing(engine.name, doing)
            else:
                doing = ""
                yield message
        if lines.late:
            text = f"took longer than {orders.limit:g} s and was ended"
        elif (code := process.wait()) or doing:
            text = f"the process ended with {ended(code)} instead of an answer"
        else:
            return
        yield {"name": doing or "end", "status": FAULT, "text": text + _last_words(errors), "facts": {}, "seconds": 0.0}


@contextlib.contextmanager
def _worker(errors: IO[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that answers requests, in a group of its own, which ends with it."""
    command = [sys.executable, "-P", "-X", "faulthandler", "-m", "vaert.runtime.doctor_worker"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class _Lines:
    """Lines of a process's output, waited for no longer than a limit each."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.late = False
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        assert process.stdout is not None  # for the type checker
        threading.Thread(target=self._read, args=(process.stdout,), daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        with contextlib.suppress(ValueError, OSError):  # closed meanwhile
            for line in stream:
                self._lines.put(line)
        self._lines.put(None)

    def next(self, limit: float) -> str | None:
        """The next line; None at the end, or if it is `late`."""
        try:
            return self._lines.get(timeout=limit)
        except queue.Empty:
            self.late = True
            return None


def _last_words(errors: IO[str]) -> str:
    """What the process said last on standard error; of Python's own report of a crash, where it was."""
    errors.seek(0)
    lines = [line.strip() for line in errors.read().splitlines() if line.strip()]
    crash = next((number for number, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
    if crash is None:
        words = lines[-3:]
    else:
        place = [line for line in lines[crash:] if line.startswith("File ")][:2]
        words = [*lines[max(0, crash - 2) : crash + 1], *place]
    return f"; it said last: {' | '.join(words)}" if words else ""
