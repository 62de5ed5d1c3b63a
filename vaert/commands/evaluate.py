"""`vaert evaluate`: a thin door to `vaert.evaluate` and `vaert.evaluate_digits`, by the kind of the model."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaert.commands.extras import needs_extra
from vaert.commands.options import FiniteRange
from vaert.commands.report import say, show_json
from vaert.errors import ModelError, OptionError

if TYPE_CHECKING:
    from vaert.evaluate import Evaluation
    from vaert.evaluate_digits import DigitEvaluation

_FOLDER = click.Path(file_okay=False, path_type=Path)


def _qualities(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Return a comma-separated list as qualities in 1..100, in the order given, or fail as a usage error."""
    one = FiniteRange(1, 100)
    return None if value is None else tuple(one.convert(item.strip(), param, ctx) for item in value.split(","))


@click.command()
@click.argument("model")
@click.option("--images", type=_FOLDER, help="Folder of pictures, for a photo model.")
@click.option("--data", type=_FOLDER, help="Folder with the IDX files of MNIST, for a model of digits.")
@click.option("--qualities", metavar="LIST", callback=_qualities, help="Qualities to measure, for example 10,30,60,90.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw what was found to this PNG.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def evaluate(
    model: str,
    images: Path | None,
    data: Path | None,
    qualities: tuple[float, ...] | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure MODEL on pictures that it was not trained on (needs `pip install 'vaert[eval]'`).

    A photo model: rate and distortion over the folder --images, beside JPEG and published curves, which hold for the
    24 Kodak images alone. A model of digits: likelihood (ELBO, NLL) and reconstruction over the test digits in --data.
    """
    from vaert.package import CODEC, DIGITS, find_package

    manifest = find_package(model).manifest
    report: Evaluation | DigitEvaluation
    if manifest.kind == CODEC:
        folder = _wanted(model, manifest.kind, wanted=("--images", images), others={"--data": data})
        report = _photos(model, folder, qualities=qualities, plot=plot)
    elif manifest.kind == DIGITS:
        others = {"--images": images, "--qualities": qualities}
        folder = _wanted(model, manifest.kind, wanted=("--data", data), others=others)
        report = _digits(model, folder, plot=plot)
    else:
        raise ModelError(f"model {model} is of kind {manifest.kind}, expected {CODEC} or {DIGITS}: nothing measures it")
    if as_json:
        show_json(report.to_dict())
    else:
        for line in report.lines():
            say(line)


def _wanted(model: str, kind: str, *, wanted: tuple[str, Path | None], others: Mapping[str, object]) -> Path:
    """The folder that this kind of model is measured on; OptionError if it or any of `others` was given wrongly."""
    option, folder = wanted
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise OptionError(f"{' and '.join(given)} cannot be used with {model}, a model of kind {kind}: give {option}")
    if folder is None:
        raise OptionError(f"model {model} is of kind {kind}, expected {option} DIR to measure it on")
    return folder


def _photos(model: str, images: Path, *, qualities: tuple[float, ...] | None, plot: Path | None) -> "Evaluation":
    modules = ("PIL", "scipy", "matplotlib") if plot else ("PIL", "scipy")
    with needs_extra("vaert evaluate", extra="eval", modules=modules), _progress("images") as progress:
        from vaert.evaluate import evaluate as run

        return run(model, images, qualities=qualities, plot=plot, progress=progress)


def _digits(model: str, data: Path, *, plot: Path | None) -> "DigitEvaluation":
    modules = ("matplotlib",) if plot else ()
    with needs_extra("vaert evaluate --plot", extra="eval", modules=modules), _progress("digits") as progress:
        from vaert.evaluate_digits import evaluate_digits

        return evaluate_digits(model, data, plot=plot, progress=progress)


@contextmanager
def _progress(things: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show how many `things` are done, on a terminal only, and leave nothing of it behind."""
    if not (sys.stderr.isatty() and os.environ.get("TERM") != "dumb"):
        yield None
        return
    clear = "\r\x1b[K"
    try:
        yield lambda done, total: click.echo(f"{clear}{_bar(done, total)} {done}/{total} {things}", nl=False, err=True)
    finally:
        click.echo(clear, nl=False, err=True)


def _bar(done: int, total: int, *, width: int = 30) -> str:
    filled = width * done // total
    return f"[{'#' * filled}{'-' * (width - filled)}]"
