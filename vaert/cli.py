"""The command line: one group of commands, and the one place where errors become exit codes.

Exit codes: 0 for success, 1 for anything wrong with files, data or this installation, 2 for wrong options, 130 when
interrupted. Errors are one line on standard error, `vaert: error: ...`; standard output holds only what was asked for.
"""

import os
import sys
import warnings
from collections.abc import Sequence

import click

from vaert import __version__
from vaert.commands.codec import compress, decompress
from vaert.commands.doctor import doctor
from vaert.commands.evaluate import evaluate
from vaert.commands.export import export
from vaert.commands.generate import generate
from vaert.commands.inspect import info, models
from vaert.commands.report import one_line, warn
from vaert.commands.restore import restore
from vaert.commands.train import train
from vaert.commands.upscale import upscale
from vaert.commands.verify import verify
from vaert.errors import OptionError, VaertError

FAILED, WRONG_OPTION, INTERRUPTED = 1, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="vaert", message="%(prog)s %(version)s")
def cli() -> None:
    """Compress, upscale, restore and make images with variational autoencoders; train, export and evaluate them."""


for _command in (
    compress,
    decompress,
    upscale,
    restore,
    generate,
    info,
    models,
    train,
    export,
    evaluate,
    verify,
    doctor,
):
    cli.add_command(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments after the program's name; those of the process by default.
    """
    try:
        # Not cli.main(): it prints an empty line when interrupted and ends the process itself on a closed pipe.
        context = cli.make_context("vaert", list(sys.argv[1:] if argv is None else argv))
        with warnings.catch_warnings(), context:
            warnings.showwarning = _show_warning
            cli.invoke(context)
        code = 0
    except BaseException as exc:  # noqa: BLE001 - the one place where failures of every kind become exit codes
        code = _exit_code(exc)
    return _flush_output(code)


def _show_warning(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
    """Say a warning of the runtime in one line, as everything else is said."""
    warn(str(message))


def _exit_code(exc: BaseException) -> int:
    """Report a failure in one line and say how the process ends."""
    match exc:
        case click.exceptions.Exit():
            return exc.exit_code
        case click.ClickException():
            exc.show()
            return exc.exit_code
        case KeyboardInterrupt() | click.Abort():
            return _fail("interrupted", INTERRUPTED)
        case OptionError():
            return _fail(str(exc), WRONG_OPTION)
        case VaertError():
            return _fail(str(exc))
        case BrokenPipeError():
            return FAILED  # the reader of our output has gone: there is nobody to tell
        case OSError():
            where = f"{exc.filename}: " if exc.filename is not None else ""
            return _fail(f"{where}{exc.strerror or exc}")
        case MemoryError():
            return _fail("out of memory: use a smaller picture or a machine with more memory")
        case Exception():
            return _internal_error(exc)
        case _:
            raise exc  # SystemExit and the like are not ours


def _fail(message: str, code: int = FAILED) -> int:
    click.echo(f"vaert: error: {one_line(message)}", err=True)
    return code


def _flush_output(code: int) -> int:
    """Write what is still buffered; a failure here would otherwise be a traceback when the interpreter ends."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == 0 and not isinstance(exc, BrokenPipeError):
            return _fail(f"cannot write standard output: {exc.strerror}")
        return code or FAILED
    return code


def _internal_error(exc: Exception) -> int:
    """A bug of ours: one line for users, the traceback for those who ask for it."""
    if os.environ.get("VAERT_DEBUG") == "1":
        raise exc
    return _fail(f"internal error: {type(exc).__name__}: {exc} (VAERT_DEBUG=1 shows where)")
