"""What commands tell people and programs: single lines on standard error, JSON on standard output."""

import json
import os
import sys
from collections.abc import Mapping, Sequence

import click

STREAM = "-"


def one_line(text: str) -> str:
    """Return `text` on one line, with control characters (file names may hold any) shown as escapes."""
    joined = " ".join(text.split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in joined)


def say(text: str) -> None:
    """Print one line on standard error."""
    click.echo(one_line(text), err=True)


def warn(text: str) -> None:
    """Print `vaert: warning: ...` on standard error."""
    say(f"vaert: warning: {text}")


def show_json(report: Mapping[str, object] | Sequence[Mapping[str, object]], *, output: str = "") -> None:
    """Print a report as JSON on standard output, or on standard error where the output itself goes to `-`."""
    # ASCII escapes keep this valid JSON in every locale, also for file names that are not UTF-8.
    click.echo(json.dumps(report, indent=2), err=output == STREAM)


def grouped(number: int) -> str:
    """Return a whole number in groups of three digits: 23456 becomes `23 456`."""
    return f"{number:,}".replace(",", " ")


def stdout_is_terminal() -> bool:
    """Tell whether standard output is a terminal, which binary data would only garble."""
    try:
        return os.isatty(sys.stdout.fileno())
    except (OSError, ValueError):  # replaced or closed by the caller
        return False
