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


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """Give a function that shows one line of text, "" for none, where standard error is a terminal; nothing stays."""
    shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def show(text: str) -> None:
        if shown:
            click.echo(f"{_CLEAR}{text}", nl=False, err=True)

    try:
        yield show
    finally:
        show("")


def engine_progress() -> Callable[[int, int], None] | None:
    """A function that draws (done, total) of an engine that is built and clears the line at the end; None as above.

    Engines are built when they are first needed, so there is no block that it could belong to.
    """
    if not (sys.stderr.isatty() and os.environ.get("TERM") != "dumb"):
        return None

    def draw(done: int, total: int) -> None:
        text = "" if done >= total else f"{_bar(done, total)} building an engine, once"
        click.echo(f"{_CLEAR}{text}", nl=False, err=True)

    return draw


def _bar(done: int, total: int) -> str:
    filled = _WIDTH * done // total
    return f"[{'#' * filled}{'-' * (_WIDTH - filled)}]"
