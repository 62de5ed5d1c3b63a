"""The hidden part of a digit, inferred by a model of digits, for `vaert restore`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vaert.commands.files import write_output
from vaert.commands.options import EngineOptions
from vaert.commands.pictures import read_grey
from vaert.commands.report import warn
from vaert.errors import ImageError

if TYPE_CHECKING:  # numpy loads on first use
    import numpy as np
    from numpy.typing import NDArray

    from vaert.package import Package


@dataclass(frozen=True)
class DigitOptions:
    """Options of `vaert restore` that count for digits; `format` is that of OUT."""

    mask: str
    seed: int
    engine: EngineOptions
    format: str
    force: bool


def restore_digit(source: str, target: str, package: "Package", *, options: DigitOptions) -> dict[str, object]:
    """Restore the digit in the file `source`, write it to `target` and return the facts to report.

    Raises:
        ImageError, OutputError, BackendError, ModelError: as the parts say.
    """
    mask = options.mask
    digit, hidden = read_grey(source, what="a digit"), read_grey(mask, what="a mask") != 0
    _check_sizes(package, source, mask, digit=digit, hidden=hidden)
    if not hidden.any():
        warn(f"{mask} hides nothing: {target} is {source} unchanged")
    # The engine, which takes longest to import, is loaded after everything cheaper was checked.
    from vaert.image import encode_image
    from vaert.runtime.digit_vae import DigitVAE
    from vaert.runtime.inpainting import inpaint

    restored = inpaint(DigitVAE(package, backend=options.engine.open(package)), digit, hidden, seed=options.seed)
    write_output(target, encode_image(restored, format=options.format), force=options.force)
    manifest = package.manifest
    return {
        "input": source,
        "output": target,
        "width": digit.shape[1],
        "height": digit.shape[0],
        "hidden": int(hidden.sum()),
        "seed": options.seed,
        "model": manifest.name,
        "model_id": f"{manifest.model_id:016x}",
    }


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
