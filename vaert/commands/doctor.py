"""`vaert doctor`: what is right and what is wrong with this installation, fit to be pasted into an issue."""

from typing import TYPE_CHECKING

import click

from vaert.commands.progress import status_line
from vaert.commands.report import one_line, show_json

if TYPE_CHECKING:
    from vaert.runtime.doctor_report import Check

FAILED = 1


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout, at the end.")
@click.option(
    "--package",
    "packages",
    metavar="DIR",
    multiple=True,
    help="An fp16 or int8 package to hold against its fp32 reference on every backend; may be repeated.",
)
@click.option("--limit", type=click.IntRange(min=1), default=1800, show_default=True, help="Seconds for one check.")
@click.pass_context
def doctor(context: click.Context, as_json: bool, packages: tuple[str, ...], limit: int) -> None:
    """Look at everything that vaert needs: versions, processor, GPUs, libraries, and every backend at work.

    OK is right, FAULT is wrong and says how, absent is not there and says what would bring it. Exit code 0 if every
    backend that is installed is right, 1 otherwise. TensorRT builds engines at the first time, which takes minutes.
    """
    from vaert.runtime.doctor import Orders, diagnose

    with status_line() as doing:

        def said(check: "Check") -> None:
            doing("")
            if not as_json:
                click.echo(one_line_of(check))

        orders = Orders(packages, limit, lambda backend, check: doing(f"{backend}: {check} ..."))
        found = diagnose(orders, said=said)
    if as_json:
        show_json(found.to_dict())
    else:
        click.echo(found.verdict)
    if found.faults:
        context.exit(FAILED)


def one_line_of(check: "Check") -> str:
    """A check's line, safe for a terminal; its columns stay."""
    status, rest = check.line()[:8], check.line()[8:]
    section, text = rest[:14], rest[14:]
    return f"{status}{section}{one_line(text)}"
