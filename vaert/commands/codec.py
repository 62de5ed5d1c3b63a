"""`vaert compress` and `vaert decompress`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaert.commands.files import check_target, read_input, write_output
from vaert.commands.options import FiniteRange, at_most_one, model_options, output_options
from vaert.commands.report import STREAM, grouped, say, show_json, warn
from vaert.errors import BitstreamError, ImageError, OptionError

if TYPE_CHECKING:
    from vaert.bitstream import Header
    from vaert.runtime.codec import Codec

DEFAULT_MODEL = "fast"


@dataclass(frozen=True)
class _Shared:
    """Options of both commands."""

    model: str | None
    threads: int | None
    force: bool
    quiet: bool
    as_json: bool
    max_pixels: int


@dataclass(frozen=True)
class _Compress(_Shared):
    """Options of `vaert compress`; at most one of the last four is set."""

    quality: float | None
    bpp: float | None
    size: int | None
    psnr: float | None


@dataclass(frozen=True)
class _Decompress(_Shared):
    """Options of `vaert decompress`."""

    format: str | None


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--quality", type=FiniteRange(1, 100), help="Quality, decimals allowed.  [default: 60]")
@click.option("--bpp", type=FiniteRange(0, min_open=True), help="Target rate in bits per pixel.")
@click.option("--size", type=click.IntRange(min=1), help="Target file size in bytes.")
@click.option("--psnr", type=FiniteRange(0, min_open=True), help="Target fidelity in dB.")
@model_options
@output_options
def compress(source: str, target: str, **given: Any) -> None:
    """Compress the image IN to the file OUT (`-` is stdin, stdout).

    At most one of --quality, --bpp, --size and --psnr.
    """
    options = _Compress(**given)
    at_most_one({f"--{name}": given[name] for name in ("quality", "bpp", "size", "psnr")})
    check_target(target, force=options.force)
    encoded = read_input(source, max_pixels=options.max_pixels, error=ImageError)
    data, facts = _encode(source, encoded, options=options)
    write_output(target, data, force=options.force)
    _report(options, facts={"input": source, "output": target, **facts})


def _encode(source: str, encoded: bytes, *, options: _Compress) -> tuple[bytes, dict[str, object]]:
    """Turn an image file's bytes into a .vaert file's bytes and the facts to report."""
    from vaert.bitstream import read_header
    from vaert.image import read_image

    picture = read_image(encoded, name=source, max_pixels=options.max_pixels)
    if picture.dropped:
        warn(f"{source}: {', '.join(picture.dropped)} not kept: a .vaert file holds pixels only")
    codec = _open_codec(options.model or DEFAULT_MODEL, threads=options.threads)
    data = codec.compress(picture.pixels, options.quality, bpp=options.bpp, size=options.size, psnr=options.psnr)
    facts = _facts(read_header(data), codec, coded=len(data), written=len(data))
    return data, {**facts, "dropped": list(picture.dropped)}


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--format", help="Image format of OUT.  [default: by OUT's ending; png for -]")
@model_options
@output_options
def decompress(source: str, target: str, **given: Any) -> None:
    """Decompress the .vaert file IN to the image OUT (`-` is stdin, stdout).

    The model is found by the identity in the file; --model names one that is not bundled.
    """
    options = _Decompress(**given)
    ending = _image_format(target, options.format)
    check_target(target, force=options.force)
    stream = read_input(source, max_pixels=options.max_pixels, error=BitstreamError)
    data, facts = _decode(stream, ending=ending, options=options)
    write_output(target, data, force=options.force)
    _report(options, facts={"input": source, "output": target, **facts})


def _image_format(target: str, named: str | None) -> str:
    """Choose the format of the decoded picture, and refuse an unknown one before any work."""
    from vaert.image import format_from_path

    if named is None:
        return "png" if target == STREAM else format_from_path(target)
    try:
        return format_from_path(f"picture.{named.removeprefix('.').lower()}")
    except ImageError as exc:
        raise OptionError(f"--format {named}: {exc}") from exc


def _decode(stream: bytes, *, ending: str, options: _Decompress) -> tuple[bytes, dict[str, object]]:
    """Turn a .vaert file's bytes into an image file's bytes and the facts to report."""
    from vaert.bitstream import read_header
    from vaert.image import encode_image
    from vaert.package import find_by_id

    header = read_header(stream)
    codec = _open_codec(options.model or find_by_id(header.model_id).path, threads=options.threads)
    data = encode_image(codec.decompress(stream, max_pixels=options.max_pixels), format=ending)
    return data, {**_facts(header, codec, coded=len(stream), written=len(data)), "format": ending}


def _facts(header: "Header", codec: "Codec", *, coded: int, written: int) -> dict[str, object]:
    """What both commands report; `coded` is the size of the .vaert file, `written` that of the output, in bytes."""
    pixels = header.width * header.height
    return {
        "width": header.width,
        "height": header.height,
        "channels": header.channels,
        "pixels": pixels,
        "bytes": written,
        "bpp": 8 * coded / pixels,
        "quality": header.quality,
        "model": codec.package.manifest.name,
        "model_id": f"{header.model_id:016x}",
    }


def _open_codec(model: str | Path, *, threads: int | None) -> "Codec":
    """Load the engine, which takes longest to import, after everything cheaper was checked."""
    from vaert.runtime.codec import Codec

    return Codec(model, threads=threads)


def _report(options: _Shared, *, facts: dict[str, object]) -> None:
    """Print the one-line report on standard error, or the JSON that was asked for."""
    if options.as_json:
        show_json(facts, output=str(facts["output"]))
    elif not options.quiet:
        size = grouped(int(str(facts["bytes"])))
        rate = f"{facts['bpp']:.3f} bpp, quality {facts['quality']:.1f}"
        say(f"{facts['input']} -> {facts['output']}: {facts['pixels']} pixels, {size} bytes, {rate}")
