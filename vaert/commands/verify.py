"""`vaert verify`: is a package whole, exact, and as good as its fp32 reference?"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaert.commands.options import EngineOptions, engine_options, qualities_option
from vaert.commands.pictures import read_grey
from vaert.commands.progress import progress_bar
from vaert.commands.report import show_json
from vaert.errors import ModelError

if TYPE_CHECKING:  # numpy loads on first use
    import numpy as np
    from numpy.typing import NDArray

    from vaert.package import Package

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("source", metavar="PACKAGE")
@click.option("--images", type=_FOLDER, help="Folder of pictures to compare on.  [default: made pictures]")
@click.option("--against", metavar="NAME|DIR", help="The fp32 package.  [default: the bundled one of this model]")
@qualities_option
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def verify(
    source: str,
    images: Path | None,
    against: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Verify the model PACKAGE, a bundled name or a folder: checksums, exactness, and parity with fp32 on the CPU.

    Exit code 1 if a file is damaged, a known answer is wrong or an output is out of tolerance: for fp32 1 level, for
    fp16 0.02 dB and 0.1 % of rate; for int8 it only tells broken from rounded, 1.5 dB and 15 % of rate.
    """
    from vaert.package import find_package

    package = find_package(source)
    reference = None if against is None else find_package(against)
    pictures = () if images is None else _read(images, package)
    from vaert.runtime.verify import check_files
    from vaert.runtime.verify import verify as run

    engine = EngineOptions(given["backend"], given["threads"], given["verbose"])
    # An engine is not asked to run what is damaged: the report says which file.
    backend = "cpu" if check_files(package)[0] else engine.open(package)
    with progress_bar("pictures") as progress:
        found = run(
            package,
            backend=backend,
            against=reference,
            images=pictures,
            qualities=given["qualities"],
            progress=progress,
        )
    if as_json:
        show_json(found.to_dict())
    else:
        for line in found.lines():
            click.echo(line)
    if faults := found.faults():
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ModelError(f"{source} does not pass: {faults[0]}{more}")


def _read(folder: Path, package: "Package") -> "list[NDArray[np.uint8]]":
    """The pictures in a folder, RGB, or grey for models of digits. DataError, ImageError."""
    from vaert.evaluate import find_images, read_rgb
    from vaert.package import DIGITS, LOSSLESS_DIGITS

    paths = find_images(folder)
    if package.manifest.kind in (DIGITS, LOSSLESS_DIGITS):
        return [read_grey(str(path), what="a digit") for path in paths]
    return [read_rgb(path) for path in paths]
