"""`vaert evaluate`: a thin door to the modules `vaert.evaluate*`, by the kind of the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaert.commands.extras import needs_extra
from vaert.commands.options import EngineOptions, engine_options, qualities_option
from vaert.commands.progress import progress_bar
from vaert.commands.report import say, show_json
from vaert.errors import ModelError, OptionError

if TYPE_CHECKING:
    from vaert.evaluate import Evaluation
    from vaert.evaluate_digits import DigitEvaluation
    from vaert.evaluate_restorer import RestorerEvaluation
    from vaert.evaluate_upscaler import UpscalerEvaluation
    from vaert.package import Package
    from vaert.runtime.backends import Backend


@dataclass(frozen=True)
class _Opened:
    """A package and what it shall run on."""

    package: "Package"
    engine: EngineOptions

    def backend(self) -> "Backend":
        """Opened when called, after everything cheaper was checked."""
        return self.engine.open(self.package)


_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("model")
@click.option(
    "--images", type=_FOLDER, help="Folder of pictures, for a photo model; with HR and LR in it, for an upscaler."
)
@click.option("--data", type=_FOLDER, help="Folder with the IDX files of MNIST, for a model of digits.")
@qualities_option
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw what was found to this PNG.")
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def evaluate(model: str, images: Path | None, data: Path | None, **given: Any) -> None:
    """Measure MODEL on pictures that it was not trained on (needs `pip install 'vaert[eval]'`).

    A photo model: rate and distortion over the folder --images, beside JPEG and published curves, which hold for the
    24 Kodak images alone. An upscaler: PSNR on Y, beside bicubic, over --images, which has folders HR and LRx2 or LRx4
    or large pictures alone. A restorer: repair of JPEGs and inpainting, beside OpenCV's, over the clean pictures in
    --images. A model of digits: likelihood (ELBO, NLL) and reconstruction over the test digits in
    --data.
    """
    from vaert.package import CODEC, DIGITS, RESTORER, UPSCALER, find_package

    qualities, plot = given["qualities"], given["plot"]
    package = find_package(model)
    opened = _Opened(package, EngineOptions(given["backend"], verbose=given["verbose"]))
    manifest = package.manifest
    report: Evaluation | DigitEvaluation | RestorerEvaluation | UpscalerEvaluation
    if manifest.kind == CODEC:
        folder = _wanted(model, manifest.kind, wanted=("--images", images), others={"--data": data})
        report = _photos(opened, folder, qualities=qualities, plot=plot)
    elif manifest.kind == DIGITS:
        others = {"--images": images, "--qualities": qualities}
        folder = _wanted(model, manifest.kind, wanted=("--data", data), others=others)
        report = _digits(opened, folder, plot=plot)
    elif manifest.kind == UPSCALER:
        others = {"--data": data, "--qualities": qualities, "--plot": plot}
        folder = _wanted(model, manifest.kind, wanted=("--images", images), others=others)
        report = _upscaled(opened, folder)
    elif manifest.kind == RESTORER:
        others = {"--data": data, "--qualities": qualities, "--plot": plot}
        report = _restored(opened, _wanted(model, manifest.kind, wanted=("--images", images), others=others))
    else:
        kinds = f"{CODEC}, {DIGITS}, {RESTORER} or {UPSCALER}"
        raise ModelError(f"model {model} is of kind {manifest.kind}, expected {kinds}: nothing measures it")
    if given["as_json"]:
        show_json(report.to_dict())
    else:
        for line in report.lines():
            say(line)


def _wanted(model: str, kind: str, *, wanted: tuple[str, Path | None], others: Mapping[str, object]) -> Path:
    """The folder that this kind of model is measured on; OptionError if it or any of `others` was given wrongly."""
    option, folder = wanted
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise OptionError(f"{' and '.join(given)} cannot be used with {model}, a model of kind {kind}: give {option}")
    if folder is None:
        raise OptionError(f"model {model} is of kind {kind}, expected {option} DIR to measure it on")
    return folder


def _photos(model: _Opened, images: Path, *, qualities: tuple[float, ...] | None, plot: Path | None) -> "Evaluation":
    modules = ("PIL", "scipy", "matplotlib") if plot else ("PIL", "scipy")
    with needs_extra("vaert evaluate", extra="eval", modules=modules), progress_bar("images") as progress:
        from vaert.evaluate import evaluate as run
        from vaert.runtime.codec import Codec

        return run(
            Codec(model.package, backend=model.backend()), images, qualities=qualities, plot=plot, progress=progress
        )


def _digits(model: _Opened, data: Path, *, plot: Path | None) -> "DigitEvaluation":
    modules = ("matplotlib",) if plot else ()
    with needs_extra("vaert evaluate --plot", extra="eval", modules=modules), progress_bar("digits") as progress:
        from vaert.evaluate_digits import evaluate_digits
        from vaert.runtime.digit_vae import DigitVAE

        return evaluate_digits(DigitVAE(model.package, backend=model.backend()), data, plot=plot, progress=progress)


def _upscaled(model: _Opened, images: Path) -> "UpscalerEvaluation":
    with progress_bar("pictures") as progress:
        from vaert.evaluate_upscaler import evaluate_upscaler
        from vaert.runtime.upscaler import Upscaler

        return evaluate_upscaler(Upscaler(model.package, backend=model.backend()), images, progress=progress)


def _restored(model: _Opened, images: Path) -> "RestorerEvaluation":
    with needs_extra("vaert evaluate", extra="eval", modules=("PIL",)), progress_bar("pictures") as progress:
        from vaert.evaluate_restorer import evaluate_restorer
        from vaert.runtime.restorer import Restorer

        return evaluate_restorer(Restorer(model.package, backend=model.backend()), images, progress=progress)
