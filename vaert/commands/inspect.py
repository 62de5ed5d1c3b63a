"""`vaert info` and `vaert models`: what a file holds, what this installation holds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from vaert.commands.files import read_input
from vaert.commands.options import MAX_PIXELS
from vaert.commands.report import grouped, one_line, show_json
from vaert.errors import BitstreamError, ModelError

if TYPE_CHECKING:
    from vaert.bitstream import Report

_CHANNELS = {1: "grey", 2: "grey with alpha", 3: "RGB", 4: "RGB with alpha"}


@click.command()
@click.argument("source", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
@click.pass_context
def info(context: click.Context, source: str, as_json: bool) -> None:
    """Show the header, sections and checksums of a .vaert FILE (`-` is stdin); exit code 1 if it is damaged."""
    from vaert.bitstream import inspect

    data = read_input(source, max_pixels=MAX_PIXELS, error=BitstreamError)
    report = inspect(data)
    facts = _facts(source, len(data), report=report)
    if as_json:
        show_json(facts)
    else:
        _print_info(facts, report)
    if not report.ok:
        context.exit(1)


def _facts(source: str, size: int, *, report: "Report") -> dict[str, object]:
    from vaert.bitstream import DigitsStream

    header = report.header
    digits = report.stream if isinstance(report.stream, DigitsStream) else None
    pixels = header.width * header.height * (digits.count if digits else 1)
    return {
        "file": source,
        "ok": report.ok,
        "verdict": report.verdict,
        "kind": header.kind.name.lower(),
        "width": header.width,
        "height": header.height,
        "channels": header.channels,
        "quality": header.quality,
        "bytes": size,
        "bpp": 8 * size / pixels,
        **({"digits": digits.count, "names": digits.names} if digits else {}),
        "model": _bundled_name(header.model_id),
        "model_id": f"{header.model_id:016x}",
        "sections": [
            {"name": part.name, "offset": part.offset, "bytes": part.size, "checksum_ok": part.checksum_ok}
            for part in report.sections
        ],
    }


def _bundled_name(model_id: int) -> str | None:
    from vaert.package import find_by_id

    try:
        return find_by_id(model_id).manifest.name
    except ModelError:
        return None


def _print_info(facts: dict[str, object], report: "Report") -> None:
    header = report.header
    rows = [
        ("file", one_line(str(facts["file"]))),
        ("kind", str(facts["kind"])),
        *([("digits", _digits_line(facts))] if "digits" in facts else []),
        ("picture", f"{header.width} x {header.height}, {_CHANNELS[header.channels]}"),
        ("quality", f"{header.quality:g}"),
        ("size", f"{grouped(int(str(facts['bytes'])))} bytes, {facts['bpp']:.3f} bpp"),
        ("model", f"{facts['model'] or 'not bundled'} ({facts['model_id']})"),
        ("verdict", one_line(report.verdict)),
    ]
    for name, value in rows:
        click.echo(f"{name:<9}{value}")
    for part in report.sections:
        state = "ok" if part.checksum_ok else "CHECKSUM WRONG"
        click.echo(f"  {part.name:<10} at {part.offset:>10}  {part.size:>10} bytes  {state}")


def _digits_line(facts: Mapping[str, object]) -> str:
    """How many digits a file holds, and what their names take."""
    names = facts["names"]
    if names is None:
        return f"{facts['digits']}, without a name"
    sections = facts["sections"]
    assert isinstance(names, tuple)  # for the type checker, as the next
    assert isinstance(sections, list)
    size = sum(part["bytes"] for part in sections if part["name"] == "NAMES")
    return f"{facts['digits']}, {names[0]} to {names[-1]}, {grouped(size)} bytes of names"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
def models(as_json: bool) -> None:
    """List the bundled models."""
    from vaert.package import bundled_models

    found = [_model_facts(name) for name in bundled_models()]
    if as_json:
        show_json(found)
        return
    for model in found:
        size = f"{grouped(int(str(model['bytes'])))} bytes"
        facts = (model[name] for name in ("name", "kind", "profile", "precision", "model_id"))
        click.echo("  ".join([*map(str, facts), size, *_reach(model)]))


def _reach(model: Mapping[str, object]) -> list[str]:
    """The range of a codec's rates; other models have none."""
    from vaert.package import CODEC

    if model["kind"] != CODEC:
        return []
    rates = list(_bpp_values(model["rates"]))
    return [f"{min(rates):.2f}-{max(rates):.2f} bpp" if rates else "rates not measured"]


def _model_facts(name: str) -> dict[str, object]:
    from vaert.package import find_package

    package = find_package(name)
    manifest = package.manifest
    return {
        "name": manifest.name,
        "kind": manifest.kind,
        "version": manifest.version,
        "profile": manifest.profile,
        "precision": manifest.precision,
        "model_id": f"{manifest.model_id:016x}",
        "bytes": package.size,
        "rates": manifest.rates,
    }


def _bpp_values(rates: object) -> Iterator[float]:
    """Yield every number that stands under a key `bpp`, at any depth of a manifest's measured rates."""
    if isinstance(rates, Mapping):
        for key, value in rates.items():
            if key == "bpp":
                yield from (float(number) for number in (value if isinstance(value, Sequence) else (value,)))
            else:
                yield from _bpp_values(value)
    elif isinstance(rates, Sequence) and not isinstance(rates, str):
        for value in rates:
            yield from _bpp_values(value)
