"""`vaert export`: a thin door to `vaert.export`, and what it says of the package it made."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaert.commands.extras import needs_extra
from vaert.commands.options import at_most_one
from vaert.commands.progress import engine_progress, status_line

if TYPE_CHECKING:
    from vaert.package import Package

DEFAULT = "fast"


@click.command()
@click.argument("source", metavar="[MODEL|CHECKPOINT]", default=DEFAULT)
@click.option("--fp16", is_flag=True, help="Half precision inside, same inputs and outputs.")
@click.option("--int8", is_flag=True, help="8-bit layers, for CPUs and for TensorRT.")
@click.option("--fp32", is_flag=True, help="Single precision (the default).")
@click.option(
    "--calibration",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Record activations from these pictures.  [default: those that travel with the model]",
)
@click.option("--no-engine", is_flag=True, help="Leave TensorRT engines to their first use.")
@click.option("--shapes", metavar="MIN:OPT:MAX", help="Sizes of engines, like 64x64:512x768:2048x2048.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the package that is made.")
@click.option("--force", "-f", is_flag=True, help="Replace an existing package.")
def export(source: str, **given: Any) -> None:
    """Export MODEL (default: fast) or a CHECKPOINT to a package of ONNX graphs (needs `pip install 'vaert[train]'`).

    The package is compared with fp32 before it is written. Where TensorRT is installed its engines are built as well.
    """
    precision = _precision(given)
    with needs_extra("vaert export", extra="train", modules=("torch", "onnx", "onnxscript", "safetensors")):
        from vaert.export.pipeline import Order, run

        order = Order(source, precision, given["calibration"], given["shapes"])
        with status_line() as show:
            package = run(
                order, given["out"], force=given["force"], progress=lambda what, n, m: show(f"{n}/{m} {what}")
            )
    for line in _described(package):
        click.echo(line, err=True)
    _engines(package, wanted=not given["no_engine"])


def _precision(given: Mapping[str, Any]) -> str:
    """The one that was asked for, fp32 if none."""
    asked = {name: given[name] or None for name in ("fp16", "int8", "fp32")}
    at_most_one({f"--{name}": value for name, value in asked.items()})
    return next((name for name, value in asked.items() if value), "fp32")


def _described(package: "Package") -> list[str]:
    """What was made and how it compares, for people."""
    from vaert.runtime.comparison import row_type

    manifest, lines = package.manifest, [f"{package.path}: {package.manifest.name} in {package.manifest.precision}"]
    lines[0] += f", {package.size / 1e6:.1f} MB"
    for graph, flavours in manifest.verification.get("int8", {}).items():
        for flavour, facts in flavours.items():
            parts = [
                f"{100 * facts['share_in_int8']:.1f} % of multiply-adds in int8, layers: {facts['layers_in_int8']}"
            ]
            for what, names in (("left out", facts["left_out"]), ("in fp32", facts.get("kept_in_fp32"))):
                parts += [f"{what}: {', '.join(names)}"] if names else []
            lines.append(f"  {graph}, {flavour}: {'; '.join(parts)}")
    for graph, kept in manifest.verification.get("kept_in_fp32", {}).items():
        lines.append(f"  {graph}: kept in fp32: {', '.join(kept) or 'nothing'}")
    if manifest.precision != "fp32" and manifest.verification.get("against") != "fp32":
        lines.append("  every graph is exact and stays in fp32")
    kind = row_type(manifest.kind)
    for way in ("torch", "cpu", "tensorrt"):
        if found := manifest.verification.get(way):
            lines.append(f"against fp32, {way}, {found['pictures']} pictures:")
            lines += [kind.HEAD, *(str(kind(**row)) for row in found["rows"])]
    return lines


def _engines(package: "Package", *, wanted: bool) -> None:
    """Build TensorRT engines where that can be done, or say what is missing."""
    from vaert.runtime.backends.tensorrt import available

    if not wanted:
        click.echo("TensorRT engines are built at their first use", err=True)
        return
    if missing := available():
        click.echo(f"no TensorRT engines were built: {missing}", err=True)
        click.echo(
            f"on the machine that has it, build and check them with: vaert doctor --package {package.path}", err=True
        )
        return
    from vaert.runtime.engines import build_engines

    for built in build_engines(package, progress=engine_progress()):
        report = built.report
        origin = "from the cache, built" if report.from_cache else "built"
        click.echo(
            f"engine {report.graph} ({report.shapes}): {report.path or 'not kept'}, {report.bytes / 1e6:.1f} MB, "
            f"{origin} in {report.build_seconds:.1f} s, {built.milliseconds:.2f} ms a run",
            err=True,
        )
