"""CompressAI from this side: where it is, and its networks as processes that answer with times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from vaert.evaluate import Pixels

WORKER = Path(__file__).with_name("_compressai_worker.py")
VARIABLE = "COMPRESSAI_PYTHON"
HOW = f"set {VARIABLE} to the Python of an environment with it: docs/dependencies.md"


class Peer:
    """A network's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.facts: dict[str, Any] = self._read()

    def ask(self, action: str, number: int) -> Any:
        """Nanoseconds that `compress` or `decompress` of a picture took there, or what `check` found."""
        assert self._process.stdin is not None
        print(action, number, file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> Any:
        line = self._process.stdout.readline() if self._process.stdout else ""
        assert line, "CompressAI's process ended; its message is above"
        return json.loads(line)


@cache
def python() -> tuple[str, str]:
    """The Python that has CompressAI, and why there is none: one of the two is empty."""
    given = os.environ.get(VARIABLE, "")
    if not given:
        if find_spec("compressai") is not None:
            return sys.executable, ""
        return "", f"CompressAI, which needs numpy below 2, is not installed: {HOW}"
    line = [given, "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('compressai') is None)"]
    try:
        done = subprocess.run(line, env=_environment(), capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"{VARIABLE} cannot be run ({type(error).__name__}): {HOW}"
    return (given, "") if done.returncode == 0 else ("", f"the Python of {VARIABLE} has no CompressAI: {HOW}")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@contextmanager
def peer(network: str, pictures: Sequence[Pixels], *, quality: int, threads: int) -> Iterator[Peer]:
    """Start a network of CompressAI's zoo with pictures of one size, sides multiples of 64, and end it afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder, "pictures.npy")
        np.save(stored, np.stack(pictures))
        line = [python()[0], str(WORKER), "--network", network.replace("-", "_"), "--pictures", str(stored)]
        line += ["--threads", str(threads), "--quality", str(quality)]
        process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, text=True, env=_environment()
        )
        try:
            yield Peer(process)
        finally:
            if process.stdin:
                process.stdin.close()
            process.wait(timeout=300)
            if process.stdout:
                process.stdout.close()
