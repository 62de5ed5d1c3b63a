"""`vaert train`: a thin door to `vaert.trainer`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from vaert.commands.extras import needs_extra
from vaert.commands.options import FiniteRange, at_most_one

_FOLDER = click.Path(file_okay=False, path_type=Path)
_Command = TypeVar("_Command", bound=Callable[..., object])


@click.group()
def train() -> None:
    """Train a model (needs `pip install 'vaert[train]'`)."""


def _run_options(command: _Command) -> _Command:
    """Add the options of every kind of model."""
    for decorate in (
        click.option("--bf16", is_flag=True, help="Use bfloat16, for CPUs that are faster with it (GPUs always do)."),
        click.option("--batch", type=click.IntRange(min=1), help="Pictures per step.  [default: the schedule's]"),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of every random draw."),
        click.option("--resume", is_flag=True, help="Go on from the last checkpoint in OUT."),
        click.option("--minutes", type=FiniteRange(0, min_open=True), help="Train for this long instead."),
        click.option("--steps", type=click.IntRange(min=1), help="Train for this many steps."),
        click.option("--out", type=_FOLDER, required=True, help="Folder for checkpoints and logs."),
    ):
        command = decorate(command)
    return command


def _photo_options(command: _Command) -> _Command:
    """Add the options of the models of photos."""
    return click.option(
        "--data", type=_FOLDER, multiple=True, required=True, help="Folder of training photos; may be repeated."
    )(_run_options(command))


def _digit_options(command: _Command) -> _Command:
    """Add the options of the models of digits."""
    command = click.option("--epochs", type=click.IntRange(min=1), help="Passes over the digits, instead of --steps.")(
        _run_options(command)
    )
    return click.option("--data", type=_FOLDER, required=True, help="Folder with the IDX files of MNIST.")(command)


_LIKELIHOOD = click.option(
    "--likelihood",
    type=click.Choice(["bernoulli", "gaussian"]),
    default="bernoulli",
    show_default=True,
    help="Of a pixel: bernoulli on binarised digits, gaussian (squared error) on grey values.",
)


@train.command()
@click.option("--profile", type=click.Choice(["fast", "base", "hq"]), required=True, help="Size of the networks.")
@_photo_options
def codec(**options: Any) -> None:
    """Train the photo codec: one network for every quality.

    At most one of --steps and --minutes.
    """
    _train("codec", **options)


@train.command("mnist-mlp")
@click.option(
    "--latent", type=click.Choice(["2", "20", "50"]), default="2", show_default=True, help="Number of latents."
)
@_LIKELIHOOD
@_digit_options
def mnist_mlp(latent: str, likelihood: str, data: Path, **options: Any) -> None:
    """Train the fully connected VAE of digits (784-400-latents).

    At most one of --epochs, --steps and --minutes.
    """
    model = {"latents": int(latent), "likelihood": likelihood}
    _train("mnist-mlp", profile="mnist-mlp", data=(data,), model=model, **options)


@train.command("mnist-conv")
@_LIKELIHOOD
@_digit_options
def mnist_conv(likelihood: str, data: Path, **options: Any) -> None:
    """Train the convolutional VAE of digits.

    At most one of --epochs, --steps and --minutes.
    """
    _train("mnist-conv", profile="mnist-conv", data=(data,), model={"likelihood": likelihood}, **options)


@train.command("mnist-lossless")
@click.option("--binary", is_flag=True, help="For black and white digits: grey values are probabilities of white.")
@_digit_options
def mnist_lossless(binary: bool, data: Path, **options: Any) -> None:
    """Train the model of digits for lossless (bits-back) coding.

    At most one of --epochs, --steps and --minutes.
    """
    _train("mnist-lossless", profile="mnist-lossless-binary" if binary else "mnist-lossless", data=(data,), **options)


@train.command()
@click.option("--scale", type=click.Choice(["2", "4"]), required=True, help="How many times larger.")
@_photo_options
def upscale(scale: str, **options: Any) -> None:
    """Train an upscaler of photos.

    At most one of --steps and --minutes.
    """
    _train(f"upscale-x{scale}", profile=f"upscale-x{scale}", **options)


@train.command()
@_photo_options
def restore(**options: Any) -> None:
    """Train the restorer of photos: compression damage and holes.

    At most one of --steps and --minutes.
    """
    _train("restore", profile="restore", **options)


def _train(kind: str, **options: Any) -> None:
    at_most_one({f"--{name}": options.get(name) for name in ("epochs", "steps", "minutes")})
    with needs_extra("vaert train", extra="train", modules=("torch", "safetensors")):
        from vaert.trainer import cli_entry

        cli_entry(kind=kind, **options)
