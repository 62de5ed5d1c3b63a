"""Promise 2, writing: a command that is stopped at any moment leaves the old output or the whole new one."""

from __future__ import annotations

import fnmatch
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from vaert import bitstream
from vaert.image import read_image

# Stops itself, from a timer, so that the moment does not depend on how busy the machine is with starting Python: the
# clock starts once the slow imports are over.
CHILD = """
import signal, sys
import vaert.runtime.codec, vaert.image, cv2, onnxruntime
from vaert.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.argv[1] == "KILL":
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process at once, as SIGKILL does
else:
    signal.signal(signal.SIGALRM, lambda number, frame: signal.raise_signal(signal.SIGINT))
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2]))
code = main(sys.argv[3:])
signal.setitimer(signal.ITIMER_REAL, 0)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture, its file, and how each command's output looks when nobody stops it."""
    path = tmp_path_factory.mktemp("stopping")
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 256, (30, 40, 3), np.uint8), (400, 300))
    assert cv2.imwrite(str(path / "in.png"), pixels)
    run("compress", path / "in.png", path / "in.vaert")
    run("decompress", path / "in.vaert", path / "whole.png")
    return path


def run(command: str, source: Path, target: Path) -> None:
    line = [sys.executable, "-P", "-m", "vaert", command, str(source), str(target), "-q", "--threads", "1"]
    subprocess.run(line, check=True, timeout=60)


def whole(command: str) -> str:
    return "in.vaert" if command == "compress" else "whole.png"


def check(out: Path, *, old: bytes, new: bytes) -> bool:
    """Assert that the output is whole and nothing but known leftovers lies beside it; whether it is the new one."""
    found = out.read_bytes()
    assert found in (old, new)
    others = [name for name in os.listdir(out.parent) if name != out.name]
    assert all(fnmatch.fnmatch(name, ".vaert-*.tmp") for name in others), others
    return found == new


@pytest.mark.parametrize("command", ["compress", "decompress"])
@pytest.mark.parametrize("name", ["INT", "KILL"])
def test_stopped_at_any_moment(folder: Path, tmp_path: Path, command: str, name: str) -> None:
    source = folder / ("in.png" if command == "compress" else "in.vaert")
    new = (folder / whole(command)).read_bytes()
    ending = ".vaert" if command == "compress" else ".png"
    outcomes = set()
    draw = random.Random(f"{command} {name}")
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        out = tmp_path / str(number) / f"out{ending}"
        out.write_bytes(b"old")
        seconds = draw.uniform(0.01, 0.2) if number else 0.002  # the first one always comes in time
        line = [sys.executable, "-P", "-c", CHILD, name, str(seconds), command, str(source), str(out), "-f", "-q"]
        done = subprocess.run(line, capture_output=True, check=False, timeout=60)
        replaced = check(out, old=b"old", new=new)
        outcomes.add(done.returncode)
        if name == "INT":
            assert done.returncode in (0, 130)
            if done.returncode == 130:
                assert done.stderr == b"vaert: error: interrupted\n"
            assert [p.name for p in out.parent.iterdir()] == [out.name]  # an interrupted command cleans up
        else:
            assert done.returncode in (0, -signal.SIGALRM)
        assert replaced or done.returncode != 0
    assert outcomes & {130, -signal.SIGALRM}  # at least one was stopped in time


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_killed_while_it_writes(folder: Path, tmp_path: Path, command: str) -> None:
    """Real SIGKILLs, as soon as the temporary file shows: between the first byte and the rename."""
    source = folder / ("in.png" if command == "compress" else "in.vaert")
    new = (folder / whole(command)).read_bytes()
    out = tmp_path / ("out.vaert" if command == "compress" else "out.png")
    out.write_bytes(b"old")
    line = [sys.executable, "-P", "-m", "vaert", command, str(source), str(out), "-f", "-q"]
    with subprocess.Popen(line, stderr=subprocess.PIPE) as process:
        limit = time.monotonic() + 60
        while process.poll() is None and len(os.listdir(tmp_path)) == 1 and time.monotonic() < limit:
            pass  # the file lives for about a millisecond
        process.kill()
    check(out, old=b"old", new=new)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_before_the_rename(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Stopped with certainty while the temporary file lies there, whole, and the old output is still in place."""
    out = tmp_path / "out.vaert"
    out.write_bytes(b"old")
    child = (
        "import os, sys\nfrom vaert.cli import main\n"
        f"os.fsync = lambda descriptor: os.kill(os.getpid(), {int(number)})\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    line = [sys.executable, "-P", "-c", child, "compress", str(folder / "in.png"), str(out), "-f", "-q"]
    done = subprocess.run(line, capture_output=True, check=False, timeout=60)
    assert done.returncode == (130 if number is signal.SIGINT else -number)
    assert out.read_bytes() == b"old"
    left = [name for name in os.listdir(tmp_path) if name != "out.vaert"]
    assert len(left) == (0 if number is signal.SIGINT else 1)
    assert all(fnmatch.fnmatch(name, ".vaert-*.tmp") for name in left)
    run_over = [*line[:2], "-m", "vaert", "compress", str(folder / "in.png"), str(out), "-f", "-q", "--threads", "1"]
    subprocess.run(run_over, check=True, timeout=60)  # what was left behind is in nobody's way
    assert out.read_bytes() == (folder / "in.vaert").read_bytes()


def test_the_fixture_is_whole(folder: Path) -> None:
    assert bitstream.inspect((folder / "in.vaert").read_bytes()).ok
    picture = read_image((folder / "whole.png").read_bytes(), name="whole.png", max_pixels=2**20)
    assert picture.pixels.shape == (300, 400, 3)
