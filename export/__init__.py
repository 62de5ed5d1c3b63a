"""From a trained model to a package of graphs that every engine runs. Needs `vaert[train]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vaert.errors import ModelError
from vaert.package import MANIFEST, Package, find_package

__all__ = ["export_model"]

PRECISIONS = ("fp32",)


def export_model(
    source: str | Path, out: Path | None = None, *, precision: str = "fp32", force: bool = False
) -> Package:
    """Export a checkpoint file, a bundled model's name or a package folder to a package.

    out: the new folder, `./<model>-<precision>` if None. Raises ModelError (source, bound, verification), OutputError.
    """
    from vaert.export.registry import from_checkpoint, from_package
    from vaert.export.writer import write_package

    if precision not in PRECISIONS:
        raise ModelError(f"precision {precision!r} cannot be exported yet; there is {', '.join(PRECISIONS)}")
    path = Path(source)
    if path.is_dir() and not (path / MANIFEST).is_file() and (path / "checkpoint.pt").is_file():
        path = path / "checkpoint.pt"
    if path.is_file():
        model, rates = from_checkpoint(path), dict[str, Any]()
    else:
        package = find_package(str(source))
        model, rates = from_package(package), dict(package.manifest.rates)
    return write_package(
        model, out or Path(f"{model.profile}-{precision}"), precision=precision, rates=rates, force=force
    )
