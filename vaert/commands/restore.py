"""`vaert restore`: hidden parts of a picture, inferred by a model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from vaert.commands.files import check_target, write_output
from vaert.commands.pictures import lossless_format, read_grey
from vaert.commands.report import say, show_json, warn
from vaert.errors import ImageError, ModelError, OptionError

if TYPE_CHECKING:  # numpy loads on first use
    import numpy as np
    from numpy.typing import NDArray

    from vaert.package import Package


@dataclass(frozen=True)
class _Options:
    """Options of `vaert restore`."""

    mask: str | None
    seed: int
    model: str | None
    threads: int | None
    force: bool
    quiet: bool
    as_json: bool


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--mask", metavar="IMAGE", help="Grey picture of IN's size: pixels that are not black are hidden in IN.")
@click.option("--model", metavar="NAME|DIR", help="Model: a bundled name or a package folder.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the search.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--force", "-f", is_flag=True, help="Replace an existing OUT.")
@click.option("--quiet", "-q", is_flag=True, help="No report line on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout (stderr if OUT is -).")
def restore(source: str, target: str, **given: Any) -> None:
    """Infer the hidden part of the image IN and write the whole to OUT (`-` is stdin, stdout).

    Pixels that the mask does not hide stay as they are. --seed makes runs repeatable.
    """
    options = _Options(**given)
    ending = lossless_format(target)
    check_target(target, force=options.force)
    package = _find(options.model)
    mask = _required_mask(options)
    from vaert.image import encode_image

    digit, hidden = read_grey(source, what="a digit"), read_grey(mask, what="a mask") != 0
    _check_sizes(package, source, mask, digit=digit, hidden=hidden)
    if not hidden.any():
        warn(f"{mask} hides nothing: {target} is {source} unchanged")
    restored = _inpaint(package, options, digit=digit, hidden=hidden)
    write_output(target, encode_image(restored, format=ending), force=options.force)
    manifest = package.manifest
    facts = {
        "input": source,
        "output": target,
        "width": digit.shape[1],
        "height": digit.shape[0],
        "hidden": int(hidden.sum()),
        "seed": options.seed,
        "model": manifest.name,
        "model_id": f"{manifest.model_id:016x}",
    }
    if options.as_json:
        show_json(facts, output=target)
    elif not options.quiet:
        say(f"{source} -> {target}: {facts['hidden']} of {digit.size} pixels restored by {manifest.name}")


def _find(model: str | None) -> "Package":
    """The model's package, of a kind that restores."""
    from vaert.package import DIGITS, find_package

    if model is None:
        raise OptionError("no model restores photos, only digits can be restored: give --model mnist-conv")
    package = find_package(model)
    if package.manifest.kind != DIGITS:
        kind = package.manifest.kind
        raise ModelError(f"model {model} is of kind {kind} and restores nothing, expected {DIGITS}: --model mnist-conv")
    return package


def _required_mask(options: _Options) -> str:
    if options.mask is None:
        raise OptionError(f"model {options.model} restores hidden pixels, expected --mask IMAGE that says which")
    return options.mask


def _check_sizes(
    package: "Package", source: str, mask: str, *, digit: "NDArray[np.uint8]", hidden: "NDArray[np.bool_]"
) -> None:
    """Refuse pictures that do not fit the model or each other, by the names of their files."""
    geometry, name = package.manifest.geometry, package.manifest.name
    if digit.shape != (geometry["height"], geometry["width"]):
        raise ImageError(
            f"{source} has {digit.shape[1]}x{digit.shape[0]} pixels, {name} restores pictures of "
            f"{geometry['width']}x{geometry['height']}: crop or scale it first"
        )
    if hidden.shape != digit.shape:
        raise ImageError(
            f"{mask} has {hidden.shape[1]}x{hidden.shape[0]} pixels, expected those of {source}, "
            f"{digit.shape[1]}x{digit.shape[0]}: crop or scale the mask"
        )
    if hidden.all():
        raise ImageError(f"{mask} hides every pixel, expected some known ones: use `vaert generate` for new digits")


def _inpaint(
    package: "Package", options: _Options, *, digit: "NDArray[np.uint8]", hidden: "NDArray[np.bool_]"
) -> "NDArray[np.uint8]":
    """Load the engine, which takes longest to import, after everything cheaper was checked."""
    from vaert.runtime.digit_vae import DigitVAE
    from vaert.runtime.inpainting import inpaint

    return inpaint(DigitVAE(package, threads=options.threads), digit, hidden, seed=options.seed)
