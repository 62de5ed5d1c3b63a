"""Options that several commands share, and the checks that click does not make."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vaert.commands.progress import engine_progress
from vaert.commands.report import say

if TYPE_CHECKING:
    from vaert.package import Package
    from vaert.runtime.backends import Backend

MAX_PIXELS = 2**28
BACKENDS = ("auto", "cpu", "cuda", "tensorrt", "ort-tensorrt")  # as vaert.runtime.backends.selection has them

_Command = TypeVar("_Command", bound=Callable[..., object])


class FiniteRange(click.FloatRange):
    """A range of finite decimals: `click.FloatRange` alone lets NaN through, which no comparison refuses."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or fail as a usage error."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def at_most_one(options: Mapping[str, object]) -> None:
    """Fail as a usage error when more than one of `options` (spelling to value) was given."""
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} exclude each other: give one of {', '.join(options)}.")


@dataclass(frozen=True)
class EngineOptions:
    """What `engine_options` and `--threads` say."""

    backend: str = "auto"
    threads: int | None = None
    verbose: bool = False

    def open(self, package: "Package") -> "Backend":
        """The backend to run a package on; with `verbose` which it is and why, on standard error.

        Raises:
            BackendError, MissingExtraError, OptionError: as `vaert.runtime.backends.selection.choose`.
        """
        from vaert.runtime.backends.selection import choose

        choice = choose(self.backend, threads=self.threads, package=package, progress=engine_progress())
        if self.verbose:
            for line in choice.lines():
                say(line)
        return choice.backend


def engine_options(command: _Command) -> _Command:
    """Add `--backend` and `--verbose`."""
    command = click.option("--verbose", "-v", is_flag=True, help="Say which backend runs, and why no better one.")(
        command
    )
    return click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        default=BACKENDS[0],
        show_default=True,
        help="Engine; auto: the best that is there and computes the model right.",
    )(command)


def _qualities(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Return a comma-separated list as qualities in 1..100, in the order given, or fail as a usage error."""
    one = FiniteRange(1, 100)
    return None if value is None else tuple(one.convert(item.strip(), param, ctx) for item in value.split(","))


def qualities_option(command: _Command) -> _Command:
    """Add `--qualities`."""
    text = "Qualities to measure, for example 10,30,60,90."
    return click.option("--qualities", metavar="LIST", callback=_qualities, help=text)(command)


def model_options(command: _Command) -> _Command:
    """Add `--model`, `--threads`, `--backend` and `--verbose`."""
    command = engine_options(command)
    command = click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")(command)
    return click.option("--model", metavar="NAME|DIR", help="Model: a bundled name or a package folder.")(command)


def output_options(command: _Command) -> _Command:
    """Add `--force`, `--quiet`, `--json` and `--max-pixels`."""
    for decorate in (
        click.option(
            "--max-pixels",
            type=click.IntRange(min=1),
            default=MAX_PIXELS,
            show_default=True,
            help="Refuse pictures with more pixels.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout (stderr if OUT is -)."),
        click.option("--quiet", "-q", is_flag=True, help="No report line on stderr."),
        click.option("--force", "-f", is_flag=True, help="Replace an existing OUT."),
    ):
        command = decorate(command)
    return command
