"""Inputs and outputs of commands: paths, `-` for the standard streams, bounds before bytes are read."""

import errno
import sys
from typing import BinaryIO

from vaert.commands.report import STREAM, stdout_is_terminal
from vaert.errors import OutputError, VaertError

# An input holds at most 16-bit RGBA, 8 bytes for each pixel, beside profiles and other metadata of at most 64 MiB. The
# bound stops endless inputs (/dev/zero, a pipe that never closes); too many pixels are refused by the readers.
_BYTES_PER_PIXEL = 8
_METADATA_BYTES = 2**26


def read_input(path: str, *, max_pixels: int, error: type[VaertError]) -> bytes:
    """Read a whole file, or standard input for `-`.

    Args:
        path: a file's path or `-`.
        max_pixels: bound on the picture's size, from which the bound on bytes follows.
        error: raised, in one line, when `path` is missing, a folder, unreadable or too large.
    """
    limit = max_pixels * _BYTES_PER_PIXEL + _METADATA_BYTES
    try:
        if path == STREAM:
            data = _read_at_most(sys.stdin.buffer, limit)
        else:
            with open(path, "rb") as stream:
                data = _read_at_most(stream, limit)
    except IsADirectoryError as exc:
        raise error(f"{path} is a folder, expected one file: run the command once for each file in it") from exc
    except OSError as exc:
        raise error(f"cannot read {path}: {_reason(exc)}") from exc
    if len(data) > limit:
        raise error(
            f"{path} has more than {limit} bytes, the bound that --max-pixels {max_pixels} sets: raise --max-pixels"
        )
    return data


def _read_at_most(stream: BinaryIO, limit: int) -> bytes:
    """Read to the end, or to one byte beyond `limit`; memory grows with what arrives, never with the limit."""
    parts: list[bytes] = []
    total = 0
    while total <= limit and (part := stream.read(min(2**20, limit + 1 - total))):
        parts.append(part)
        total += len(part)
    return b"".join(parts)


def _reason(exc: OSError) -> str:
    if exc.errno == errno.ENOENT:
        return "no such file; check the path"
    return f"{exc.strerror or exc}"


def check_target(path: str, *, force: bool) -> None:
    """Refuse an output that could not be written later, before any work is done.

    Raises:
        OutputError: the file exists and `force` is off, its folder is missing, or `-` is a terminal.
    """
    if path != STREAM:
        from vaert.atomic import check_output

        check_output(path, force=force)
    elif stdout_is_terminal():
        raise OutputError(
            "standard output is a terminal, expected a file or a pipe: name a file, or add `> FILE` or `| PROGRAM`"
        )


def write_output(path: str, data: bytes, *, force: bool) -> None:
    """Write a finished output: whole or not at all for a file, binary and nothing else for `-`.

    Raises:
        OutputError: the file exists and `force` is off, or it cannot be written.
    """
    if path != STREAM:
        from vaert.atomic import write_atomic

        write_atomic(path, data, force=force)
        return
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as exc:
        if isinstance(exc, BrokenPipeError):
            raise
        raise OutputError(f"cannot write standard output: {exc.strerror or exc}") from exc
