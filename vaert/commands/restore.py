"""`vaert restore`: damaged pictures repaired and hidden parts filled in, of photos and of digits."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from vaert.commands.batch import BatchOptions, Edited, Item, Made, Work, edit, run_batch
from vaert.commands.files import check_target
from vaert.commands.options import EngineOptions, FiniteRange, model_options, output_options
from vaert.commands.pictures import LOSSY, lossless_format, read_grey
from vaert.commands.report import STREAM, grouped, say, show_json
from vaert.errors import ImageError, ModelError, OptionError

if TYPE_CHECKING:  # numpy loads on first use
    import numpy as np
    from numpy.typing import NDArray

    from vaert.package import Package
    from vaert.runtime.restorer import Restorer

DEFAULT_MODEL, DIGIT_MODEL = "restore", "mnist-conv"


@dataclass(frozen=True)
class _Options(BatchOptions):
    """Options of `vaert restore`."""

    mask: str | None = None
    strength: float | None = None
    tile: int | None = None
    seed: int | None = None
    model: str | None = None
    threads: int | None = None
    backend: str = "auto"
    verbose: bool = False

    @property
    def engine(self) -> EngineOptions:
        """What runs the model."""
        return EngineOptions(self.backend, self.threads, self.verbose)


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--mask", metavar="IMAGE", help="Grey picture of IN's size: pixels that are not black are hidden in IN.")
@click.option(
    "--strength",
    type=FiniteRange(0, 1),
    help="Repair known pixels: 0 not at all, 1 fully.  [default: 1; with --mask 0]",
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the search; digits only.  [default: 0]")
@click.option("--tile", type=click.IntRange(min=1), help="Side of the tiles, a multiple of 32.  [default: by size]")
@click.option("--format", help="Image format of OUT.  [default: by OUT's ending; png for -; that of each in a folder]")
@model_options
@output_options
def restore(source: str, target: str, **given: Any) -> None:
    """Remove compression damage from the image IN, or fill holes in it, and write it to OUT (`-` is stdin, stdout).

    Without a mask the whole picture is repaired; a folder IN makes a folder OUT. With --mask the hidden pixels are made
    up and the known ones stay as they are, or are repaired too if --strength is given. Colour profile, EXIF and XMP are
    kept. A model of digits (mnist-conv) infers the hidden part of a digit.
    """
    from vaert.package import DIGITS, RESTORER, find_package

    options = _Options(**given)
    package = find_package(options.model or DEFAULT_MODEL)
    kind = package.manifest.kind
    if kind == DIGITS:
        _restore_digit(source, target, package, options=options)
    elif kind == RESTORER:
        _restore_photos(source, target, package, options=options)
    else:
        raise ModelError(
            f"model {options.model} is of kind {kind} and restores nothing, expected {RESTORER} or {DIGITS}: leave out "
            f"--model, or give {DIGIT_MODEL} for digits"
        )


def _restore_digit(source: str, target: str, package: "Package", *, options: _Options) -> None:
    from vaert.commands.restore_digits import DigitOptions, restore_digit

    _refuse(package, {"--strength": options.strength, "--tile": options.tile, "--format": options.format})
    ending = lossless_format(target)
    check_target(target, force=options.force)
    name = package.manifest.name
    if options.mask is None:
        raise OptionError(f"model {name} restores hidden pixels, expected --mask IMAGE that says which")
    asked = DigitOptions(options.mask, options.seed or 0, options.engine, ending, options.force)
    facts = restore_digit(source, target, package, options=asked)
    if options.as_json:
        show_json(facts, output=target)
    elif not options.quiet:
        pixels = package.manifest.geometry["height"] * package.manifest.geometry["width"]
        say(f"{source} -> {target}: {facts['hidden']} of {pixels} pixels restored by {name}")


def _refuse(package: "Package", options: dict[str, object]) -> None:
    """OptionError if one of `options`, spelling to value, was given, which a model of this kind has no use for."""
    if given := [name for name, value in options.items() if value is not None]:
        manifest = package.manifest
        raise OptionError(
            f"{given[0]} has no use with {manifest.name}, a model of kind {manifest.kind}: leave it out, or choose "
            "another --model"
        )


def _restore_photos(source: str, target: str, package: "Package", *, options: _Options) -> None:
    _refuse(package, {"--seed": options.seed})
    if options.mask is not None:
        from pathlib import Path

        if Path(source).is_dir():
            raise OptionError(f"{source} is a folder, but a mask is for one picture: name that, or leave out --mask")
        if source == options.mask == STREAM:
            raise OptionError("IN and --mask cannot both come from standard input: name a file for one of them")
    run_batch(source, target, lambda: _open(package, options), options=options)


def _open(package: "Package", options: _Options) -> Work:
    """Load the engine, which takes longest to import, after everything cheaper was checked."""
    hidden = None
    if options.mask is not None:
        hidden = read_grey(options.mask, what="a mask", max_pixels=options.max_pixels) != 0
    if hidden is not None and hidden.all():
        raise ImageError(f"{options.mask} hides every pixel, expected some known ones: hide less")
    from vaert.runtime.restorer import Restorer

    restorer, warnings = Restorer(package, backend=options.engine.open(package)), _lossy(options)

    def work(data: bytes, item: Item) -> Made:
        def change(pixels: "NDArray[np.uint8]") -> "NDArray[np.uint8]":
            if hidden is not None and hidden.shape != pixels.shape[:2]:
                raise ImageError(
                    f"{options.mask} has {hidden.shape[1]}x{hidden.shape[0]} pixels, expected those of {item.source}, "
                    f"{pixels.shape[1]}x{pixels.shape[0]}: crop or scale the mask"
                )
            return restorer.restore(pixels, hidden, strength=options.strength, tile=options.tile)

        edited = edit(data, item, change, max_pixels=options.max_pixels)
        told = edited.warnings + (next(warnings, ()) if item.format in LOSSY else ())
        return _made(edited, restorer, hidden, options=options, warnings=told)

    return work


def _lossy(options: _Options) -> Iterator[tuple[str, ...]]:
    """What to say, once, of an output that is compressed with loss again."""
    kept = options.mask is not None and options.strength is None
    what = "changes the known pixels a little" if kept else "damages the picture again a little"
    yield (f"a JPEG file {what}: use .png for OUT, or --format png, to avoid it",)


def _made(
    edited: Edited,
    restorer: "Restorer",
    hidden: "NDArray[np.bool_] | None",
    *,
    options: _Options,
    warnings: tuple[str, ...],
) -> Made:
    manifest = restorer.package.manifest
    strength = 1.0 if options.strength is None and hidden is None else options.strength
    count = 0 if hidden is None else int(hidden.sum())
    if hidden is not None and not count:
        warnings += (f"{options.mask} hides nothing",)
    done = [] if hidden is None else [f"{grouped(count)} filled"]
    if strength is not None:
        done.append(f"{'others' if done else 'all'} repaired{f' at strength {strength:g}' if strength != 1 else ''}")
    facts = {
        "width": edited.after[0],
        "height": edited.after[1],
        "channels": edited.channels,
        "hidden": count,
        "strength": strength,
        "warnings": list(warnings),
        "model": manifest.name,
        "model_id": f"{manifest.model_id:016x}",
    }
    size = f"{edited.after[0]}x{edited.after[1]} pixels"
    return Made(edited.data, f"{size}, {' and '.join(done)} by {manifest.name}", facts, warnings)
