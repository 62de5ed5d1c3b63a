"""Outputs are complete or absent, whatever happens to the process, the folder or the disk."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vaert.atomic import check_output, write_atomic
from vaert.errors import OutputError


def only(folder: Path, *names: str) -> bool:
    return sorted(os.listdir(folder)) == sorted(names)


def test_new_file(tmp_path: Path) -> None:
    check_output(tmp_path / "a", force=False)
    write_atomic(tmp_path / "a", b"one", force=False)
    assert (tmp_path / "a").read_bytes() == b"one"
    assert only(tmp_path, "a")


def test_existing_file_needs_force(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"exists already: .* --force"):
        check_output(target, force=False)
    with pytest.raises(OutputError, match=r"exists already: .* --force"):
        write_atomic(target, b"new", force=False)
    assert target.read_bytes() == b"old"
    check_output(target, force=True)
    write_atomic(target, b"new", force=True)
    assert target.read_bytes() == b"new"
    assert only(tmp_path, "a")


def test_a_target_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a"
    sync = os.fsync

    def other_process_wins(descriptor: int) -> None:
        sync(descriptor)
        target.write_bytes(b"theirs")

    monkeypatch.setattr(os, "fsync", other_process_wins)
    with pytest.raises(OutputError, match="exists already"):
        write_atomic(target, b"ours", force=False)
    assert target.read_bytes() == b"theirs"
    assert only(tmp_path, "a")


def test_many_writers_one_winner(tmp_path: Path) -> None:
    target = tmp_path / "a"
    refused: list[int] = []

    def work(number: int) -> None:
        try:
            write_atomic(target, bytes([number]) * 1000, force=False)
        except OutputError:
            refused.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    (winner,) = set(range(8)) - set(refused)
    assert target.read_bytes() == bytes([winner]) * 1000
    assert only(tmp_path, "a")


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", no_link)
    write_atomic(tmp_path / "a", b"one", force=False)
    with pytest.raises(OutputError, match="exists already"):
        write_atomic(tmp_path / "a", b"two", force=False)
    assert (tmp_path / "a").read_bytes() == b"one"
    assert only(tmp_path, "a")


@pytest.mark.parametrize("force", [False, True])
def test_folder_problems(tmp_path: Path, force: bool) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_atomic(tmp_path / "folder", b"", force=force)
    with pytest.raises(OutputError, match="missing does not exist: create it first"):
        write_atomic(tmp_path / "missing" / "a", b"", force=force)
    with pytest.raises(OutputError, match="missing does not exist: create it first"):
        check_output(tmp_path / "missing" / "a", force=force)
    with pytest.raises(OutputError, match="not a usable file name"):
        check_output("a\0b", force=force)
    assert only(tmp_path, "folder")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere, so ask the answer itself
    with pytest.raises(OutputError, match="no permission to write in the folder"):
        check_output(tmp_path / "a", force=False)


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_failures_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")

    def fail(_: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    expected = OutputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_atomic(target, b"new", force=True)
    if isinstance(failure, OSError):
        assert str(caught.value) == f"{target}: cannot be written: No space left on device"
    assert target.read_bytes() == b"old"
    assert only(tmp_path, "a")


def test_permission_bits(tmp_path: Path) -> None:
    target = tmp_path / "a"
    before = os.umask(0o027)
    try:
        write_atomic(target, b"one", force=False)
        assert stat.S_IMODE(target.stat().st_mode) == 0o640
        target.chmod(0o604)
        write_atomic(target, b"two", force=True)
        assert stat.S_IMODE(target.stat().st_mode) == 0o604
    finally:
        os.umask(before)


def test_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(OutputError, match="exists already"):
        write_atomic(tmp_path / "link", b"new", force=False)
    write_atomic(tmp_path / "link", b"new", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    (tmp_path / "dangling").symlink_to("later")
    write_atomic(tmp_path / "dangling", b"there", force=False)
    assert (tmp_path / "later").read_bytes() == b"there"
    assert only(tmp_path, "real", "link", "dangling", "later")


def test_special_files(tmp_path: Path) -> None:
    check_output(os.devnull, force=False)
    write_atomic(os.devnull, b"gone", force=False)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_atomic(pipe, b"through", force=False)
    reader.join()
    assert read == [b"through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_disk_full() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OutputError, match="/dev/full: cannot be written: No space left on device"):
        write_atomic("/dev/full", b"x", force=True)


def test_standard_output() -> None:
    code = "from vaert.atomic import write_atomic; write_atomic('/dev/stdout', b'through', force=False)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"through"


LOOP = """
import sys
from vaert.atomic import write_atomic
print(flush=True)
while True:
    for letter in b"ab":
        write_atomic(sys.argv[1], bytes([letter]) * 200_000, force=True)
"""


def test_killed_writers_leave_old_or_new(tmp_path: Path) -> None:
    target = tmp_path / "a"
    whole = {bytes([letter]) * 200_000 for letter in b"ab"}
    target.write_bytes(b"a" * 200_000)
    for round_number in range(8):
        with subprocess.Popen([sys.executable, "-c", LOOP, str(target)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.01 + 0.003 * round_number)
            process.send_signal(signal.SIGKILL)
        assert target.read_bytes() in whole
        assert all(
            name == "a" or (name.startswith(".vaert-") and name.endswith(".tmp")) for name in os.listdir(tmp_path)
        )
