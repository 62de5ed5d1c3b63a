"""`vaert export`: a thin door to `vaert.export`."""

from pathlib import Path

import click

from vaert.commands.extras import needs_extra


@click.command()
@click.argument("source", metavar="MODEL|CHECKPOINT")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the package that is made.")
@click.option("--force", "-f", is_flag=True, help="Replace an existing package.")
def export(source: str, out: Path | None, force: bool) -> None:
    """Export a checkpoint or a bundled MODEL to a package of ONNX graphs (needs `pip install 'vaert[train]'`)."""
    with needs_extra("vaert export", extra="train", modules=("torch", "onnx", "onnxscript", "safetensors")):
        from vaert.export import export_model

        export_model(source, out, force=force)
