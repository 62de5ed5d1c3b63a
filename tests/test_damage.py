"""Promise 2, reading: every wrong, cut or hostile file is one line on standard error, exit 1 and no output."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vaert import bitstream
from vaert.cli import main
from vaert.runtime.codec import Codec

OLD = b"what was there before"
FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def picture(channels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    y, x = np.mgrid[0:70, 0:90]
    planes = [(x * (3 + c) + y * (5 - c)) % 256 for c in range(channels)]
    return np.stack(planes, -1).astype(np.uint8)


@pytest.fixture(scope="module")
def files() -> dict[int, bytes]:
    """By number of channels; RGBA has all kinds of sections."""
    codec = Codec("fast", threads=1)
    return {channels: codec.compress(picture(channels), 30) for channels in (3, 4)}


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[[bytes], str]:
    """Assert that a file is refused as promised, and return the error."""
    source, fresh, existing = tmp_path / "in.vaert", tmp_path / "fresh.png", tmp_path / "existing.png"

    def check(data: bytes) -> str:
        source.write_bytes(data)
        existing.write_bytes(OLD)
        message = ""
        for target, more in ((fresh, []), (existing, ["--force"])):
            capfd.readouterr()
            assert main(["decompress", str(source), str(target), "--threads", "1", *more]) == 1
            out, err = capfd.readouterr()
            assert out == ""
            assert err.startswith("vaert: error: ")
            assert err.count("\n") == 1
            assert err.endswith("\n")
            assert "internal error" not in err
            message = err
        assert existing.read_bytes() == OLD
        assert sorted(os.listdir(tmp_path)) == ["existing.png", "in.vaert"]
        return message

    return check


def test_the_whole_files_are_accepted(files: dict[int, bytes], tmp_path: Path) -> None:
    for channels, data in files.items():
        (tmp_path / "in.vaert").write_bytes(data)
        assert main(["decompress", str(tmp_path / "in.vaert"), str(tmp_path / f"{channels}.png"), "-q"]) == 0
        assert (tmp_path / f"{channels}.png").stat().st_size > 100


@FUZZ
@given(draw=st.data())
def test_flipped_bits(files: dict[int, bytes], refused: Callable[[bytes], str], draw: st.DataObject) -> None:
    data = bytearray(files[draw.draw(st.sampled_from([3, 4]))])
    for bit in draw.draw(st.sets(st.integers(0, 8 * len(data) - 1), min_size=1, max_size=3)):
        data[bit // 8] ^= 1 << bit % 8
    refused(bytes(data))


@FUZZ
@given(draw=st.data())
def test_cut_files(files: dict[int, bytes], refused: Callable[[bytes], str], draw: st.DataObject) -> None:
    data = files[draw.draw(st.sampled_from([3, 4]))]
    refused(data[: draw.draw(st.integers(0, len(data) - 1))])


@FUZZ
@given(draw=st.data())
def test_overwritten_removed_and_inserted_bytes(
    files: dict[int, bytes], refused: Callable[[bytes], str], draw: st.DataObject
) -> None:
    data = files[draw.draw(st.sampled_from([3, 4]))]
    start = draw.draw(st.integers(0, len(data)))
    stop = min(len(data), start + draw.draw(st.integers(0, 40)))
    changed = data[:start] + draw.draw(st.binary(max_size=40)) + data[stop:]
    if changed != data:
        refused(changed)


@FUZZ
@given(more=st.binary(min_size=1, max_size=50))
def test_appended_bytes(files: dict[int, bytes], refused: Callable[[bytes], str], more: bytes) -> None:
    refused(files[3] + more)


def test_two_files_in_one(files: dict[int, bytes], refused: Callable[[bytes], str]) -> None:
    refused(files[3] + files[3])
    refused(files[3][:-20] + files[4])


@pytest.mark.parametrize("data", [b"", b"\0", b"hello\n", "día\n".encode() * 99, b"\x89PNG\r\n\x1a\n", bytes(5000)])
def test_files_of_other_kinds(refused: Callable[[bytes], str], data: bytes) -> None:
    assert "not a vaert file" in refused(data)


def with_header(data: bytes, **fields: Any) -> bytes:
    """The file with header fields changed, its checksum made right."""
    names = ("magic", "version", "kind", "flags", "model_id", "width", "height", "channels", "quality")
    values = dict(zip(names, struct.unpack_from("<8sHBBQIIBH", data), strict=True)) | fields
    head = struct.pack("<8sHBBQIIBH", *values.values())
    return head + struct.pack("<I", zlib.crc32(head)) + data[35:]


def emptied(data: bytes) -> bytes:
    """A well-formed file of the header's size in which every payload is empty."""
    header = bitstream.read_header(data)
    groups = bitstream.group_grid(header.width, header.height)
    latents = tuple(bitstream.Latents(group.index, 0, b"", b"") for group in groups)
    return bitstream.write(bitstream.PhotoStream(header, bitstream.Hyper(0, b""), latents, None))


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a thousand thousand thousand pixels": (lambda d: with_header(d, width=2**31, height=2**31), "--max-pixels"),
    "one long row": (lambda d: with_header(d, width=2**32 - 1, height=1), "--max-pixels"),
    "several groups, one section": (lambda d: with_header(d, width=4096, height=4096), "expected LATENTS"),
    "many groups, empty sections": (lambda d: emptied(with_header(d, width=16384, height=16384)), "damaged hyper"),
    "many groups in a row": (lambda d: with_header(d, width=2**28, height=1), "at least"),
    "no pixels": (lambda d: with_header(d, width=0), "0x70"),
    "another picture size": (lambda d: with_header(d, width=1900, height=2000), "damaged"),
    "one row of latents more": (lambda d: with_header(d, height=129), "damaged"),
    "one row of latents less": (lambda d: with_header(d, height=64), "damaged"),
    "no channels": (lambda d: with_header(d, channels=0), "0 channels"),
    "quality 0": (lambda d: with_header(d, quality=0), "quality 0"),
    "later version": (lambda d: with_header(d, version=2), "version 2"),
    "reserved flags": (lambda d: with_header(d, flags=1), "flags"),
    "digits": (lambda d: with_header(d, kind=2), "digits have 28x28"),
    "down-scaled photo": (lambda d: with_header(d, kind=4), "damaged hyper-latents"),
    "unknown kind": (lambda d: with_header(d, kind=9), "kind 9"),
    "another model": (lambda d: with_header(d, model_id=7), "made by model 0000000000000007"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_with_right_checksums(
    files: dict[int, bytes], refused: Callable[[bytes], str], name: str
) -> None:
    change, text = HOSTILE[name]
    assert text in refused(change(files[3]))


def remade(data: bytes, change: Callable[[bitstream.PhotoStream], bitstream.PhotoStream]) -> bytes:
    """The file with its payloads changed and every section's checksum made right."""
    return bitstream.write(change(bitstream.parse_photo(data)))


@FUZZ
@given(draw=st.data())
def test_changed_words_with_right_checksums(
    files: dict[int, bytes], refused: Callable[[bytes], str], draw: st.DataObject
) -> None:
    """What section checksums cannot catch, the checksum over symbols does."""

    def changed(words: bytes) -> bytes:
        other = bytearray(words)
        other[draw.draw(st.integers(0, len(other) - 1))] ^= draw.draw(st.integers(1, 255))
        return bytes(other)

    def change(stream: bitstream.PhotoStream) -> bitstream.PhotoStream:
        if draw.draw(st.booleans()):
            return replace(stream, hyper=replace(stream.hyper, words=changed(stream.hyper.words)))
        section = stream.latents[0]
        return replace(stream, latents=(replace(section, words=changed(section.words)),))

    assert "damaged" in refused(remade(files[3], change))


@pytest.mark.parametrize("escapes", [b"\0", b"\x80", b"\xff\xff\xff\x7f", b"\0" * 100])
def test_escapes_that_nobody_asked_for(
    files: dict[int, bytes], refused: Callable[[bytes], str], escapes: bytes
) -> None:
    def change(stream: bitstream.PhotoStream) -> bitstream.PhotoStream:
        section = stream.latents[0]
        return replace(stream, latents=(replace(section, escapes=section.escapes + escapes),))

    refused(remade(files[3], change))


def test_words_of_another_picture(files: dict[int, bytes], refused: Callable[[bytes], str]) -> None:
    other = bitstream.parse_photo(Codec("fast", threads=1).compress(picture(3)[::-1].copy(), 60))
    assert "damaged" in refused(remade(files[3], lambda stream: replace(stream, hyper=other.hyper)))
    assert "damaged" in refused(remade(files[3], lambda stream: replace(stream, latents=other.latents)))


def test_damaged_alpha_with_right_checksums(files: dict[int, bytes], refused: Callable[[bytes], str]) -> None:
    def change(stream: bitstream.PhotoStream) -> bitstream.PhotoStream:
        assert stream.alpha is not None
        return replace(stream, alpha=stream.alpha[:80])

    assert "alpha" in refused(remade(files[4], change))


CHILD = """
import json, resource, sys
from vaert.cli import main
code = main(sys.argv[1:])
spent = resource.getrusage(resource.RUSAGE_SELF)
# Not ru_maxrss, which a child inherits from the process that started it.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([code, int(peak.split()[1]) * 1024, spent.ru_utime + spent.ru_stime]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    "name",
    [
        "a thousand thousand thousand pixels",
        "several groups, one section",
        "many groups, empty sections",
        "text",
        "bit",
    ],
)
def test_refusal_takes_little_time_and_memory(files: dict[int, bytes], tmp_path: Path, name: str) -> None:
    if name == "bit":
        data = files[3][:200] + bytes([files[3][200] ^ 1]) + files[3][201:]
    else:
        data = b"some text\n" * 1000 if name == "text" else HOSTILE[name][0](files[3])
    (tmp_path / "in.vaert").write_bytes(data)
    command = [sys.executable, "-P", "-c", CHILD, "decompress", str(tmp_path / "in.vaert"), str(tmp_path / "out.png")]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, check=True, timeout=60, text=True)
    code, memory, seconds = json.loads(done.stdout)
    assert code == 1
    assert done.stderr.startswith("vaert: error: ")
    assert done.stderr.count("\n") == 1
    assert memory < 500e6
    assert seconds < 1  # of the processor: a busy machine does not decide
    assert time.monotonic() - started < 30
    assert not (tmp_path / "out.png").exists()
