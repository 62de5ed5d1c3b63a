"""`vaert compress` and `vaert decompress`."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from vaert.commands.files import check_target, read_input, write_output
from vaert.commands.options import EngineOptions, FiniteRange, at_most_one, model_options, output_options
from vaert.commands.report import STREAM, grouped, say, show_json, warn
from vaert.errors import BitstreamError, ImageError, OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaert.bitstream import Header
    from vaert.package import Package
    from vaert.runtime.codec import Codec

DEFAULT_MODEL, LOSSLESS_MODEL = "fast", "mnist-lossless"


@dataclass(frozen=True)
class _Shared:
    """Options of both commands."""

    model: str | None
    threads: int | None
    backend: str
    verbose: bool
    force: bool
    quiet: bool
    as_json: bool
    max_pixels: int

    @property
    def engine(self) -> EngineOptions:
        """What runs the model."""
        return EngineOptions(self.backend, self.threads, self.verbose)


@dataclass(frozen=True)
class _Compress(_Shared):
    """Options of `vaert compress`; at most one of quality, bpp, size and psnr is set, and none with `lossless`."""

    lossless: bool
    quality: float | None
    bpp: float | None
    size: int | None
    psnr: float | None
    downscale: str | None


@dataclass(frozen=True)
class _Decompress(_Shared):
    """Options of `vaert decompress`."""

    format: str | None
    upscale: str | None
    upscaler: str | None


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--quality", type=FiniteRange(1, 100), help="Quality, decimals allowed.  [default: 60]")
@click.option("--bpp", type=FiniteRange(0, min_open=True), help="Target rate in bits per pixel.")
@click.option("--size", type=click.IntRange(min=1), help="Target file size in bytes.")
@click.option("--psnr", type=FiniteRange(0, min_open=True), help="Target fidelity in dB; of digits, their mean.")
@click.option("--lossless", is_flag=True, help=f"Lose nothing; digits only.  [model: {LOSSLESS_MODEL}]")
@click.option("--downscale", type=click.Choice(["2"]), help="Code a photo at half its size, for very low rates.")
@model_options
@output_options
def compress(source: str, target: str, **given: Any) -> None:
    """Compress the image IN to the file OUT (`-` is stdin, stdout).

    At most one of --quality, --bpp, --size, --psnr and --lossless. With a model of digits IN is a grey picture of 28x28
    pixels, or a folder of them that go into one file with their names. With --downscale, decompress enlarges the photo
    to its full size again; rate and --psnr are those of the full size.
    """
    options = _Compress(**given)
    at_most_one({f"--{name}": given[name] or None for name in ("quality", "bpp", "size", "psnr", "lossless")})
    check_target(target, force=options.force)
    package = _package(options)
    data, facts = _encoder(package)(source, package, options=options)
    write_output(target, data, force=options.force)
    _report(options, facts={"input": source, "output": target, **facts})


def _package(options: _Compress) -> "Package":
    """The model to compress with. OptionError if it loses something and nothing may be lost."""
    from vaert.package import LOSSLESS_DIGITS, find_package

    package = find_package(options.model or (LOSSLESS_MODEL if options.lossless else DEFAULT_MODEL))
    if options.lossless and package.manifest.kind != LOSSLESS_DIGITS:
        raise OptionError(
            f"--lossless needs a lossless model, {package.manifest.name} is none: leave out --model, or give "
            f"{LOSSLESS_MODEL}, which takes digits of 28x28 pixels"
        )
    return package


def _encoder(package: "Package") -> "Callable[..., tuple[bytes, dict[str, object]]]":
    """What compresses with a model of its kind. OptionError if the model is for something else."""
    from vaert.package import CODEC, DIGITS, LOSSLESS_DIGITS

    encoders = {CODEC: _encode, DIGITS: _encode_digits, LOSSLESS_DIGITS: _encode_digits}
    manifest = package.manifest
    if manifest.kind not in encoders:
        raise OptionError(f"model {manifest.name} is of kind {manifest.kind}, which does not compress: give another")
    return encoders[manifest.kind]


def _encode_digits(source: str, package: "Package", *, options: _Compress) -> tuple[bytes, dict[str, object]]:
    """Turn a digit's image file, or a folder of them, into a .vaert file's bytes and the facts to report."""
    from vaert.commands.digits import DigitOptions, compress_digits

    if options.downscale:
        raise OptionError(f"--downscale is for photos, {package.manifest.name} is a model of digits: leave it out")
    asked = DigitOptions(options.quality, options.psnr, options.bpp, options.size, options.engine, options.max_pixels)
    return compress_digits(source, package, options=asked)


def _encode(source: str, package: "Package", *, options: _Compress) -> tuple[bytes, dict[str, object]]:
    """Turn an image file into a .vaert file's bytes and the facts to report."""
    from vaert.bitstream import read_header
    from vaert.image import read_image

    if os.path.isdir(source):
        raise ImageError(
            f"{source} is a folder, expected one file: run the command once for each file in it (digits of 28x28 "
            "pixels go into one file: --model mnist-conv)"
        )
    encoded = read_input(source, max_pixels=options.max_pixels, error=ImageError)
    picture = read_image(encoded, name=source, max_pixels=options.max_pixels)
    if picture.dropped:
        warn(f"{source}: {', '.join(picture.dropped)} not kept: a .vaert file holds pixels only")
    codec = _open_codec(package, options.engine)
    data = codec.compress(
        picture.pixels,
        options.quality,
        bpp=options.bpp,
        size=options.size,
        psnr=options.psnr,
        downscale=int(options.downscale or 1),
    )
    facts = _facts(read_header(data), codec, coded=len(data), written=len(data))
    return data, {**facts, "dropped": list(picture.dropped)}


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--format", help="Image format of OUT.  [default: by OUT's ending; png for -]")
@click.option("--upscale", type=click.Choice(["2"]), help="Make the photo larger once it is decoded.")
@click.option("--upscaler", metavar="NAME|DIR", help="What enlarges: a bundled name or a package folder.")
@model_options
@output_options
def decompress(source: str, target: str, **given: Any) -> None:
    """Decompress the .vaert file IN to the image OUT (`-` is stdin, stdout).

    A photo that was coded at half its size is enlarged to its full size. A file that holds a folder of digits makes the
    folder OUT. The model is found by the identity in the file; --model
    names one that is not bundled.
    """
    from vaert.bitstream import Kind, read_header

    options = _Decompress(**given)
    if options.format is not None:
        _image_format(target, options.format)  # a wrong option is worth no work
    coded = read_input(source, max_pixels=options.max_pixels, error=BitstreamError)
    digits = read_header(coded).kind in (Kind.DIGITS, Kind.LOSSLESS_DIGITS)
    if digits and options.upscale:
        raise OptionError(f"--upscale is for photos, {source} holds digits: leave it out")
    facts = (_write_digits if digits else _write_photo)(target, coded, options=options)
    _report(options, facts={"input": source, "output": target, **facts})


def _write_photo(target: str, coded: bytes, *, options: _Decompress) -> dict[str, object]:
    """Decode a file with a photo, write the image and return the facts to report."""
    ending = _image_format(target, options.format)
    check_target(target, force=options.force)
    data, facts = _decode(coded, ending=ending, options=options)
    write_output(target, data, force=options.force)
    return facts


def _write_digits(target: str, coded: bytes, *, options: _Decompress) -> dict[str, object]:
    """Decode a file with digits, write an image or a folder of them and return the facts to report."""
    from vaert.bitstream import parse_digits
    from vaert.commands.digits import check_folder_target, decompress_digits, digit_facts, write_digits
    from vaert.package import find_by_id, find_package

    stream = parse_digits(coded, max_pixels=options.max_pixels)
    package = find_package(options.model) if options.model else find_by_id(stream.header.model_id)
    ending = "png"
    if stream.names is None:
        ending = _image_format(target, options.format)
        check_target(target, force=options.force)
    else:
        check_folder_target(target, named=options.format)
    files = decompress_digits(stream, package, ending=ending, engine=options.engine)
    if stream.names is None:
        write_output(target, files[""], force=options.force)
    else:
        write_digits(target, files, force=options.force)
    written = sum(map(len, files.values()))
    facts = digit_facts(stream, package=package, coded=len(coded), written=written)
    return facts if stream.names is not None else {**facts, "format": ending}


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
    from vaert.package import find_by_id, find_package

    header, scale = read_header(stream), int(options.upscale or 1)
    _check_upscaled(header, scale, max_pixels=options.max_pixels)
    package = find_package(options.model) if options.model else find_by_id(header.model_id)
    codec = _open_codec(package, options.engine, upscaler=options.upscaler)
    pixels = codec.decompress(stream, max_pixels=options.max_pixels)
    if scale > 1:
        from vaert.runtime.upscaler import Upscaler, find_upscaler

        enlarging = find_upscaler(options.upscaler, scale=scale)
        pixels = Upscaler(enlarging, backend=options.engine.open(enlarging)).upscale(pixels)
    data = encode_image(pixels, format=ending)
    return data, {**_facts(header, codec, coded=len(stream), written=len(data)), "format": ending, "upscale": scale}


def _check_upscaled(header: "Header", scale: int, *, max_pixels: int) -> None:
    """Refuse a picture that is within the limit and would leave it when enlarged."""
    width, height = scale * header.width, scale * header.height
    if scale > 1 and width * height > max_pixels:
        raise BitstreamError(
            f"--upscale {scale} makes {width}x{height} = {width * height} pixels, the limit is {max_pixels}: "
            "raise it with --max-pixels"
        )


def _facts(header: "Header", codec: "Codec", *, coded: int, written: int) -> dict[str, object]:
    """What both commands report; `coded` is the size of the .vaert file, `written` that of the output, in bytes."""
    pixels = header.width * header.height
    return {
        "kind": header.kind.name.lower(),
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


def _open_codec(package: "Package", engine: EngineOptions, *, upscaler: str | None = None) -> "Codec":
    """Load the engine, which takes longest to import, after everything cheaper was checked."""
    from vaert.runtime.codec import Codec

    return Codec(package, backend=engine.open(package), upscaler=upscaler)


def _report(options: _Shared, *, facts: dict[str, object]) -> None:
    """Print the one-line report on standard error, or the JSON that was asked for."""
    if options.as_json:
        show_json(facts, output=str(facts["output"]))
    elif not options.quiet:
        size = grouped(int(str(facts["bytes"])))
        rate = f"{facts['bpp']:.3f} bpp, quality {facts['quality']:.1f}"
        what = f"{facts['pixels']} pixels" if facts.get("digits", 1) == 1 else f"{facts['digits']} digits"
        say(f"{facts['input']} -> {facts['output']}: {what}, {size} bytes, {rate}")
