"""From a trained model to a package of graphs that every engine runs. Needs `vaert[train]`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vaert.package import Package

__all__ = ["PRECISIONS", "export_model"]

PRECISIONS = ("fp32", "fp16", "int8")
Progress = Callable[[str, int, int], None]
"""Called with what is counted, how many are done and how many there are."""


def export_model(
    source: str | Path,
    out: Path | None = None,
    *,
    precision: str = "fp32",
    calibration: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Package:
    """Export a checkpoint file, a bundled model's name or a package folder to a package.

    Args:
        source: what is exported; a package must be one that carries its weights, so fp32.
        out: the new folder, `./<model>-<precision>` if None.
        precision: "fp32", "fp16" or "int8".
        calibration: folder of pictures like those of training (MNIST files for models of digits) to record activations
            from; those that travel with the package if None.
        force: replace an existing package.
        progress: called while layers and pictures are worked through.

    Raises:
        ModelError: the source cannot be exported, a bound or the verification fails, or activations are missing.
        DataError: no pictures in `calibration`. OutputError. OptionError: no such precision.
    """
    from vaert.export.pipeline import Order, run

    return run(Order(str(source), precision, calibration), out, force=force, progress=progress)
