"""`vaert upscale`: pictures made larger by a model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from vaert.commands.batch import BatchOptions, Edited, Item, Made, Work, edit, run_batch
from vaert.commands.options import EngineOptions, FiniteRange, model_options, output_options
from vaert.errors import ImageError

if TYPE_CHECKING:  # numpy loads on first use
    import numpy as np
    from numpy.typing import NDArray

    from vaert.runtime.upscaler import Upscaler

MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class _Options(BatchOptions):
    """Options of `vaert upscale`."""

    scale: str | None = None
    detail: float = 0.0
    seed: int = 0
    tile: int | None = None
    model: str | None = None
    threads: int | None = None
    backend: str = "auto"
    verbose: bool = False


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--scale", type=click.Choice(["2", "4"]), help="How many times larger.  [default: 4, or by --model]")
@click.option(
    "--detail",
    type=FiniteRange(0, 1),
    default=0.0,
    show_default=True,
    help="How much is made up: 0 is the best guess, 1 draws what the model holds possible.",
)
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, help="Seed of --detail.")
@click.option("--tile", type=click.IntRange(min=1), help="Side of the tiles in pixels of IN.  [default: by size]")
@click.option("--format", help="Image format of OUT.  [default: by OUT's ending; png for -; that of each in a folder]")
@model_options
@output_options
def upscale(source: str, target: str, **given: Any) -> None:
    """Make the image IN larger and write it to OUT (`-` is stdin, stdout); a folder IN makes a folder OUT.

    Colour profile, EXIF and XMP are kept, alpha is upscaled too, grey stays grey. --max-pixels bounds the large image.
    """
    options = _Options(**given)
    run_batch(source, target, lambda: _open(options), options=options)


def _open(options: _Options) -> Work:
    """Load the engine, which takes longest to import, after everything cheaper was checked."""
    from vaert.runtime.upscaler import Upscaler, find_upscaler

    scale = None if options.scale is None else int(options.scale)
    package = find_upscaler(options.model, scale=scale)
    engine = EngineOptions(options.backend, options.threads, options.verbose)
    upscaler = Upscaler(package, backend=engine.open(package))

    def work(data: bytes, item: Item) -> Made:
        def change(pixels: "NDArray[np.uint8]") -> "NDArray[np.uint8]":
            _check_size(item.source, pixels, scale=upscaler.scale, max_pixels=options.max_pixels)
            return upscaler.upscale(pixels, detail=options.detail, seed=options.seed, tile=options.tile)

        return _made(edit(data, item, change, max_pixels=options.max_pixels), item, upscaler, options=options)

    return work


def _check_size(name: str, pixels: "NDArray[np.uint8]", *, scale: int, max_pixels: int) -> None:
    height, width = (scale * side for side in pixels.shape[:2])
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: would become {width}x{height} = {width * height} pixels, the limit is {max_pixels}: "
            "raise it with --max-pixels"
        )


def _made(edited: Edited, item: Item, upscaler: "Upscaler", *, options: _Options) -> Made:
    manifest = upscaler.package.manifest
    seed = options.seed if options.detail else None
    sizes = [f"{width}x{height}" for width, height in (edited.before, edited.after)]
    drawn = f", detail {options.detail:g}, seed {seed}" if options.detail else ""
    facts = {
        "width": edited.after[0],
        "height": edited.after[1],
        "channels": edited.channels,
        "scale": upscaler.scale,
        "detail": options.detail,
        "seed": seed,
        "warnings": list(edited.warnings),
        "model": manifest.name,
        "model_id": f"{manifest.model_id:016x}",
    }
    line = f"{sizes[0]} to {sizes[1]} pixels by {manifest.name}{drawn}"
    return Made(edited.data, line, facts, edited.warnings)
