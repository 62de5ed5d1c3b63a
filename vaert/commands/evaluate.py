"""`vaert evaluate`: a thin door to `vaert.evaluate`."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from vaert.commands.extras import needs_extra
from vaert.commands.options import FiniteRange
from vaert.commands.report import say, show_json


def _qualities(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Return a comma-separated list as qualities in 1..100, in the order given, or fail as a usage error."""
    one = FiniteRange(1, 100)
    return None if value is None else tuple(one.convert(item.strip(), param, ctx) for item in value.split(","))


@click.command()
@click.argument("model")
@click.option("--images", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of pictures.")
@click.option("--qualities", metavar="LIST", callback=_qualities, help="Qualities to measure, for example 10,30,60,90.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the curve to this PNG.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def evaluate(model: str, images: Path, qualities: tuple[float, ...] | None, plot: Path | None, as_json: bool) -> None:
    """Measure rate and distortion of MODEL over a folder of images (needs `pip install 'vaert[eval]'`).

    The published curves that it compares with hold for the 24 Kodak images alone.
    """
    modules = ("PIL", "scipy", "matplotlib") if plot else ("PIL", "scipy")
    with needs_extra("vaert evaluate", extra="eval", modules=modules), _progress() as progress:
        from vaert.evaluate import evaluate as run

        report = run(model, images, qualities=qualities, plot=plot, progress=progress)
    if as_json:
        show_json(report.to_dict())
    else:
        for line in report.lines():
            say(line)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """Show how many images are done, on a terminal only, and leave nothing of it behind."""
    if not (sys.stderr.isatty() and os.environ.get("TERM") != "dumb"):
        yield None
        return
    clear = "\r\x1b[K"
    try:
        yield lambda done, total: click.echo(f"{clear}{_bar(done, total)} {done}/{total} images", nl=False, err=True)
    finally:
        click.echo(clear, nl=False, err=True)


def _bar(done: int, total: int, *, width: int = 30) -> str:
    filled = width * done // total
    return f"[{'#' * filled}{'-' * (width - filled)}]"
