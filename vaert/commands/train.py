"""`vaert train`: a thin door to `vaert.trainer`."""

from pathlib import Path
from typing import Any

import click

from vaert.commands.extras import needs_extra
from vaert.commands.options import FiniteRange, at_most_one

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group()
def train() -> None:
    """Train a model (needs `pip install 'vaert[train]'`)."""


@train.command()
@click.option("--profile", type=click.Choice(["fast", "base", "hq"]), required=True, help="Size of the networks.")
@click.option("--data", type=_FOLDER, multiple=True, required=True, help="Folder of training photos; may be repeated.")
@click.option("--out", type=_FOLDER, required=True, help="Folder for checkpoints and logs.")
@click.option("--steps", type=click.IntRange(min=1), help="Train for this many steps.")
@click.option("--minutes", type=FiniteRange(0, min_open=True), help="Train for this long instead.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in OUT.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of every random draw.")
@click.option("--batch", type=click.IntRange(min=1), help="Crops per step.  [default: the schedule's]")
def codec(**options: Any) -> None:
    """Train the photo codec: one network for every quality.

    At most one of --steps and --minutes.
    """
    at_most_one({f"--{name}": options[name] for name in ("steps", "minutes")})
    with needs_extra("vaert train", extra="train", modules=("torch", "safetensors")):
        from vaert.trainer import cli_entry

        cli_entry(**options)
