"""Progress on a terminal: how many of a known number of things are done."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

_CLEAR = "\r\x1b[K"
_WIDTH = 30


@contextmanager
def progress_bar(what: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None] | None]:
    """Give a function that draws (done, total), or None where standard error is no terminal; nothing of it stays.

    Args:
        what: what is counted, for example "images".
        shown: whether there is anything to show at all.
    """
    if not (shown and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"):
        yield None
        return
    try:
        yield lambda done, total: click.echo(f"{_CLEAR}{_bar(done, total)} {done}/{total} {what}", nl=False, err=True)
    finally:
        click.echo(_CLEAR, nl=False, err=True)


def _bar(done: int, total: int) -> str:
    filled = _WIDTH * done // total
    return f"[{'#' * filled}{'-' * (_WIDTH - filled)}]"
